"""Blocks to tensors without copying: a model's weights as views into verified mappings.

Every use goes through `BlobStore.open`, which costs one `stat` once a block is verified: a file that changed since is
hashed again before its bytes are computed with. Trunk blocks and experts are the same here; who calls when differs.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence

from torch import Tensor

from blyan.model.expert_memory import ExpertMemory
from blyan.model.experts import ExpertCall, swiglu
from blyan.model.manifest import Manifest
from blyan.model.parts import Part, expert_part, parts_of
from blyan.model.stored_part import naming, want_layout
from blyan.model.stored_tensors import dense_tensors
from blyan.model.tiered_experts import TieredExperts
from blyan.primitives.errors import BlockCorrupt, NotFound
from blyan.storage import tensor_block
from blyan.storage.blob_check import BlobWatch
from blyan.storage.blob_store import BlobStore, VerifiedBlob


class ModelWeights:
    """The weights of one manifest, opened block by block when first used. Implements `transformer.TrunkWeights`.

    Experts are mapped like everything else, unless `memory` limits what they may take together.
    """

    def __init__(self, manifest: Manifest, store: BlobStore, memory: ExpertMemory | None = None) -> None:
        self._manifest = manifest
        self._store = store
        self._parts: dict[str, Part] = {part.name: part for part in parts_of(manifest.config)}
        self._views: dict[str, tuple[VerifiedBlob, dict[str, Tensor]]] = {}
        self._tiered = TieredExperts(manifest, store, memory) if memory is not None else None

    @property
    def tiered(self) -> TieredExperts | None:
        """The experts in tiers, if their memory is limited and not all of them fit."""
        return self._tiered if self._tiered is not None and not self._tiered.all_resident else None

    @property
    def experts_all_resident(self) -> bool:
        """Whether every expert may be mapped at once: what computes without `answer` asks before it does."""
        return self.tiered is None

    def answer(self, call: ExpertCall) -> Tensor:
        """What the called expert gives [n, hidden], from wherever its bytes are; faults as `part`'s."""
        [output] = self.answer_together([call])
        return output

    def answer_together(self, calls: Sequence[ExpertCall]) -> list[Tensor]:
        """What the one expert that all these calls are for gives for each by itself, its bytes read once."""
        tiered = self.tiered
        if tiered is not None:
            return tiered.answer(calls)
        tensors = self.expert(calls[0].layer, calls[0].expert)
        return [swiglu(tensors, "", call.hidden) for call in calls]

    def watch(self, name: str) -> BlobWatch:
        """A cheap look at whether the block of a part is still what it is now; faults as `part`'s."""
        watch = self._store.watch(self._manifest.parts[name].payload)
        self.part(name)  # hashed after the look, so that a change in between is seen as one
        return watch

    def verify(self, name: str) -> None:
        """Make sure that one part is whole; an expert in tiers is hashed without being mapped. Faults as `part`'s."""
        tiered = self.tiered
        if tiered is not None and self._parts[name].expert is not None:
            tiered.verify(name)
        else:
            self.part(name)

    def cool(self) -> None:
        """Give back the memory that blocks and experts take; the next use takes it again. Nothing is computed now.

        Mappings stay, and so does what is known of them; the kernel reads their pages again as they are touched.
        """
        if self._tiered is not None:
            self._tiered.cool()
        for blob, _ in list(self._views.values()):
            blob.mapping.madvise(mmap.MADV_DONTNEED)

    def embed(self) -> Tensor:
        """Token embeddings [vocab, hidden]."""
        return self.part("embed")["embed_tokens.weight"]

    def layer(self, layer: int) -> Mapping[str, Tensor]:
        """The trunk's tensors of one layer."""
        return self.part(f"layer.{layer}")

    def head(self) -> Mapping[str, Tensor]:
        """Final norm, and the output matrix unless it is tied."""
        return self.part("head")

    def expert(self, layer: int, expert: int) -> Mapping[str, Tensor]:
        """`gate_proj.weight`, `up_proj.weight` and `down_proj.weight` of one routed expert."""
        return self.part(expert_part(layer, expert))

    def part(self, name: str) -> Mapping[str, Tensor]:
        """Verified views of one part. `BlockCorrupt` and `NotFound` name the part as well as the file."""
        reference = self._manifest.parts[name]
        try:
            blob = self._store.open(reference.payload)
        except (BlockCorrupt, NotFound) as fault:
            part = self._parts[name]
            raise naming(self._manifest.name, name, fault, layer=part.layer, expert=part.expert) from fault
        held = self._views.get(name)
        if held is not None and held[0] is blob:
            return held[1]
        tensors = self._views_of(self._parts[name], blob)
        self._views[name] = (blob, tensors)
        return tensors

    def dense_part(self, name: str) -> dict[str, Tensor]:
        """The tensors of one part as they would be without quantisation, in the model's dtype."""
        return dense_tensors(self._parts[name], self.part(name), tensor_block.dtypes[self._manifest.dtype])

    def _views_of(self, part: Part, blob: VerifiedBlob) -> dict[str, Tensor]:
        places = tensor_block.parse_layout(memoryview(blob.mapping), len(blob.mapping))
        want_layout(self._manifest, part, blob.payload, places)
        return tensor_block.views(places, memoryview(blob.mapping))
