"""A model made of uploaded files: a checkpoint folder of them, imported as any other, and what its recipe says."""

from __future__ import annotations

from dataclasses import replace

from blyan.model.chat_template import TemplateRenderer
from blyan.model.hf_import import read_checkpoint
from blyan.model.manifest import Manifest
from blyan.node.importing import Imported, Progress, import_checkpoint
from blyan.node.model_changes import changed, want_writer
from blyan.node.quantizing import QuantizationRequest
from blyan.node.uploads import Uploads
from blyan.node.writer import WritableGround
from blyan.primitives.clock import Monotonic
from blyan.primitives.model_name import parse_model_name
from blyan.wire.ollama_create import Recipe


def create_of_files(
    ground: WritableGround,
    uploads: Uploads,
    renderer: TemplateRenderer,
    name: str,
    recipe: Recipe,
    progress: Progress,
    now: Monotonic,
) -> Imported:
    """Import the recipe's files and publish them with what it says; an import that was killed goes on.

    The uploads go once the model is on the chain. `progress` may raise a fault to stop it.
    """
    want_writer(ground)
    name = parse_model_name(name, "model")
    folder = uploads.checkpoint_folder(name, recipe.files)
    checkpoint = read_checkpoint(folder)
    request = None if recipe.scheme is None else QuantizationRequest.of(recipe.scheme, now=now)

    def finish(manifest: Manifest) -> Manifest:
        return changed(ground, renderer, replace(manifest, source="uploaded"), recipe)

    def say(_sentence: str) -> None:
        progress(0, 1)  # between the steps of quantising somebody may want it to stop

    imported = import_checkpoint(ground, checkpoint, name, progress, request, say, finish)
    uploads.used(name, recipe.files)
    return imported
