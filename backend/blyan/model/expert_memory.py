"""The memory that the experts of all models share: what is hot in it, what is warm, and what that costs and saves.

`ExpertTiers` decides, `TieredExperts` computes; this holds the bytes, one ring of buffers for streams, and the counts.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakKeyDictionary

from blyan.model.expert_rows import ResidentExpert
from blyan.model.expert_tiers import ExpertTiers, Placement, Tier, tiers
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import Unavailable
from blyan.primitives.ids import PayloadId
from blyan.storage.blob_memory import VerifiedBlob
from blyan.storage.blob_reader import BlobReader
from blyan.storage.blob_store import BlobStore
from blyan.storage.row_stream import Ring

_uses_each: Final = 16  # a half-life is so many uses of every expert there is
_half_life_min: Final = 1_024


def _none() -> dict[Tier, int]:
    return dict.fromkeys(tiers, 0)


@dataclass(frozen=True, slots=True)
class ExpertUsage:
    """How the budget was used since the start, and is now."""

    budget: int  # bytes
    hot_bytes: int
    hot_experts: int
    warm_bytes: int
    warm_experts: int
    buffer_bytes: int  # of the stream, beside the budget
    bytes_read: int  # verified as they came, from disk or page cache, for streams and to become hot
    wait_seconds: float  # in which calls had nothing to compute with
    calls: Mapping[Tier, int]  # by where the call found its expert
    left: Mapping[Tier, int]  # times that an expert left a tier for a colder one
    expected: Mapping[Tier, float]  # rows a second that are expected of the experts in each, 0 where nothing is known


@dataclass(eq=False, slots=True)
class _Hot:
    """An expert's own memory; None while it is being read."""

    resident: ResidentExpert | None = None
    loading: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True)
class WarmExpert:
    """Views into a verified mapping, and the store that lets it go."""

    store: BlobStore
    blob: VerifiedBlob
    resident: ResidentExpert


