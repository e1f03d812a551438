"""Who may change the node itself: its operators; where there are no accounts, whoever asks by a loopback name."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from blyan.api.state import node_of
from blyan.node.node import Node
from blyan.primitives.errors import Denied

_loopback_names: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})


def node_to_change(request: web.Request) -> Node:
    """The node, for a caller that may change it: without accounts one who asks by a loopback name, else `Denied`."""
    node = node_of(request)
    if node.accounts is not None:  # the guard has let in an operator
        return node
    host = request.headers.get("Host", "").lower()
    name = host if host.endswith("]") else host.rsplit(":", 1)[0]
    if name not in _loopback_names:
        raise Denied(
            f"Host: expected a loopback name on routes that change a node, found {host[:200]!r}",
            hint="ask on the machine of the node: it has no accounts",
        )
    return node
