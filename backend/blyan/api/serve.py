"""A node on a listening socket for as long as a context lasts: lock, ground, node, HTTP, and all of it closed again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from aiohttp import web

from blyan.api.app import build_app
from blyan.node import builtin
from blyan.node.config import NodeConfig
from blyan.node.data_directory import lock_name, write_holder
from blyan.node.keys import Passphrase
from blyan.node.node import Node, Sources
from blyan.node.writer import opened
from blyan.primitives.clock import system_entropy, system_monotonic, system_seconds

_shutdown_seconds = 2.0  # for answers under way when the node is asked to stop


@asynccontextmanager
async def served(config: NodeConfig, passphrase: Passphrase) -> AsyncGenerator[tuple[Node, str]]:
    """Yield the started node and its URL. `DataDirectoryInUse`, `Denied` or what is wrong with the ground, before that.

    The URL stands in the LOCK file while the node listens, so that other commands find it.
    """
    host, port = config.http.address
    with opened(config, now=system_seconds, entropy=system_entropy, passphrase=passphrase, new=True) as ground:
        builtin.install_first(ground)
        node = Node(config, ground, Sources(system_seconds, system_monotonic, system_entropy))
        runner = web.AppRunner(
            build_app(node), handler_cancellation=True, access_log=None, shutdown_timeout=_shutdown_seconds
        )
        try:
            node.start()
            await runner.setup()
            await web.TCPSite(runner, host, port).start()
            url = f"http://{f'[{host}]' if ':' in host else host}:{runner.addresses[0][1]}"
            write_holder(config.data_dir / lock_name, url)
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
