"""The experts of one model whose memory is limited: hot, warm or streamed, and the same answer from each."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from blyan.model.expert_memory import ExpertMemory, WarmExpert
from blyan.model.expert_rows import ExpertLayout, ResidentExpert
from blyan.model.expert_tiers import Tier
from blyan.model.experts import ExpertCall
from blyan.model.manifest import Manifest
from blyan.model.parts import Part, expert_part, parts_of
from blyan.model.stored_part import naming, want_layout
from blyan.primitives import limits
from blyan.primitives.errors import BlockCorrupt, NotFound
from blyan.primitives.ids import PayloadId
from blyan.storage import tensor_block
from blyan.storage.blob_reader import BlobReader
from blyan.storage.blob_store import BlobStore
from blyan.storage.tensor_block import TensorPlace


class TieredExperts:
    """Answers expert calls within the budget of `memory`. Threads may share it; streams run one at a time."""

    def __init__(self, manifest: Manifest, store: BlobStore, memory: ExpertMemory) -> None:
        self._manifest = manifest
        self._store = store
        self._memory = memory
        self._parts: dict[str, Part] = {
            part.name: part for part in parts_of(manifest.config) if part.expert is not None
        }
        self._layouts: dict[PayloadId, ExpertLayout] = {}  # from verified headers, so they never change
        self._alike: dict[tuple[TensorPlace, ...], ExpertLayout] = {}
        blocks = [manifest.parts[name] for name in self._parts]
        memory.register(self, {block.payload: block.length for block in blocks})

    @property
    def all_resident(self) -> bool:
        """Whether the budget holds all experts of all models, so that they may as well all be mapped."""
        return self._memory.everything_fits

    def cool(self) -> None:
        """Keep nothing in memory. No call is under way."""
        for name in self._parts:
            self._memory.forget(self._manifest.parts[name].payload)

    def tier(self, name: str) -> Tier:
        """Where the expert that is part `name` is now."""
        return self._memory.tier(self._manifest.parts[name].payload)

    def answer(self, calls: Sequence[ExpertCall]) -> list[Tensor]:
        """What one expert gives for the hidden [n, hidden] of each call by itself, read once for all of them.

        They count as one call. `BlockCorrupt` names part, file and subtile.
        """
        layer, expert = calls[0].layer, calls[0].expert
        name = expert_part(layer, expert)
        block = self._manifest.parts[name]
        try:
            with self._memory.using(block.payload, block.length) as placement:
                held = self._memory.hot(block.payload) if placement.now == "hot" else None
                if held is None and placement.now == "warm":
                    held = self._mapped(name, block.payload)
                batches = [call.hidden for call in calls]
                if held is None:
                    return self._read(name, block.payload, batches, hot=placement.now == "hot")
                return [held.answer(hidden) for hidden in batches]
        except (BlockCorrupt, NotFound) as fault:
            self._memory.forget(block.payload)
            raise naming(self._manifest.name, name, fault, layer=layer, expert=expert) from fault

    def verify(self, name: str) -> None:
        """Hash one expert in a bounded memory, unless it is known to be whole; faults as `answer`'s."""
        payload = self._manifest.parts[name].payload
        if self._store.state(payload)[0] == "verified":
            return
        piece = memoryview(bytearray(limits.tile_bytes))
        part = self._parts[name]
        try:
            with self._store.reading(payload) as reader:
                for begin in range(0, reader.length, len(piece)):
                    length = min(len(piece), reader.length - begin)
                    reader.read(piece[:length], begin // limits.subtile_bytes)
                    reader.let_go(begin, length)
        except (BlockCorrupt, NotFound) as fault:
            raise naming(self._manifest.name, name, fault, layer=part.layer, expert=part.expert) from fault

    def _read(self, name: str, payload: PayloadId, batches: Sequence[Tensor], *, hot: bool) -> list[Tensor]:
        """Compute with an expert that is not in memory: read it to stay, or stream it."""
        with self._store.reading(payload) as reader:
            layout = self._layout_of(name, payload, reader)
            if not hot:
                with self._memory.ring.stream(reader, layout.groups, keep_cached=False) as blocks:
                    return layout.answer_streamed(blocks, batches)

            def views(memory: memoryview) -> ResidentExpert:
                return ResidentExpert(layout, tensor_block.views(layout.all_places, memory))

            held = self._memory.load(payload, reader, views)
        return [held.answer(hidden) for hidden in batches]

    def _layout_of(self, name: str, payload: PayloadId, reader: BlobReader) -> ExpertLayout:
        """Where the matrices lie, from the verified header; experts that are laid out alike share one value."""
        known = self._layouts.get(payload)
        if known is not None:
            return known
        header_max = 8 + limits.tensor_header_bytes_max
        head = memoryview(bytearray(min(reader.length, -(-header_max // limits.subtile_bytes) * limits.subtile_bytes)))
        first = head[: limits.subtile_bytes]
        reader.read(first, 0)
        if 8 + int.from_bytes(first[:8], "little") > len(first):
            reader.read(head, 0)  # a long header; whether too long is for the parser to say
            first = head
        return self._checked(name, payload, tensor_block.parse_layout(first, reader.length))

    def _checked(self, name: str, payload: PayloadId, places: Sequence[TensorPlace]) -> ExpertLayout:
        want_layout(self._manifest, self._parts[name], payload, places)
        key = tuple(places)
        layout = self._alike.setdefault(key, ExpertLayout(key))
        self._layouts[payload] = layout
        return layout

    def _mapped(self, name: str, payload: PayloadId) -> ResidentExpert:
        """A warm expert: views into its verified mapping, hashed (again) if its file is not the one that was."""
        held = self._memory.warm(payload, self._store)
        if held is not None:
            return held
        blob = self._store.open(payload)
        places = tensor_block.parse_layout(memoryview(blob.mapping), len(blob.mapping))
        layout = self._checked(name, payload, places)
        held = ResidentExpert(layout, tensor_block.views(layout.all_places, memoryview(blob.mapping)))
        self._memory.keep_warm(payload, WarmExpert(self._store, blob, held))
        return held
