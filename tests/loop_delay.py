"""How late an event loop comes to what is due: the delay that every connection of a process feels."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class LoopDelay:
    """Seconds by which timers came late."""

    late: list[float] = field(default_factory=list)

    def at(self, share: float) -> float:
        """The delay that this share of all timers stayed within."""
        ordered = sorted(self.late)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@asynccontextmanager
async def watched_loop(every: float = 0.001) -> AsyncIterator[LoopDelay]:
    """Set a timer again and again while the context lasts, and note how late each comes."""
    delay = LoopDelay()

    async def tick() -> None:
        while True:
            due = time.perf_counter() + every
            await asyncio.sleep(every)
            delay.late.append(max(0.0, time.perf_counter() - due))

    task = asyncio.create_task(tick())
    try:
        yield delay
    finally:
        task.cancel()
