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
_slice: Final = 4  # generations whose events a loop takes before it turns to what else waits
_crowd: Final = 16  # generations served at once, from which on events are gathered
_rest_seconds: Final = 0.04  # from one handing over to the next while it is crowded


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
    """Calls in an event loop, a few generations at a time, so that whoever else waits for the loop waits for few.

    While many generations are served, the events of a few steps go together: a piece of text that comes 40 ms later is
    not seen by anybody, and waking a handler and writing to its socket cost more than the token's other work in Python.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._queue: deque[tuple[Emit, Event]] = deque()  # the compute thread appends, the loop takes
        self._handed: deque[tuple[Emit, list[Event]]] = deque()  # of the loop: what is being handed over
        self._resting = False  # set by the loop, read by the compute thread: a timer of the loop looks soon by itself
        self._crowded = False  # of the loop

    def deliver(self, events: list[tuple[Emit, Event]]) -> None:
        """Have the loop take them: at once, or soon."""
        self._queue.extend(events)
        if not self._resting or self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if not self._handed and not self._resting:
            self._take()

    def _look(self) -> None:
        self._resting = False  # first: what is queued from now on wakes the loop
        if not self._handed:
            self._take()

    def _take(self) -> None:
        """Sort by generation what is there, each in its order, and begin to hand it over."""
        gathered: dict[Emit, list[Event]] = {}
        for _ in range(len(self._queue)):
            emit, event = self._queue.popleft()
            gathered.setdefault(emit, []).append(event)
        self._handed.extend(gathered.items())
        self._crowded = len(gathered) >= _crowd
        self._hand_over()

    def _hand_over(self) -> None:
        try:
            for _ in range(min(_slice, len(self._handed))):
                emit, events = self._handed.popleft()
                for event in events:
                    emit(event)
        finally:  # whoever fails ends nobody else's stream
            if self._handed:
                self.loop.call_soon(self._hand_over)
            elif self._crowded:
                self._resting = True
                self.loop.call_later(_rest_seconds, self._look)
            elif self._queue:
                self.loop.call_soon(self._wake)
