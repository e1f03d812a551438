"""A node on a listening socket for as long as a context lasts: lock, ground, node, HTTP, and all of it closed again."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from aiohttp import web

from blyan.api.app import build_app
from blyan.api.door import listen
from blyan.api.metrics import metrics_served
from blyan.api.traffic import traffic_key
from blyan.node import builtin
from blyan.node.config import NodeConfig
from blyan.node.data_directory import lock_name, write_holder
from blyan.node.holdings import read_held
from blyan.node.keys import Passphrase
from blyan.node.machine import raise_descriptors, shorten_turns
from blyan.node.node import Node, Sources
from blyan.node.writer import opened
from blyan.primitives import limits
from blyan.primitives.clock import system_entropy, system_monotonic, system_seconds

_log = logging.getLogger(__name__)
_switch_seconds = 0.0005  # for how long the compute thread's Python may keep the event loop waiting
_turn_seconds = 0.0001  # of every thread on a core, while others wait for it: the loop has little to do, but soon
_young_objects = 10_000  # made between two collections of the youngest
_last_words_seconds = 2.0  # for handlers to say that the node ends, after `http.shutdown_seconds`


@asynccontextmanager
async def served(config: NodeConfig, passphrase: Passphrase) -> AsyncGenerator[tuple[Node, str]]:
    """Yield the started node and its URL. `DataDirectoryInUse`, `Denied` or what is wrong with the ground, before that.

    When the context is left, requests under way may end within `http.shutdown_seconds`: until then the node listens
    and refuses new ones with 503, and `/readyz` says why. The URL stands in the LOCK file while the node listens, so
    that other commands find it.
    """
    host, port = config.address
    with opened(config, now=system_seconds, entropy=system_entropy, passphrase=passphrase, new=True) as ground:
        if not config.network.join and not read_held(config.data_dir):  # else the swarm's models come
            builtin.install_first(ground)
        node = Node(config, ground, Sources(system_seconds, system_monotonic, system_entropy))
        app = build_app(node)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=_last_words_seconds)
        listening: asyncio.Server | None = None
        descriptors = raise_descriptors(descriptors_wanted(config))
        if descriptors < limits.requests_in_flight_max:
            _log.warning("this process may hold %d files and connections; `ulimit -n` allows more", descriptors)
        sys.setswitchinterval(_switch_seconds)
        shorten_turns(_turn_seconds)
        _spare_collector()
        try:
            node.start()
            await runner.setup()
            listening, taken = await listen(runner, host, port, lambda: node.sources.entropy(8).hex())
            url = f"http://{f'[{host}]' if ':' in host else host}:{taken}"
            async with metrics_served(node) as metrics_url:
                if metrics_url is not None:
                    _log.info("metrics at %s", metrics_url)
                write_holder(config.data_dir / lock_name, url)
                yield node, url
                await app[traffic_key].drained(config.http.shutdown_seconds)
        finally:
            if listening is not None:
                listening.close()
            await _stop(runner, node)


def descriptors_wanted(config: NodeConfig) -> int:
    """Connections and files that a node may have open at once: what strangers open takes none from the others."""
    sockets = limits.connections_max + (0 if config.network.address is None else limits.peer_connections_max)
    return sockets + limits.descriptors_beside_connections


def _spare_collector() -> None:
    """What was imported stays for ever: a collection that looked through all of it would hold up everybody for long."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_young_objects)


async def _stop(runner: web.AppRunner, node: Node) -> None:
    """Tell all who wait for a generation, let their handlers say so, end the rest.

    What waits for threads runs in one, because the handlers need the event loop to pass the news on.
    """
    await asyncio.to_thread(node.scheduler.close)
    await runner.cleanup()
    await asyncio.to_thread(node.close)
