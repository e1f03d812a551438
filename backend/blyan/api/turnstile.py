"""Lets a few requests in on each turn of the event loop, so that many who come at once hold up nobody who is served.

The loop runs everything that is ready before it looks at the clock or at sockets again; what sixty new requests do
before their first wait adds up to tens of milliseconds, in which no stream gets its next piece.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final
from weakref import WeakKeyDictionary

_each_turn: Final = 4


class Turnstile:
    """For one event loop, and used from it alone."""

    def __init__(self) -> None:
        self._left = _each_turn  # who may still pass on this turn
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._turning = False  # whether the next turn is asked for

    async def passed(self) -> None:
        """Wait for a turn, in the order of coming; at once where nobody waits."""
        loop = asyncio.get_running_loop()
        if self._left and not self._waiting:
            self._left -= 1
            self._turn_later(loop)
            return
        place = loop.create_future()
        self._waiting.append(place)
        self._turn_later(loop)
        await place

    def _turn_later(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._turning:
            self._turning = True
            loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._turning = False
        self._left = _each_turn
        while self._waiting and self._left:
            place = self._waiting.popleft()
            if not place.done():  # else its caller left
                place.set_result(None)
                self._left -= 1
        if self._waiting or self._left < _each_turn:
            self._turn_later(loop)


_of_loops: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Turnstile]] = WeakKeyDictionary()


async def turn() -> None:
    """Wait for a turn of the running loop. For what takes a good part of a millisecond and may be asked for at once."""
    loop = asyncio.get_running_loop()
    found = _of_loops.get(loop)
    if found is None:
        found = _of_loops[loop] = Turnstile()
    await found.passed()
