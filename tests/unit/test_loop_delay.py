"""The event loop's delay, as the node measures it of itself."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

from blyan.api.loop_delay import every_seconds, watch_loop
from blyan.api.traffic import Traffic


@asynccontextmanager
async def watched(traffic: Traffic) -> AsyncIterator[list[float]]:
    delays: list[float] = []
    task = asyncio.create_task(watch_loop(traffic, delays.append))
    await asyncio.sleep(0)
    try:
        yield delays
    finally:
        task.cancel()


async def test_a_loop_that_stands_still_is_late_for_every_moment_that_passes() -> None:
    """Of ten moments the first was missed by nine steps or more, each later one by one step less."""
    traffic = Traffic()
    async with watched(traffic) as delays:
        with traffic.admitted():
            await asyncio.sleep(every_seconds * 1.5)
            before = len(delays)
            time.sleep(every_seconds * 10)  # noqa: ASYNC251 - it stands still
            await asyncio.sleep(0.001)
            missed = delays[before : before + 9]
    assert len(missed) == 9
    assert missed[0] >= every_seconds * 8
    steps = [one - two for one, two in pairwise(missed)]
    assert all(abs(step - every_seconds) < 1e-6 for step in steps)


async def test_a_loop_that_is_free_is_hardly_late() -> None:
    traffic = Traffic()
    async with watched(traffic) as delays:
        with traffic.admitted():
            await asyncio.sleep(every_seconds * 10)
    assert 5 <= len(delays) <= 10
    assert min(delays) < 0.005


async def test_nothing_is_measured_while_nobody_asks() -> None:
    """An idle node is left asleep."""
    traffic = Traffic()
    async with watched(traffic) as delays:
        await asyncio.sleep(every_seconds * 3)
        assert delays == []
        with traffic.admitted():
            await asyncio.sleep(every_seconds * 2)
        await asyncio.sleep(every_seconds * 1.5)  # the moment that was due when the request ended
        count = len(delays)
        await asyncio.sleep(every_seconds * 3)
        assert len(delays) == count > 0
