"""The HTTP application: its middleware, and a route for each line of the route table."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable

from aiohttp import web

from blyan.api import page
from blyan.api.caller import Access
from blyan.api.document import build_document, document_key
from blyan.api.door import expected
from blyan.api.guard import access_key, guarded
from blyan.api.loop_delay import loop_watched
from blyan.api.middleware import (
    add_security_headers,
    admitted,
    faults_as_json,
    known_host_and_origin,
    quiet_key,
    traced,
)
from blyan.api.route import Route
from blyan.api.routes import routes
from blyan.api.state import node_key
from blyan.api.traffic import Traffic, traffic_key
from blyan.model.manifest import Manifest
from blyan.network.sources import SourceBook
from blyan.node.node import Node
from blyan.node.publish import publish_held
from blyan.node.pulling import book_name
from blyan.node.taking import Taking
from blyan.primitives import limits


def build_app(node: Node) -> web.Application:
    """The HTTP application of a node that was started."""
    app = web.Application(
        middlewares=[traced, faults_as_json, known_host_and_origin, admitted, guarded],
        client_max_size=limits.request_body_bytes_max,
    )
    app[node_key] = node
    app[traffic_key] = Traffic()
    app.on_response_prepare.append(add_security_headers)
    app.cleanup_ctx.append(loop_watched)
    app.cleanup_ctx.append(_books_kept)
    app.cleanup_ctx.append(_models_taken)
    table = (*routes, *page.page_routes(page.page_folder()))
    for route in table:
        app.router.add_route(route.method, route.path, route.handler, expect_handler=expected)
        if route.method == "GET":
            app.router.add_route("HEAD", route.path, route.handler, expect_handler=expected)
    app[quiet_key] = frozenset(route.template for route in table if route.group in ("health", "page"))
    app[access_key] = access_of(table)
    app.on_cleanup.append(_close_accounts)
    app[document_key] = build_document(table)
    return app


def access_of(table: Iterable[Route]) -> dict[tuple[str, str], Access]:
    """(method, template) → what is needed."""
    found: dict[tuple[str, str], Access] = {}
    for route in table:
        found[route.method, route.template] = route.access
        if route.method == "GET":
            found["HEAD", route.template] = route.access
    return found


async def _books_kept(app: web.Application) -> AsyncGenerator[None]:
    """The books are looked after while the node serves, and closed once nobody asks any more."""
    books = app[node_key].books
    if books is None:
        yield
        return
    charges = app[node_key].charges
    assert charges is not None, "whoever has books charges"
    keeping = [asyncio.create_task(each.keep()) for each in (books, charges)]
    try:
        yield
    finally:
        for task in keeping:
            task.cancel()
        await asyncio.gather(*keeping, return_exceptions=True)
        await charges.drain()
        await books.close()


async def _models_taken(app: web.Application) -> AsyncGenerator[None]:
    """What the swarm has is taken while the node serves, and answered with."""
    node = app[node_key]
    if node.peering is None:
        yield
        return
    loop = asyncio.get_running_loop()

    def serve(manifest: Manifest) -> None:
        with node.changing() as ground:
            publish_held(ground, manifest)
        loop.call_soon_threadsafe(node.adopt, manifest.name, node.loaded(manifest.name))

    book = SourceBook(node.config.data_dir / book_name, node.sources.now)
    taking = node.peering.follow(Taking(node.peering, serve, book).run)
    try:
        yield
    finally:
        taking.cancel()
        await asyncio.gather(asyncio.wrap_future(taking), return_exceptions=True)


async def _close_accounts(app: web.Application) -> None:
    accounts = app[node_key].accounts
    if accounts is not None:
        await accounts.close()
