"""One fetch under way: carries out what `network/pieces` decides, by what `network/ranges` asks.

Connections live in the event loop; hashing, writing and syncing in threads. A source that gives wrong bytes is dropped
for that payload at once and remembered. What came stays, also after a kill: synced every 64 MiB or two seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from blyan.network.items import Ask, Flight, Item, Wanted
from blyan.network.landing import Landings, Tank
from blyan.network.pieces import PieceTable, absent
from blyan.network.ranges import Absent, Failing, Requests, SourceRequests, WithoutRanges, WrongAnswer
from blyan.network.sources import Source, SourceBook
from blyan.primitives import limits
from blyan.primitives.errors import Fault, IntegrityFault
from blyan.primitives.ids import PayloadId
from blyan.storage.blob_store import BlobStore

Progress: TypeAlias = Callable[[PayloadId, int], None]


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
    busy_seconds: float = 0.0  # in which at least one of them was under way, what the rates held up included
    failures: int = 0  # answers that did not come, broke off or stalled
    bad: list[PayloadId] = field(default_factory=list[PayloadId])  # of which it gave wrong bytes
    _flights: int = 0
    _since: float = 0.0

    def left(self, now: float) -> float:
        """One connection more is under way; the time again."""
        self._since = self._since if self._flights else now
        self._flights += 1
        return now

    def came(self, now: float, seconds: float) -> None:
        """One connection less is under way; it took so long, without what rates held it up."""
        self._flights -= 1
        self.seconds += seconds
        self.busy_seconds += 0.0 if self._flights else now - self._since


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
        self.reports = [SourceReport(source.name) for source in sources]
        against = [book.against(source.name) for source in sources]
        self.table = PieceTable(
            wanted,
            [source.holds for source in sources],
            lambda number, payload: against[number].why_not(payload),
            rate=min((each for each in (policy.rate, policy.source_rate) if each), default=0),
        )
        self._room = asyncio.Semaphore(limits.flights_max)
        self._buffers: list[bytearray] = []  # of a tile each, used again: fresh memory costs as much as hashing it
        self._news = asyncio.Event()
        self._finished = asyncio.Event()

    async def run(self) -> None:
        """Fetch what can be had; `StorageFull`, `IntegrityFault` of the own disk, what `progress` raises end it."""
        policy, group = self._policy, asyncio.TaskGroup()
        self._group = group
        self._landings = Landings(self._store, group, self._done)
        requests = Requests(policy.rate, policy.source_rate, policy.stall_seconds)
        self._asked = [requests.to(source) for source in self._sources]
        try:
            async with group:
                tasks = [
                    group.create_task(self._work(number))
                    for number in range(len(self._sources))
                    for _ in range(min(self._connections(), self._sources[number].connections))
                ]
                tasks.append(group.create_task(self._landings.sync_now_and_then()))
                self._tell()
                await self._finished.wait()
                for task in tasks:
                    task.cancel()
        except ExceptionGroup as several:
            raise _first(several.exceptions) from None
        finally:
            for asked in self._asked:
                asked.close()
            # shielded: threads that write must be done before their files are closed, whoever is impatient
            await asyncio.shield(asyncio.to_thread(self._landings.close))

    def _connections(self) -> int:
        """How many to each source; one where each has a rate of its own, which more would not raise."""
        if self._policy.source_rate:
            return 1
        return min(limits.source_connections_max, max(1, limits.flights_max // (2 * len(self._sources))))

    def _done(self, item: Item) -> None:
        self.table.done(item)
        self._tell()

    async def _work(self, number: int) -> None:
        """One connection's worth of asking one source."""
        while self.table.sources[number].alive:
            async with self._room:
                job = self.table.take(number, _now())
                if isinstance(job, Ask):
                    await self._ask(job)
                elif job is not None:
                    await self._fly(job)
            if job is None:
                news = self._news
                try:
                    async with asyncio.timeout(self.table.pause(number, _now())):
                        await news.wait()
                except TimeoutError:
                    continue

    def _tell(self) -> None:
        """Something changed: whoever has nothing to do looks again."""
        self._news.set()
        self._news = asyncio.Event()
        if self.table.finished:
            self._finished.set()

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
        try:
            missing = await self._landings.begin(item, raw)
        except IntegrityFault as reason:
            await self._condemn(number, item, f"wrong {reason.message}")
            self.table.refused(item)
            return
        if missing is None:  # it holds up neither this source nor the others
            self._group.create_task(self._open_later(number, item, raw))
            return
        self.table.opened(item, missing)
        here = item.wanted.length - sum(item.bytes_of(each, each + 1) for each in missing)
        if here:
            self._progress(item.wanted.payload, here)
        self._landings.finish_if_whole(item)

    async def _open_later(self, number: int, item: Item, raw: bytes) -> None:
        """Somebody else takes the payload in: take what he has, or over from him, when he is done with it."""
        await asyncio.sleep(limits.fetch_again_seconds)
        await self._open(number, item, raw)
        self._tell()

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
        number, item, began = flight.source, flight.item, self.reports[flight.source].left(_now())
        timer = _Timer(flight, self._policy.piece_seconds_max)
        try:
            async with timer.limit:
                flight.stop = timer.stop
                await _take(self._asked[number], flight, tank, timer, self._keep)
        except Absent:
            self.table.close(number, item, absent)
        except WithoutRanges:
            self.table.sources[number].ranges = False
        except WrongAnswer as reason:
            self.table.close(number, item, str(reason))
        except (Failing, TimeoutError) as reason:
            if not timer.stopped:
                self._failed(number, reason)
        else:
            self.table.sources[number].served(flight.got, _now() - began - timer.paused)
        finally:
            flight.stop = _nothing
            self.reports[number].came(_now(), _now() - began - timer.paused)

    async def _keep(self, flight: Flight, tank: Tank) -> None:
        """Verify and write what came wholly and is not here."""
        item, number = flight.item, flight.source
        end, view = tank.whole()
        numbers = item.missing(tank.first, end)
        if item.stage != "open" or not numbers:
            return
        good, wrong = await self._landings.write(item, tank.first, view, numbers)
        count = self.table.landed(item, good)
        self.reports[number].bytes += count
        if wrong:
            await self._condemn(number, item, f"wrong bytes: {wrong}")
        if count:
            self._progress(item.wanted.payload, count)
        await self._landings.keep_up(item, count)
        self._landings.finish_if_whole(item)

    # -- what went wrong

    def _failed(self, number: int, reason: Exception) -> None:
        self.reports[number].failures += 1
        why = str(reason) or f"expected an answer within {self._policy.piece_seconds_max:g} s, found none"
        self.table.failed(number, why, _now(), reason.pause if isinstance(reason, Failing) else None)

    async def _condemn(self, number: int, item: Item, why: str) -> None:
        """Drop a source for a payload, and remember it."""
        self.table.close(number, item, why)
        if item.wanted.payload in self.reports[number].bad:
            return
        self.reports[number].bad.append(item.wanted.payload)
        await self._landings.slowly(self._book.condemn, self._sources[number].name, item.wanted.payload, why)


