"""How late the event loop comes to what is due, which every connection of the node feels.

Looked at every 20 ms while requests are under way, so that an idle node sleeps and quiet hours hide nothing. The
moments are a grid: a loop that stands still for 100 ms was late for five of them, and each is counted, not the first
alone.
A timer of the loop may itself be up to 1 ms late: the kernel is asked to wait for whole milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Final

from aiohttp import web

from blyan.api.state import node_key
from blyan.api.traffic import Traffic, traffic_key

every_seconds: Final = 0.02
_counted_max: Final = 500  # of one stand: a process that was stopped for an hour tells of ten seconds


async def loop_watched(app: web.Application) -> AsyncGenerator[None]:
    """Measure for as long as the application serves (`aiohttp.web.Application.cleanup_ctx`)."""
    task = asyncio.create_task(watch_loop(app[traffic_key], app[node_key].metrics.loop_delay_seconds.observe))
    try:
        yield
    finally:
        task.cancel()


async def watch_loop(traffic: Traffic, observe: Callable[[float], None]) -> None:
    """Tell `observe` the seconds by which each moment of the grid was missed; until it is cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        await traffic.begun()
        due = loop.time() + every_seconds
        while traffic.in_flight:
            await asyncio.sleep(due - loop.time())
            late = loop.time() - due
            missed = int(late / every_seconds) + 1
            for number in range(min(missed, _counted_max)):
                observe(max(0.0, late - number * every_seconds))
            due += missed * every_seconds
