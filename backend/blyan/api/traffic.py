"""How many requests are under way, how many may be, and whether more are taken: what a clean shutdown waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from aiohttp import web

from blyan.primitives import limits
from blyan.primitives.errors import QueueFull, Unavailable


class Traffic:
    """Requests under way. Used from the event loop alone."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.body_bytes = 0  # that requests under way hold
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._busy = asyncio.Event()

    @contextmanager
    def admitted(self) -> Generator[None]:
        """Count a request while it lasts; `Unavailable` while draining, `QueueFull` if too many are under way."""
        self.want_open()
        if self.in_flight >= limits.requests_in_flight_max:
            raise QueueFull(
                f"requests: expected fewer than {limits.requests_in_flight_max} under way, found {self.in_flight}",
                hint="try again in some seconds",
            )
        self.in_flight += 1
        self._idle.clear()
        self._busy.set()
        try:
            yield
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._busy.clear()
                self._idle.set()

    def hold(self, count: int) -> None:
        """Bytes of a body came, and are held until `let_go`; `QueueFull`, and they are not, if all hold too much."""
        if self.body_bytes + count > limits.bodies_bytes_max:
            raise QueueFull(
                f"requests: expected bodies of at most {limits.bodies_bytes_max} bytes under way together, found more",
                hint="try again in some seconds",
            )
        self.body_bytes += count

    def let_go(self, count: int) -> None:
        """They are of no use any more."""
        self.body_bytes -= count

    def want_open(self) -> None:
        """`Unavailable` if no more requests are taken."""
        if self._draining:
            raise Unavailable("node: expected one that takes requests, found it draining before its end")

    async def begun(self) -> None:
        """Wait until some request is under way."""
        await self._busy.wait()

    async def drained(self, seconds: float) -> bool:
        """Take no more requests and wait until those under way have ended; whether they did in time."""
        self._draining = True
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True


traffic_key: Final = web.AppKey("traffic", Traffic)
