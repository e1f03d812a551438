"""From bytes that came to verified subtiles on disk: hashed, written and synced in threads, never in the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

from blyan.network.items import Flight, Item
from blyan.primitives import limits
from blyan.primitives.errors import IntegrityFault, NotFound
from blyan.primitives.ids import PayloadId
from blyan.storage.blob_store import BlobStore
from blyan.storage.partial import BeingFetched, PartialBlob

_slow_threads: Final = 4  # that begin, sync and finish
Result = TypeVar("Result")


class Tank:
    """What came of a flight and has not been dealt with yet: a buffer of at most a tile."""

    def __init__(self, flight: Flight, buffer: bytearray) -> None:
        self.flight = flight
        self.first = flight.first  # subtile with which the buffer begins
        self._filled = 0  # bytes
        self._buffer = memoryview(buffer)

    @property
    def end(self) -> int:
        """The subtile before which a full buffer ends."""
        return min(self.first + limits.subtiles_per_tile, self.flight.end)

    @property
    def room(self) -> memoryview:
        """Where the next bytes of the answer go."""
        return self._buffer[self._filled : self.flight.item.bytes_of(self.first, self.end)]

    def whole(self) -> tuple[int, memoryview]:
        """The subtile before which ends what came wholly, and its bytes."""
        item, end = self.flight.item, self.first
        while end < self.end and item.bytes_of(self.first, end + 1) <= self._filled:
            end += 1
        return end, self._buffer[: item.bytes_of(self.first, end) if end > self.first else 0]

    def told(self, count: int) -> None:
        """So many bytes came."""
        self._filled += count
        self.flight.got += count

    def empty(self) -> None:
        """What came is dealt with: the buffer goes on with the next tile."""
        self.first, self._filled = self.end, 0


@dataclass(slots=True, eq=False)
class _Coming:
    """A payload on its way into the store."""

    blob: PartialBlob | None  # None for one of a single subtile, which is put at once, and for one that is here
    synced_at: float
    writes: int = 0  # threads that write it now
    unsynced: int = 0  # bytes
    syncing: asyncio.Task[None] | None = None
    finishing: bool = False


class Landings:
    """The payloads of one fetch on their way into the store; `done` is called with each that became a blob.

    Methods are for the event loop, and what they begin belongs to `group`; `close` is for a thread, after all of them.
    """

    def __init__(self, store: BlobStore, group: asyncio.TaskGroup, done: Callable[[Item], None]) -> None:
        self._store = store
        self._group = group
        self._done = done
        self._coming: dict[Item, _Coming] = {}
        self._begun: list[PartialBlob] = []  # by threads, so that none stays open whoever is cancelled
        cores = len(os.sched_getaffinity(0))
        self._writers = ThreadPoolExecutor(min(cores, limits.verify_threads_max), "blyan-fetch")
        self._slow = ThreadPoolExecutor(_slow_threads, "blyan-fetch-slow")

    async def slowly(self, work: Callable[..., Result], *arguments: object) -> Result:
        """Do what waits for the disk in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._slow, work, *arguments)

    async def begin(self, item: Item, raw: bytes) -> list[int] | None:
        """Begin or resume a payload with the tile index that came; the subtiles that are not here.

        None while somebody else takes it in. `IntegrityFault` if the index is not the payload's, `StorageFull`.
        """

        def begin() -> PartialBlob | None:
            blob = self._store.begin(item.wanted.payload, item.wanted.length, raw)
            self._begun.append(blob)
            if is_missing(self._store, item.wanted.payload, item.wanted.length):
                return blob
            self._begun.remove(blob)  # somebody else was done with it before we began
            blob.abandon()
            return None

        try:
            blob = await self.slowly(begin)
        except BeingFetched:
            return None
        self._coming[item] = _Coming(blob, _now())
        return [] if blob is None else blob.missing()

    async def write(self, item: Item, first: int, view: memoryview, numbers: Sequence[int]) -> tuple[list[int], str]:
        """Verify and write subtiles of a run that begins with `first`: which were right, what is wrong with others."""
        coming = self._coming.setdefault(item, _Coming(None, _now()))
        coming.writes += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._slow if coming.blob is None else self._writers,
                *(self._verify, item, coming.blob, first, view, numbers),
            )
        finally:
            coming.writes -= 1

    def _verify(
        self, item: Item, blob: PartialBlob | None, first: int, view: memoryview, numbers: Sequence[int]
    ) -> tuple[list[int], str]:
        good: list[int] = []
        wrong = ""
        for number in numbers:
            at = (number - first) * limits.subtile_bytes
            try:
                if blob is None:
                    self._store.put([view], expected=item.wanted.payload)
                else:
                    blob.write(number, view[at : at + limits.subtile_bytes])
                good.append(number)
            except IntegrityFault as reason:
                wrong = wrong or reason.message
        return good, wrong

    async def keep_up(self, item: Item, count: int) -> None:
        """So many bytes were written: sync beside what comes, and hold that up if the disk cannot follow."""
        coming = self._coming.get(item)
        if coming is None or coming.blob is None or coming.finishing:
            return
        coming.unsynced += count
        if coming.unsynced >= limits.unsynced_bytes_max:
            if coming.syncing is None:
                self._sync(coming, coming.blob)
            else:
                await asyncio.wait([coming.syncing])

    def _sync(self, coming: _Coming, blob: PartialBlob) -> None:
        async def sync() -> None:
            try:
                await self.slowly(blob.sync)
            finally:
                coming.syncing = None

        coming.unsynced, coming.synced_at = 0, _now()
        coming.syncing = self._group.create_task(sync())

    async def sync_now_and_then(self) -> None:
        """For ever: what comes slowly is durable after some seconds too."""
        while True:
            await asyncio.sleep(limits.unsynced_seconds_max / 5)
            for coming in self._coming.values():
                due = _now() - coming.synced_at >= limits.unsynced_seconds_max
                if due and coming.unsynced and coming.blob and not coming.finishing and coming.syncing is None:
                    self._sync(coming, coming.blob)

    def finish_if_whole(self, item: Item) -> None:
        """Make a blob of a payload that is here wholly, once no thread writes it any more."""
        coming = self._coming.get(item)
        if coming and item.stage == "finishing" and not coming.writes and not coming.finishing:
            coming.finishing = True
            self._group.create_task(self._finish(item, coming))

    async def _finish(self, item: Item, coming: _Coming) -> None:
        if coming.syncing is not None:
            await asyncio.wait([coming.syncing])
        if coming.blob is not None:
            await self.slowly(coming.blob.finish)
            self._begun.remove(coming.blob)
        del self._coming[item]
        self._done(item)

    def close(self) -> None:
        """Keep what came; steps: (1) the last writes end, (2) what was written is durable, (3) files are closed."""
        self._writers.shutdown(cancel_futures=True)
        self._slow.shutdown(cancel_futures=True)
        try:
            for blob in self._begun:
                blob.sync()
        finally:
            for blob in self._begun:
                blob.close()


def is_missing(store: BlobStore, payload: PayloadId, length: int) -> bool:
    """Whether a payload is to be fetched: it is not here, or something is known against it."""
    try:
        return store.size(payload) != length or store.state(payload)[0] == "corrupt"
    except (NotFound, IntegrityFault):
        return True


def _now() -> float:
    return asyncio.get_running_loop().time()
