"""Which client a request comes from, for sharing the machine fairly.

Whoever sends an API key is told apart by it, others by their address, and the callers of one application by the `user`
that it names. Nobody checks keys in this version: a caller who makes up many has many shares, as one with many
addresses would.
"""

from __future__ import annotations

import hashlib

from aiohttp import web

from blyan.node.tracing import current_trace
from blyan.primitives import limits


def tell_client(request: web.Request, user: object = None) -> None:
    """Note in the request's trace which client it is of: a digest, so that no key lies about in memory."""
    trace = current_trace()
    if trace is None:
        return
    key = request.headers.get("Authorization", "")
    named = user[: limits.client_chars_max] if isinstance(user, str) else ""
    parts = (key or request.remote or "", "key" if key else "address", named)
    trace.client = hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def client_of_trace() -> str:
    """The client of the request that this code works for."""
    trace = current_trace()
    return "" if trace is None else trace.client