class _Timer:
    """How long a flight may take; it can be stopped, and stands still while rates hold the flight up."""

    def __init__(self, flight: Flight, seconds_max: float) -> None:
        self.limit = asyncio.timeout(seconds_max)
        self.stopped = False  # because nobody needs the flight any more
        self.paused = 0.0  # seconds
        self._flight = flight
        self._seconds_max = seconds_max
        self._held = False

    def stop(self) -> None:
        """End the flight, now or when it is no longer held."""
        self.stopped = True
        if not self._held:
            self._set(asyncio.get_running_loop().time())

    def waits(self, seconds: float) -> None:
        """The flight will wait so long."""
        self.paused += seconds
        self._flight.heard = asyncio.get_running_loop().time() + seconds
        when = self.limit.when()
        if not self.stopped and when is not None:
            self._set(when + seconds)

    async def hold(self, work: Awaitable[None]) -> None:
        """Do what must not be broken off, because a thread is busy with it; then the time begins anew."""
        self._held = True
        self._set(None)
        await work
        self._held = False
        self._set(asyncio.get_running_loop().time() + (0 if self.stopped else self._seconds_max))

    def _set(self, when: float | None) -> None:
        if not self.limit.expired():
            self.limit.reschedule(when)


async def _take(
    asked: SourceRequests,
    flight: Flight,
    tank: Tank,
    timer: _Timer,
    keep: Callable[[Flight, Tank], Awaitable[None]],
) -> None:
    """The whole answer into the tank; a stream is kept tile by tile, the last one is left in the tank."""
    wanted = flight.item.wanted
    begin = flight.first * limits.subtile_bytes
    async with asked.run(wanted.payload, wanted.length, (begin, begin + flight.length), timer.waits) as body:
        while not flight.needless:
            await body.fill(tank.room, tank.told)
            if tank.end == flight.end:
                return
            await timer.hold(keep(flight, tank))
            tank.empty()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _nothing() -> None:
    """Nothing is under way that could be stopped."""


def _first(several: Sequence[Exception]) -> Exception:
    """One of several that came at once: a mistake of ours before a fault, behind which it must not hide."""
    return next((each for each in several if not isinstance(each, Fault)), several[0])
