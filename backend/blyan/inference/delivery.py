"""Events on their way from the compute thread to who listens: those of one step go together.

Waking an event loop costs a system call and a turn of the interpreter's lock; once for a step is enough, however many
generations it served.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from blyan.inference.session import Event

Emit: TypeAlias = Callable[[Event], None]
_slice: Final = 8  # events that a loop takes before it turns to what else waits


class Listener(Protocol):
    """Where events are delivered."""

    def deliver(self, events: list[tuple[Emit, Event]]) -> None:
        """Hand each event to its function, in order. Called in the compute thread; `RuntimeError`: nobody is there."""
        ...


class Direct:
    """Calls in the compute thread."""

    def deliver(self, events: list[tuple[Emit, Event]]) -> None:
        """Call each."""
        for emit, event in events:
            emit(event)


class LoopListener:
    """Calls in an event loop, a few at a time, so that whoever else waits for the loop waits for few."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._queue: deque[tuple[Emit, Event]] = deque()  # the compute thread appends, the loop takes
        self._handing = False  # of the loop: whether a call is on its way already

    def deliver(self, events: list[tuple[Emit, Event]]) -> None:
        """Wake the loop once."""
        self._queue.extend(events)
        self.loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if not self._handing:
            self._hand_over()

    def _hand_over(self) -> None:
        for _ in range(min(_slice, len(self._queue))):
            emit, event = self._queue.popleft()
            emit(event)
        self._handing = bool(self._queue)
        if self._handing:
            self.loop.call_soon(self._hand_over)
