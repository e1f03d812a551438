"""Who computes when: one dedicated thread, a bounded queue, and a turn of one step each for the running generations.

Torch uses its own threads inside a step; two Python threads stepping at once would only fight over them. Joining
generations into one batch comes here, behind the same `submit`.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from dataclasses import dataclass, field

from blyan.inference.session import Event, Failed, Turn, Working
from blyan.primitives import limits
from blyan.primitives.errors import Fault, InternalError, QueueFull, Unavailable

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Ticket:
    """One submitted generation. `cancel` takes effect before its next step; no event follows it."""

    turns: Iterator[Turn]
    emit: Callable[[Event], None]  # called in the compute thread
    context: Context = field(default_factory=copy_context)  # of whoever submits: its log lines name the request
    cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Stop computing for this generation."""
        self.cancelled.set()


class Scheduler:
    """Owns the compute thread. Construct, `submit` from any thread, `close` once."""

    def __init__(self, *, running_max: int = limits.generations_running_max) -> None:
        self._running_max = running_max
        self._queued: deque[Ticket] = deque()
        self._wake = threading.Condition()  # guards _queued and _closing
        self._closing = False
        self._running_count = 0
        self._thread = threading.Thread(target=self._work, name="blyan-compute", daemon=True)
        self._thread.start()

    def submit(self, turns: Iterator[Turn], emit: Callable[[Event], None]) -> Ticket:
        """Queue a generation; `QueueFull` if too many wait already."""
        ticket = Ticket(turns, emit)
        with self._wake:
            if self._closing:
                raise Unavailable("generation: expected a running node, found one that is shutting down")
            waiting = sum(not queued.cancelled.is_set() for queued in self._queued)
            if waiting >= limits.generations_queued_max:
                raise QueueFull(
                    f"generation: expected fewer than {limits.generations_queued_max} waiting, found {waiting}",
                    hint="try again in some seconds",
                )
            self._queued.append(ticket)
            self._wake.notify()
        return ticket

    def depth(self) -> tuple[int, int]:
        """How many generations run and how many wait, now."""
        with self._wake:
            return self._running_count, sum(not queued.cancelled.is_set() for queued in self._queued)

    def close(self) -> None:
        """End the thread after the step under way; generations still running get `Failed`."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _work(self) -> None:
        running: deque[Ticket] = deque()
        while True:
            with self._wake:
                self._running_count = len(running)
                while not self._queued and not running and not self._closing:
                    self._wake.wait()
                if self._closing:
                    left = [*running, *self._queued]
                    self._queued.clear()
                    break
                while self._queued and len(running) < self._running_max:
                    running.append(self._queued.popleft())
                self._running_count = len(running)
            ticket = running.popleft()
            if not ticket.cancelled.is_set() and self._step(ticket):
                running.append(ticket)
        for ticket in left:
            self._emit(ticket, Failed(Unavailable("generation: the node is shutting down")))

    def _step(self, ticket: Ticket) -> bool:
        """Compute one turn and deliver its event; False when there are no more."""
        try:
            turn = ticket.context.run(next, ticket.turns, None)
        except BaseException as reason:  # noqa: BLE001 - whatever one generation raises, a native panic too, is its end alone
            turn = Failed(ticket.context.run(_as_fault, reason))
        if isinstance(turn, Working):
            return True
        return turn is not None and self._emit(ticket, turn) and not isinstance(turn, Failed)

    def _emit(self, ticket: Ticket, event: Event) -> bool:
        """Deliver one event; False if nobody can take it any more."""
        try:
            ticket.emit(event)
        except RuntimeError:  # the event loop that listened was closed
            return False
        return True


def _as_fault(reason: BaseException) -> Fault:
    if isinstance(reason, Fault):
        return reason
    _log.error("generation failed", exc_info=reason)
    return InternalError(f"generation failed: {type(reason).__name__}")
