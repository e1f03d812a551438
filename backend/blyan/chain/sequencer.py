"""The local sequencer: one thread that puts whatever waits into one commit (group commit).

A commit costs a handful of fsyncs whether it holds one entry or thousands, so entries that come while one runs share
the next. The drafts of one submit stand or fall together; a refused one fails alone and leaves no trace. A future
completes only once its entries are durable and promised. A failed commit fails everything from then on, because
nobody knows what reached the disk; opening the chains again finds out.

Snapshots of the state are taken when the entries since the last one reach `max(2048, size / 32)` and nobody waits, and
at four times that even if somebody does, so that opening stays quick.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Final, TypeAlias

from blyan.chain.chains import Chains
from blyan.chain.entries import Body, PayloadReference
from blyan.chain.joint import Head
from blyan.primitives import limits
from blyan.primitives.clock import UnixSeconds
from blyan.primitives.errors import Fault, InvalidInput, QueueFull, Unavailable
from blyan.primitives.ids import EntryId
from blyan.primitives.keys import Key

_tail_min: Final = 2_048
_tail_share: Final = 32
_busy_factor: Final = 4


@dataclass(frozen=True, slots=True)
class Previous:
    """A parent that has no id yet: draft number `number` of the same submit, counted from 0."""

    number: int


@dataclass(frozen=True, slots=True)
class Draft:
    """An entry that the sequencer numbers, dates and signs."""

    body: Body
    parents: tuple[EntryId | Previous, ...]
    payload: PayloadReference | None = None


@dataclass(frozen=True, slots=True)
class _Submit:
    drafts: tuple[Draft, ...]
    done: Future[list[EntryId]]
    ledger: Head | None = None  # a promise about the books in place of drafts


_Batch: TypeAlias = list[_Submit]


class Sequencer:
    """The one writer of `chains` while it is open; any thread may submit."""

    def __init__(
        self, chains: Chains, key: Key, now: UnixSeconds, *, waiting_max: int = limits.sequencer_waiting_max
    ) -> None:
        """Start the thread. `waiting_max` bounds the drafts that wait."""
        self._chains = chains
        self._key = key
        self._now = now
        self._waiting_max = waiting_max
        self._waiting: deque[_Submit] = deque()
        self._drafts_waiting = 0
        self._closed = False
        self._snapshot_from = 0  # entries there must be before another is tried, once one failed
        self._changed = threading.Condition()  # held while the queue changes
        self._thread = threading.Thread(target=self._run, name="sequencer", daemon=True)
        self._thread.start()

    def submit(self, drafts: Sequence[Draft]) -> Future[list[EntryId]]:
        """Queue entries that stand or fall together; the future gives their ids once they are durable.

        `QueueFull` at once if too many wait, `Unavailable` after `close`. The future raises `EntryRefused` or
        `MalformedEntry` if one of them may not follow, `Denied` if the key may not write, `Unavailable` if the disk
        failed and nobody knows whether they are there.
        """
        if not 0 < len(drafts) <= limits.submit_drafts_max:
            raise InvalidInput(f"submit: expected 1 to {limits.submit_drafts_max} drafts, found {len(drafts)}")
        return self._queued(_Submit(tuple(drafts), Future()))

    def promise_ledger(self, head: Head) -> Future[list[EntryId]]:
        """Queue the root of the sealed books for the joint checkpoint; the future gives no ids once it is promised.

        It raises `IntegrityFault` if more records, or others, were promised before.
        """
        return self._queued(_Submit((), Future(), head))

    def _queued(self, submit: _Submit) -> Future[list[EntryId]]:
        drafts = submit.drafts
        with self._changed:
            if self._closed:
                raise Unavailable("sequencer: expected it open, found it closed")
            if self._drafts_waiting + len(drafts) > self._waiting_max:
                raise QueueFull(
                    f"sequencer: expected room for {len(drafts)} drafts, found {self._drafts_waiting} waiting"
                )
            self._waiting.append(submit)
            self._drafts_waiting += len(drafts)
            self._changed.notify()
        return submit.done

    def close(self) -> None:
        """Take nothing more, commit what waits, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def __enter__(self) -> Sequencer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, reason: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        batch: _Batch = []
        try:
            while batch := self._take():
                self._commit(batch)
                self._snapshot_if_due()
        finally:  # after `close` nothing is left; after a mistake of ours, nobody may wait for ever
            with self._changed:
                self._closed = True
                batch.extend(self._waiting)
                self._waiting.clear()
            for submit in batch:
                if not submit.done.done():
                    submit.done.set_exception(Unavailable("sequencer: expected it to run, found that it stopped"))

    def _take(self) -> _Batch:
        """Whatever waits, up to a commit's worth; nothing once it is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            batch: _Batch = []
            drafts = 0
            while self._waiting and (not batch or drafts + len(self._waiting[0].drafts) <= limits.commit_entries_max):
                submit = self._waiting.popleft()
                drafts += len(submit.drafts)
                batch.append(submit)
            self._drafts_waiting -= drafts
            return batch

    def _commit(self, batch: _Batch) -> None:
        staged: list[tuple[_Submit, list[EntryId]]] = []
        for submit in batch:
            if submit.done.set_running_or_notify_cancel():
                try:
                    staged.append((submit, self._stage(submit.drafts)))
                except Fault as reason:
                    submit.done.set_exception(reason)
        if not staged:
            return
        try:
            self._chains.publish(self._key)
        except (OSError, Fault) as reason:
            for submit, _ in staged:
                fault = Unavailable(
                    f"commit: expected it to reach the disk, found {reason}",
                    hint="restart: opening the data directory again finds out what reached the disk",
                )
                fault.__cause__ = reason
                submit.done.set_exception(fault)
            return
        for submit, identities in staged:
            if submit.ledger is None:
                submit.done.set_result(identities)
            else:
                self._promise(submit, submit.ledger)

    def _promise(self, submit: _Submit, head: Head) -> None:
        try:
            self._chains.promise_ledger(self._key, head)
        except Fault as reason:
            submit.done.set_exception(reason)
        except OSError as reason:
            submit.done.set_exception(Unavailable(f"commit: expected it to reach the disk, found {reason}"))
        else:
            submit.done.set_result([])

    def _stage(self, drafts: Sequence[Draft]) -> list[EntryId]:
        mark = self._chains.mark()
        identities: list[EntryId] = []
        try:
            for draft in drafts:
                parents = tuple(
                    _earlier(parent, identities) if isinstance(parent, Previous) else parent for parent in draft.parents
                )
                identities.append(self._chains.append(draft.body, parents, draft.payload, self._key, self._now))
        except Fault:
            self._chains.rewind(mark)
            raise
        return identities

    def _snapshot_if_due(self) -> None:
        sizes, state = self._chains.joint.sizes, self._chains.joint.state
        size = sum(sizes.values())
        tail = size - (sum(state.sizes.values()) if state else 0)
        due = max(_tail_min, size // _tail_share)
        if not self._chains.sound or tail < (_busy_factor * due if self._waiting else due):
            return
        if size < self._snapshot_from:
            return
        try:
            self._chains.snapshot(self._key)
        except (OSError, Fault):  # a full disk, mostly: without a new snapshot, opening takes longer and nothing else
            self._snapshot_from = size + due


def _earlier(parent: Previous, identities: Sequence[EntryId]) -> EntryId:
    if not 0 <= parent.number < len(identities):
        raise InvalidInput(f"parent: expected a draft before number {len(identities)}, found {parent.number}")
    return identities[parent.number]
