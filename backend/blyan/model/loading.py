"""A model ready to compute: its manifest, its verified trunk, its tokenizer.

Trunk blocks are verified here; experts when first called. Raises what is wrong with the first block that is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

from blyan.model.expert_memory import ExpertMemory
from blyan.model.manifest import Manifest, read_manifest
from blyan.model.parts import part_position, parts_of
from blyan.model.stored_part import naming
from blyan.model.tokenizer import Tokenizer, parse_payload
from blyan.model.weights import ModelWeights
from blyan.primitives import limits
from blyan.primitives.errors import BlockCorrupt, NotFound
from blyan.primitives.ids import PayloadId
from blyan.storage.blob_store import BlobStore


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Everything a generation needs."""

    manifest_id: PayloadId
    manifest: Manifest
    weights: ModelWeights
    tokenizer: Tokenizer | None

    @property
    def trunk(self) -> dict[str, PayloadId]:
        """The blocks without which no request can be answered, by part: all but the routed experts."""
        return {
            part: block.payload
            for part, block in self.manifest.blocks.items()
            if part == "tokenizer" or part_position(part)[1] is None
        }

    @property
    def name(self) -> str:
        """The name that requests use."""
        return self.manifest.name


def load_model(store: BlobStore, manifest_id: PayloadId, memory: ExpertMemory | None = None) -> LoadedModel:
    """Verify manifest, tokenizer and trunk, and map the trunk's tensors; `memory` is what experts may take."""
    manifest = read_manifest(store, manifest_id)
    weights = ModelWeights(manifest, store, memory)
    for part in parts_of(manifest.config):
        if part.expert is None:
            weights.part(part.name)
    tokenizer = None
    if manifest.tokenizer is not None:
        try:
            raw = store.read(manifest.tokenizer.payload, bytes_max=limits.tokenizer_payload_bytes_max)
        except (BlockCorrupt, NotFound) as fault:
            raise naming(manifest.name, "tokenizer", fault) from fault
        tokenizer = parse_payload(raw, manifest.config.vocab_size)
    return LoadedModel(manifest_id, manifest, weights, tokenizer)
