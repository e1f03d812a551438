"""`GET /metrics` on a listen address of its own, off unless `metrics.listen` is set."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from aiohttp import web

from blyan.api.middleware import Handler, faults_as_json, harden, want_known_host
from blyan.api.state import node_key, node_of
from blyan.node.node import Node


@asynccontextmanager
async def metrics_served(node: Node) -> AsyncGenerator[str | None]:
    """Answer on the configured address until the context ends; its URL, None if there is no such door."""
    address = node.config.metrics.address
    if address is None:
        yield None
        return
    host, _ = address
    runner = web.AppRunner(build_metrics_app(node), access_log=None, shutdown_timeout=0)
    try:
        await runner.setup()
        await web.TCPSite(runner, *address).start()
        yield f"http://{f'[{host}]' if ':' in host else host}:{runner.addresses[0][1]}/metrics"
    finally:
        await runner.cleanup()


def build_metrics_app(node: Node) -> web.Application:
    """The one route. Names are checked as the API's are, unless other machines may ask anyway."""
    app = web.Application(middlewares=[faults_as_json, _known_host], client_max_size=0)
    app[node_key] = node
    app.on_response_prepare.append(_hardened)
    app.router.add_get("/metrics", _metrics)
    return app


async def _metrics(request: web.Request) -> web.Response:
    """Everything the node counts: OpenMetrics for who accepts it, else Prometheus' text."""
    accept = request.headers.get("Accept", "")
    body, kind = await asyncio.to_thread(node_of(request).metrics.text, accept)
    return web.Response(body=body, headers={"Content-Type": kind, "Cache-Control": "no-store"})


@web.middleware
async def _known_host(request: web.Request, handler: Handler) -> web.StreamResponse:
    config = node_of(request).config
    if not config.metrics.allow_remote and config.metrics.address is not None:
        want_known_host(request, config.metrics.address[0], ())
    return await handler(request)


async def _hardened(_: web.Request, response: web.StreamResponse) -> None:
    harden(response)
