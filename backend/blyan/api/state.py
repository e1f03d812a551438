"""Where the application keeps its node: typed keys of the aiohttp application."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from blyan.node.node import Node

node_key: Final = web.AppKey("node", Node)


def node_of(request: web.Request) -> Node:
    """The node that serves this request."""
    return request.app[node_key]