class ExpertMemory:
    """The budget of one node. Threads may share it; a call's expert does not leave its tier while the call runs."""

    def __init__(self, budget: int, monotonic: Monotonic) -> None:
        self.budget = budget
        self.ring = Ring(monotonic)
        self._tiers = ExpertTiers(budget, budget, _half_life_min)
        self._lock = threading.Lock()  # guards everything below, and `_tiers`
        self._hot: dict[PayloadId, _Hot] = {}
        self._warm: dict[PayloadId, WarmExpert] = {}  # those of the warm tier that were mapped by now
        self._busy: dict[PayloadId, int] = {}  # calls under way
        self._calls, self._left = _none(), _none()
        self._expected: Mapping[PayloadId, float] = {}
        self._owners: WeakKeyDictionary[object, Mapping[PayloadId, int]] = WeakKeyDictionary()
        # of all owners that there were when these were made
        self._owned: set[PayloadId] = set()
        self._owned_bytes = self._owners_then = 0

    def register(self, owner: object, sizes: Mapping[PayloadId, int]) -> None:
        """The experts of a model that may be called, for as long as `owner` lives."""
        with self._lock:
            self._owners[owner] = sizes
            self._take_stock()

    def expect(self, rows: Mapping[PayloadId, float]) -> None:
        """Rows a second that each expert here is expected to be asked for: the most used come into memory first."""
        total = sum(rows.values())
        with self._lock:
            self._expected = dict(rows)
            self._tiers.expect({payload: each / total for payload, each in rows.items()} if total else {})

    @property
    def everything_fits(self) -> bool:
        """Whether all experts of all models together are within the budget: then none of this is needed."""
        with self._lock:
            if len(self._owners) != self._owners_then:
                self._take_stock()
            return self._owned_bytes <= self.budget

    @contextmanager
    def using(self, payload: PayloadId, size: int) -> Generator[Placement, None, None]:
        """Count a call of an expert, place it, and keep it where it is until the call ends."""
        with self._lock:
            placement = self._tiers.use(payload, size, self._busy)
            self._calls[placement.before] += 1
            self._busy[payload] = self._busy.get(payload, 0) + 1
            self._clear(placement)
            if placement.now == "hot":
                self._hot.setdefault(payload, _Hot())
        try:
            yield placement
        finally:
            with self._lock:
                self._busy[payload] -= 1
                if not self._busy[payload]:
                    del self._busy[payload]

    def hot(self, payload: PayloadId) -> ResidentExpert | None:
        """A hot expert that is in memory already."""
        with self._lock:
            held = self._hot.get(payload)
        return None if held is None else held.resident

    def load(
        self, payload: PayloadId, reader: BlobReader, views: Callable[[memoryview], ResidentExpert]
    ) -> ResidentExpert:
        """A hot expert, read into memory of our own unless somebody else did while we waited.

        `Unavailable` if the system has no memory for it, faults of the block as `BlobReader.read`'s.
        """
        with self._lock:
            held = self._hot.get(payload) or _Hot()  # it may have been found damaged meanwhile
        with held.loading:  # who comes meanwhile waits instead of reading it again
            if held.resident is None:
                memory = _memory_of(reader.length)
                self.ring.load(reader, memory, keep_cached=False)
                held.resident = views(memory)
            return held.resident

    def warm(self, payload: PayloadId, store: BlobStore) -> ResidentExpert | None:
        """A warm expert as it was mapped, if the mapping is still that of its file: else `keep_warm` a new one."""
        with self._lock:
            warm = self._warm.get(payload)
        return warm.resident if warm is not None and warm.blob is store.open(payload) else None

    def keep_warm(self, payload: PayloadId, warm: WarmExpert) -> None:
        """Keep the views of a warm expert until it leaves its tier."""
        with self._lock:
            if self._tiers.tier(payload) == "warm":
                self._warm[payload] = warm

    def forget(self, payload: PayloadId) -> None:
        """An expert turned out damaged or gone, or its model is let go: keep nothing of it."""
        with self._lock:
            self._drop(payload)

    def tier(self, payload: PayloadId) -> Tier:
        """Where an expert is now."""
        with self._lock:
            return self._tiers.tier(payload)

    def usage(self) -> ExpertUsage:
        """The counts, now."""
        with self._lock:
            hot, warm = self._tiers.bytes_in("hot"), self._tiers.bytes_in("warm")
            counts = self._tiers.count_in("hot"), self._tiers.count_in("warm")
            calls, left = dict(self._calls), dict(self._left)
            expected = dict.fromkeys(tiers, 0.0)
            for payload, rows in self._expected.items():
                expected[self._tiers.tier(payload)] += rows
        ring = self.ring
        return ExpertUsage(
            self.budget,
            hot,
            counts[0],
            warm,
            counts[1],
            ring.buffer_bytes,
            ring.bytes_read,
            ring.wait_seconds,
            calls,
            left,
            expected,
        )

    def close(self) -> None:
        """End the reading thread; no call may be under way."""
        self.ring.close()

    def _clear(self, placement: Placement) -> None:
        """Let go of what left its tier, before what takes its place is read: the budget holds at every moment."""
        for payload in placement.cooled:
            self._hot.pop(payload, None)
        for payload in placement.unmapped:
            self._unmap(payload)
        self._left["hot"] += len(placement.cooled)
        if placement.now == "warm":  # else it is the called one, which left for a warmer tier
            self._left["warm"] += len(placement.unmapped)

    def _unmap(self, payload: PayloadId) -> None:
        warm = self._warm.pop(payload, None)
        if warm is not None:
            warm.store.unmap(payload)

    def _take_stock(self) -> None:
        """Count anew which experts there are, and drop those of models that are gone."""
        owned: dict[PayloadId, int] = {}
        for sizes in list(self._owners.values()):
            owned.update(sizes)
        for payload in self._owned - owned.keys() - self._busy.keys():
            self._drop(payload)
        self._owned, self._owned_bytes, self._owners_then = set(owned), sum(owned.values()), len(self._owners)
        self._tiers.set_half_life(max(_half_life_min, _uses_each * len(owned)))

    def _drop(self, payload: PayloadId) -> None:
        self._tiers.forget(payload)
        self._hot.pop(payload, None)
        self._unmap(payload)


def _memory_of(length: int) -> memoryview:
    try:
        return memoryview(mmap.mmap(-1, length))
    except OSError as reason:
        raise Unavailable(
            f"expert: expected {length} bytes of memory, found: {reason.strerror}",
            hint="lower inference.expert_memory, or run less beside",
        ) from None
