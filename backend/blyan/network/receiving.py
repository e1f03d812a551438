"""One fetch under way: carries out what `network/pieces` decides, by what `network/ranges` asks.

Connections live in the event loop; hashing, writing and syncing in threads. A source that gives wrong bytes is dropped
for that payload at once and remembered. What came stays, also after a kill: synced every 64 MiB or five seconds.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final, TypeAlias, TypeVar

from blyan.network.landing import Coming, Tank
from blyan.network.pieces import Ask, Flight, Item, PieceTable, Wanted, absent
from blyan.network.ranges import Absent, Failing, Requests, SourceRequests, WithoutRanges, WrongAnswer
from blyan.network.sources import Source, SourceBook
from blyan.primitives import limits
from blyan.primitives.errors import Fault, IntegrityFault
from blyan.primitives.ids import PayloadId
from blyan.storage.blob_store import BlobStore
from blyan.storage.partial import PartialBlob

_slow_threads: Final = 4  # that begin, sync and finish

Progress: TypeAlias = Callable[[PayloadId, int], None]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """How a fetch behaves; 0 bytes a second is without limit."""

    rate: int = 0  # bytes a second of all sources together
    source_rate: int = 0  # of each
    stall_seconds: float = limits.source_stall_seconds  # without a byte, until the piece goes to another source
    piece_seconds_max: float = limits.peer_seconds_max  # for a piece, without what the rates held it up


@dataclass(slots=True)
class SourceReport:
    """What one source did in one fetch, as measured here."""

    url: str
    bytes: int = 0  # verified and kept
    seconds: float = 0.0  # of all its connections together, from asking to the last byte
    failures: int = 0  # answers that did not come, broke off or stalled
    bad: list[PayloadId] = field(default_factory=list[PayloadId])  # of which it gave wrong bytes


class Receiving:
    """One call of `fetching.fetch`; its `table` and `reports` say in the end what came of it."""

    def __init__(
        self,
        store: BlobStore,
        wanted: Sequence[Wanted],
        sources: Sequence[Source],
        book: SourceBook,
        progress: Progress,
        policy: FetchPolicy,
    ) -> None:
        self._store = store
        self._sources = sources
        self._book = book
        self._progress = progress
        self._policy = policy
        self.reports = [SourceReport(source.url) for source in sources]
        against = [book.against(source.url) for source in sources]
        self.table = PieceTable(
            wanted,
            [source.holds for source in sources],
            lambda number, payload: against[number].why_not(payload),
            rate=min((each for each in (policy.rate, policy.source_rate) if each), default=0),
        )
        self._coming: dict[Item, Coming] = {}
        self._room = asyncio.Semaphore(limits.flights_max)
        self._buffers: list[bytearray] = []  # of a tile each, used again: fresh memory costs as much as hashing it
        self._news = asyncio.Event()
        self._finished = asyncio.Event()
        cores = len(os.sched_getaffinity(0))
        self._writers = ThreadPoolExecutor(min(cores, limits.verify_threads_max), "blyan-fetch")
        self._slow = ThreadPoolExecutor(_slow_threads, "blyan-fetch-slow")

    async def run(self) -> None:
        """Fetch what can be had; `StorageFull`, `IntegrityFault` of the own disk, what `progress` raises end it."""
        self._tell()
        connections = min(limits.source_connections_max, max(1, limits.flights_max // (2 * len(self._sources))))
        if self._policy.source_rate:
            connections = 1
        try:
            async with AsyncExitStack() as stack:
                requests = await stack.enter_async_context(
                    Requests(self._policy.rate, self._policy.source_rate, self._policy.stall_seconds)
                )
                self._asked = [requests.to(source) for source in self._sources]
                self._group = await stack.enter_async_context(asyncio.TaskGroup())
                workers = [
                    self._group.create_task(self._work(number))
                    for number in range(len(self._sources))
                    for _ in range(connections)
                ]
                ticker = self._group.create_task(self._sync_now_and_then())
                await self._finished.wait()
                for worker in (*workers, ticker):
                    worker.cancel()
        except ExceptionGroup as several:
            raise _first(several.exceptions) from None
        finally:
            # shielded: threads that write must be done before their files are closed, whoever is impatient
            await asyncio.shield(asyncio.to_thread(self._close))

    def _close(self) -> None:
        """Keep what came; steps: (1) the last writes end, (2) what was written is durable, (3) files are closed."""
        self._writers.shutdown(cancel_futures=True)
        self._slow.shutdown(cancel_futures=True)
        blobs = [each.blob for each in self._coming.values() if each.blob is not None]
        try:
            for blob in blobs:
                blob.sync()
        finally:
            for blob in blobs:
                blob.close()

    async def _work(self, number: int) -> None:
        """One connection's worth of asking one source."""
        while self.table.alive(number):
            async with self._room:
                job = self.table.take(number, self._now())
                if isinstance(job, Ask):
                    await self._ask(job)
                elif job is not None:
                    await self._fly(job)
            if job is None:
                news = self._news
                try:
                    async with asyncio.timeout(self.table.pause(number, self._now())):
                        await news.wait()
                except TimeoutError:
                    continue

    def _tell(self) -> None:
        """Something changed: whoever has nothing to do looks again."""
        self._news.set()
        self._news = asyncio.Event()
        if self.table.finished:
            self._finished.set()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    # -- tile indexes

    async def _ask(self, ask: Ask) -> None:
        item, number = ask.item, ask.source
        try:
            async with asyncio.timeout(self._policy.piece_seconds_max):
                raw = await self._asked[number].index(item.wanted.payload, item.wanted.length)
        except Absent:
            self.table.unanswered(ask, absent=True)
        except WrongAnswer as reason:
            self.table.close(number, item, f"tile index: {reason}")
            self.table.unanswered(ask, absent=False)
        except (Failing, TimeoutError) as reason:
            self._failed(number, reason)
            self.table.unanswered(ask, absent=False)
        else:
            if self.table.answered(ask):
                await self._open(number, item, raw)
        self._tell()

    async def _open(self, number: int, item: Item, raw: bytes) -> None:
        wanted = item.wanted
        try:
            blob = await self._slowly(self._store.begin, wanted.payload, wanted.length, raw)
        except IntegrityFault as reason:
            await self._condemn(number, item, f"wrong {reason.message}")
            self.table.refused(item)
            return
        missing = blob.missing()
        self._coming[item] = Coming(blob, self._now())
        self.table.opened(item, missing)
        here = wanted.length - sum(item.bytes_of(each, each + 1) for each in missing)
        if here:
            self._progress(wanted.payload, here)
        self._want_finish(item)

    # -- bytes

    async def _fly(self, flight: Flight) -> None:
        buffer = self._buffers.pop() if self._buffers else bytearray(limits.tile_bytes)
        tank = Tank(flight, buffer)
        try:
            await self._receive(flight, tank)
            await self._keep(flight, tank)
        finally:
            self.table.ended(flight)
            self._tell()
        self._buffers.append(buffer)  # not after a cancellation: a thread may still read it

    async def _receive(self, flight: Flight, tank: Tank) -> None:
        """Ask, and take what comes; a source that does not do as it should is set back or closed."""
        number, item, began = flight.source, flight.item, self._now()
        paused, overtaken = 0.0, False

        def stop() -> None:
            nonlocal overtaken
            overtaken = True
            if not limit.expired():
                limit.reschedule(self._now())

        def waits(seconds: float) -> None:
            nonlocal paused
            paused += seconds
            flight.heard = self._now() + seconds
            if not overtaken and (when := limit.when()) is not None:
                limit.reschedule(when + seconds)

        try:
            async with asyncio.timeout(self._policy.piece_seconds_max) as limit:
                flight.stop = stop
                await self._take(self._asked[number], flight, tank, limit, waits)
        except Absent:
            self.table.close(number, item, absent)
        except WithoutRanges:
            self.table.without_ranges(number)
        except WrongAnswer as reason:
            self.table.close(number, item, str(reason))
        except (Failing, TimeoutError) as reason:
            if not overtaken:
                self._failed(number, reason)
        else:
            self.table.served(number, flight.got, self._now() - began - paused)
        finally:
            flight.stop = _no_stop
            self.reports[number].seconds += self._now() - began - paused

    async def _take(
        self,
        asked: SourceRequests,
        flight: Flight,
        tank: Tank,
        limit: asyncio.Timeout,
        waits: Callable[[float], None],
    ) -> None:
        wanted = flight.item.wanted
        begin = flight.first * limits.subtile_bytes
        async with asked.run(wanted.payload, wanted.length, (begin, begin + flight.length), waits) as body:
            while True:
                room = tank.room
                if await body.fill(room, tank.told) < len(room):
                    raise WrongAnswer(f"expected {flight.length} bytes, found {flight.got}")
                if tank.end == flight.end:
                    await body.want_end()
                    return
                stop, flight.stop = flight.stop, _no_stop  # a thread reads the buffer: it is waited for
                limit.reschedule(None)
                await self._keep(flight, tank)
                tank.empty()
                flight.stop = stop
                limit.reschedule(self._now() + self._policy.piece_seconds_max)

    async def _keep(self, flight: Flight, tank: Tank) -> None:
        """Verify and write what came wholly and is not here."""
        item, number = flight.item, flight.source
        end, view = tank.whole()
        numbers = self.table.missing(item, tank.first, end)
        if item.stage != "open" or not numbers:
            return
        coming = self._coming.setdefault(item, Coming(None, self._now()))
        coming.writes += 1
        try:
            good, wrong = await asyncio.get_running_loop().run_in_executor(
                self._slow if item.bare else self._writers,
                coming.write,
                *(self._store, item, tank.first, view, numbers),
            )
        finally:
            coming.writes -= 1
        count = self.table.landed(item, good)
        self.reports[number].bytes += count
        coming.unsynced += count
        if wrong:
            await self._condemn(number, item, f"wrong bytes: {wrong}")
        if count:
            self._progress(item.wanted.payload, count)
        await self._keep_up(coming)
        self._want_finish(item)

    # -- what is durable

    async def _keep_up(self, coming: Coming) -> None:
        """Sync beside what comes, and hold that up if the disk cannot follow."""
        if coming.blob is None or coming.finishing:
            return
        if coming.unsynced >= limits.unsynced_bytes_max and coming.syncing is None:
            self._sync(coming, coming.blob)
        if coming.unsynced >= limits.unsynced_bytes_max and coming.syncing is not None:
            await asyncio.wait([coming.syncing])

    def _sync(self, coming: Coming, blob: PartialBlob) -> None:
        async def sync() -> None:
            try:
                await self._slowly(blob.sync)
            finally:
                coming.syncing = None

        coming.unsynced, coming.synced_at = 0, self._now()
        coming.syncing = self._group.create_task(sync())

    async def _sync_now_and_then(self) -> None:
        """What comes slowly is durable after some seconds too."""
        while True:
            await asyncio.sleep(limits.unsynced_seconds_max / 5)
            for coming in list(self._coming.values()):
                due = self._now() - coming.synced_at >= limits.unsynced_seconds_max
                if due and coming.unsynced and coming.blob and not coming.finishing and coming.syncing is None:
                    self._sync(coming, coming.blob)

    def _want_finish(self, item: Item) -> None:
        """Make a blob of a payload that is here wholly, once no thread writes it any more."""
        coming = self._coming[item]
        if item.stage == "finishing" and not coming.writes and not coming.finishing:
            coming.finishing = True
            self._group.create_task(self._finish(item, coming))

    async def _finish(self, item: Item, coming: Coming) -> None:
        if coming.syncing is not None:
            await asyncio.wait([coming.syncing])
        if coming.blob is not None:
            await self._slowly(coming.blob.finish)
        del self._coming[item]
        self.table.done(item)
        self._tell()

    async def _slowly(self, work: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._slow, work, *arguments)

    # -- what went wrong

    def _failed(self, number: int, reason: Exception) -> None:
        self.reports[number].failures += 1
        why = str(reason) or f"expected an answer within {self._policy.piece_seconds_max:g} s, found none"
        self.table.failed(number, why, self._now(), reason.pause if isinstance(reason, Failing) else None)

    async def _condemn(self, number: int, item: Item, why: str) -> None:
        """Drop a source for a payload, and remember it."""
        self.table.close(number, item, why)
        self.reports[number].bad.append(item.wanted.payload)
        await self._slowly(self._book.condemn, self._sources[number].url, item.wanted.payload, why)


def _no_stop() -> None:
    """Nothing is under way that could be stopped."""


def _first(several: Sequence[Exception]) -> Exception:
    """One of several that came at once: a mistake of ours before a fault, behind which it must not hide."""
    return next((each for each in several if not isinstance(each, Fault)), several[0])
