"""Which client a request comes from, for sharing the machine fairly.

Where there are accounts a caller is its account; whoever has shown none, and everybody where there are no accounts, is
told apart by API key or address, and the callers of one application by the `user` that it names. Without accounts
nobody checks keys: a caller who makes up many has many shares, as one with many addresses would.
"""

from __future__ import annotations

import hashlib

from aiohttp import web

from blyan.api.caller import caller_key
from blyan.api.state import node_of
from blyan.auth.proxies import client_address
from blyan.node.tracing import current_trace
from blyan.primitives import limits


def address_of(request: web.Request) -> str:
    """The client's address, through proxies that the configuration trusts."""
    forwarded = request.headers.getall("X-Forwarded-For", [])
    return client_address(request.remote, forwarded, node_of(request).config.http.proxies)


def tell_client(request: web.Request, user: object = None) -> None:
    """Note in the request's trace which client it is of: a digest, so that no key lies about in memory."""
    trace = current_trace()
    if trace is None:
        return
    named = user[: limits.client_chars_max] if isinstance(user, str) else ""
    parts = (*_who(request), named)
    trace.client = hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def client_of_trace() -> str:
    """The client of the request that this code works for."""
    trace = current_trace()
    return "" if trace is None else trace.client


def _who(request: web.Request) -> tuple[str, str]:
    caller = request.get(caller_key)
    if caller is not None and caller.account is not None:
        return caller.account, "account"
    key = request.headers.get("Authorization", "")
    if key and (caller is None or caller.open):
        return key, "key"
    return address_of(request), "address"
