"""A node on a listening socket for as long as a context lasts: lock, ground, node, HTTP, and all of it closed again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from aiohttp import web

from blyan.api.app import build_app
from blyan.node import builtin, data_directory
from blyan.node.config import NodeConfig
from blyan.node.node import Node, Sources
from blyan.primitives.clock import system_entropy, system_monotonic, system_seconds

_shutdown_seconds = 2.0  # for answers under way when the node is asked to stop


@asynccontextmanager
async def served(config: NodeConfig) -> AsyncGenerator[tuple[Node, str]]:
    """Yield the started node and its URL. `DataDirectoryInUse`, `Denied` or what is wrong with the ground, before that.

    The URL stands in the LOCK file while the node listens, so that other commands find it.
    """
    host, port = config.http.address
    with data_directory.lock(config.data_dir) as lock_file:
        ground = builtin.open_or_initialise(config.data_dir, system_entropy, system_seconds)
        node = Node(config, ground, Sources(system_seconds, system_monotonic, system_entropy))
        runner = web.AppRunner(
            build_app(node), handler_cancellation=True, access_log=None, shutdown_timeout=_shutdown_seconds
        )
        try:
            node.start()
            await runner.setup()
            await web.TCPSite(runner, host, port).start()
            url = f"http://{f'[{host}]' if ':' in host else host}:{runner.addresses[0][1]}"
            data_directory.write_holder(lock_file, url)
            yield node, url
        finally:
            await _stop(runner, node)


async def _stop(runner: web.AppRunner, node: Node) -> None:
    """Take nobody in, tell all who wait for a generation, let their handlers say so, end the rest.

    What waits for threads runs in one, because the handlers need the event loop to pass the news on.
    """
    for site in list(runner.sites):
        await site.stop()
    await asyncio.to_thread(node.scheduler.close)
    await runner.cleanup()
    await asyncio.to_thread(node.close)
