"""The books as the node uses them: requests from any number of coroutines, committed together by one thread.

A commit costs a sync whether it holds one request or hundreds, so requests that come while one runs share the next.
What waits is bounded. An answer comes only after its commit is durable. Whoever loses an answer (a dead connection, a
killed node) asks again with the same key and learns what happened.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from blyan.ledger import reading, seal
from blyan.ledger.sql import Outcome, apply
from blyan.ledger.store import Session, Store
from blyan.ledger.transfers import Expire, Request, request_hash
from blyan.primitives import limits
from blyan.primitives.clock import UnixSeconds
from blyan.primitives.errors import Fault, IntegrityFault, QueueFull, Unavailable

Result = TypeVar("Result")
_expired_at_once: Final = 1_000


@dataclass(frozen=True, slots=True)
class _Asked:
    request: Request
    digest: bytes
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Outcome]


class Books:
    """Writes and reads of one store; `close` commits what waits."""

    def __init__(self, store: Store, now: UnixSeconds, *, waiting_max: int = limits.ledger_waiting_max) -> None:
        """Start the writer's thread."""
        self._store = store
        self._now = now
        self._waiting_max = waiting_max
        self._waiting: deque[_Asked] = deque()
        self._closed = False
        self._swept = 0  # every hold whose time was over then has ended
        self._changed = threading.Condition()  # held while the queue changes
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    async def submit(self, request: Request) -> Outcome:
        """What became of the request, durably; for a key that was used before, what became of it then.

        `IdempotencyConflict` where the key was used for something else, `QueueFull` if too many wait, `StorageFull` if
        the disk is, and `Unavailable` where nobody knows: ask again with the same key.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Outcome] = loop.create_future()
        asked = _Asked(request, request_hash(request), loop, answer)
        with self._changed:
            if self._closed:
                raise Unavailable("ledger: expected it open, found it closed")
            if len(self._waiting) >= self._waiting_max:
                raise QueueFull(f"ledger: expected fewer than {self._waiting_max} requests waiting, found as many")
            self._waiting.append(asked)
            self._changed.notify()
        return await answer

    async def expire(self) -> int:
        """End the holds whose time is over; how many."""
        now = self._now()
        size_and_time = await self.read(reading.size_and_time)
        ended = 0
        while True:
            due = await self.read(lambda session: reading.due(session, self._swept, now, _expired_at_once))
            outcomes = await asyncio.gather(*(self.submit(Expire(number)) for number in due))
            ended += sum(outcome.taken and not outcome.replayed for outcome in outcomes)
            if len(due) < _expired_at_once:
                # a later hold is dated no earlier than the last record was, and ends after that
                self._swept = max(self._swept, min(now, size_and_time[1]))
                return ended

    async def seal(self) -> seal.Seal | None:
        """Promise what is new; the newest seal."""
        return await asyncio.to_thread(self._seal)

    async def read(self, what: Callable[[Session], Result]) -> Result:
        """What a function of `ledger/reading` or `ledger/seal` says, of one moment."""
        return await asyncio.to_thread(self._read, what)

    async def close(self) -> None:
        """Take nothing more, commit what waits and end the thread; the store stays its owner's."""
        await asyncio.to_thread(self.stop)

    def stop(self) -> None:
        """The same for callers outside of an event loop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    @property
    def waiting(self) -> int:
        """Requests that wait for the writer."""
        return len(self._waiting)

    def _seal(self) -> seal.Seal | None:
        with self._store.session() as session:
            return seal.seal(session, self._now)

    def _read(self, what: Callable[[Session], Result]) -> Result:
        with self._store.session() as session, session.reading():
            return what(session)

    def _run(self) -> None:
        batch: Sequence[_Asked] = ()
        try:
            while batch := self._take():
                self._commit_while_it_goes_well(batch)
        finally:  # after `close` nothing is left; after a mistake of ours, nobody may wait for ever
            with self._changed:
                self._closed = True
                left = [*batch, *self._waiting]
                self._waiting.clear()
            _tell(left, [Unavailable("ledger: expected its writer to run, found that it stopped")] * len(left))

    def _take(self) -> Sequence[_Asked]:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            count = min(len(self._waiting), limits.ledger_commit_max)
            return [self._waiting.popleft() for _ in range(count)]

    def _commit_while_it_goes_well(self, batch: Sequence[_Asked]) -> None:
        """Commit one batch after another through one connection, until it fails or nothing more comes."""
        try:
            with self._store.session() as session:
                while batch:
                    answers = self._commit(session, batch)
                    _tell(batch, answers)
                    failed = any(isinstance(answer, Unavailable) for answer in answers)
                    batch = () if failed else self._take()
        except Fault as reason:
            _tell(batch, [reason] * len(batch))
        except BaseException:
            _tell(batch, [Unavailable("ledger: expected its writer to run, found that it stopped")] * len(batch))
            raise

    def _commit(self, session: Session, batch: Sequence[_Asked]) -> Sequence[Outcome | Fault]:
        try:
            return apply(session, [(asked.request, asked.digest) for asked in batch], self._now)
        except IntegrityFault as reason:
            if len(batch) == 1:
                return [reason]
            # the database refused what the rules allowed; only the request that it refused may fail by that
            return [answer for asked in batch for answer in self._commit(session, [asked])]
        except Fault as reason:
            return [reason] * len(batch)


def _tell(batch: Sequence[_Asked], answers: Sequence[Outcome | Fault]) -> None:
    """Give the answers, in one call for each loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Outcome], Outcome | Fault]]] = {}
    for asked, answer in zip(batch, answers, strict=True):
        by_loop.setdefault(asked.loop, []).append((asked.answer, answer))
    for loop, pairs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, pairs)
        except RuntimeError:  # a loop that was closed waits for nothing
            continue


def _resolve(pairs: Sequence[tuple[asyncio.Future[Outcome], Outcome | Fault]]) -> None:
    for future, answer in pairs:
        if future.done():  # whoever asked was cancelled; what was asked is done all the same
            continue
        if isinstance(answer, Fault):
            future.set_exception(answer)
        else:
            future.set_result(answer)
