"""A model of this node's chain as a Hugging Face directory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from blyan.chain.state import ModelVersion
from blyan.model.hf_card import front_matter
from blyan.model.hf_export import export_directory
from blyan.model.manifest import parse_extras
from blyan.model.tokenizer import decode_payload
from blyan.model.weights import ModelWeights
from blyan.node.catalogue import manifest_of, no_such_model
from blyan.node.data_directory import Ground
from blyan.primitives import limits


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    version: ModelVersion
    length: int  # bytes of weights
    dequantized: bool  # the weights are what quantised ones stand for, not those of the checkpoint
    rounded: str | None  # the type that every weight was rounded to at import, if one was asked for


def export_model(ground: Ground, name: str, folder: Path, progress: Callable[[int, int], None]) -> Exported:
    """Write the newest version of a model to `folder`, every block verified; `NotFound` if there is no such model."""
    version = ground.chains.state.current(name)
    if version is None:
        raise no_such_model(name, ground.chains.state.models)
    manifest = manifest_of(ground, version)
    weights = ModelWeights(manifest, ground.store)
    tokenizer = None
    if manifest.tokenizer is not None:
        raw = ground.store.read(manifest.tokenizer.payload, bytes_max=limits.tokenizer_payload_bytes_max)
        tokenizer = decode_payload(raw)
    length = export_directory(
        folder,
        manifest.config,
        manifest.dtype,
        manifest.generation,
        parse_extras(manifest.generation_extras),
        tokenizer,
        front_matter(manifest.license, manifest.license_link) if manifest.license else "",
        lambda part: weights.dense_part(part.name),
        progress,
    )
    scheme = None if manifest.quantization is None else manifest.quantization.scheme
    rounded = scheme if scheme == "bf16" else None
    return Exported(version, length, dequantized=scheme is not None and rounded is None, rounded=rounded)
