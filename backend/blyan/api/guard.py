"""Who asks, and may they: every request passes here before its handler. What no rule allows is denied.

A caller shows an API key (`Authorization: Bearer`) or the cookie of a session; a key that does not hold is refused also
where none is needed. The cookie counts only in requests of this node's own page: browsers send it with whatever any
page makes them ask, so its `Sec-Fetch-Site` and, on methods that change something, its `Origin` must be ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from blyan.api.caller import Access, Caller, caller_key, note_caller
from blyan.api.client import address_of, tell_client
from blyan.api.cookies import session_cookie
from blyan.api.middleware import Handler, quiet_key, route_of, safe_methods
from blyan.api.state import node_of
from blyan.node.accounts import Accounts
from blyan.primitives.errors import Denied, Unauthenticated

# (method, template) → what is needed; what is not in it needs the most
access_key: Final = web.AppKey("access", Mapping[tuple[str, str], Access])
_own_sites: Final = frozenset({"same-origin", "none"})  # `none`: typed by the user


@web.middleware
async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Find out who asks, charge their quotas, and let them in, or not."""
    node = node_of(request)
    route = route_of(request)
    address = address_of(request)
    if node.accounts is None:
        note_caller(request, Caller(address, open=True))
        return await handler(request)
    if route in request.app[quiet_key]:  # health and page: answered however many ask
        note_caller(request, Caller(address))
        return await handler(request)
    try:
        caller = await _found(request, node.accounts, address)
    except Unauthenticated:  # who tries keys is counted as everybody is, by the address
        await node.accounts.charge(Caller(address).request_charges(node.config.quotas))
        raise
    note_caller(request, caller)
    tell_client(request)
    await node.accounts.charge(caller.request_charges(node.config.quotas))
    if request.match_info.route.resource is not None:  # else 404 or 405 tells nobody anything
        want(request, request.app[access_key].get((request.method, route), "models"))
    return await handler(request)


def want(request: web.Request, access: Access) -> None:
    """`Unauthenticated` or `Denied` unless the caller may do this."""
    caller = request[caller_key]
    if caller.may(access):
        return
    if caller.account is None:
        raise Unauthenticated(
            f"sign-in: expected an API key or a session for {request.method} {route_of(request)}, found neither",
            hint="sign in on the page, or send Authorization: Bearer sk-blyan-…",
        )
    if access == "session":
        raise Denied("session: expected one of a browser, found an API key", hint="keys make no keys")
    if access == "models" and caller.role != "operator":
        raise Denied(f"account: expected an operator of this node, found {caller.account}")
    raise Denied(
        f"API key: expected one with the scope {access!r}, found {', '.join(caller.key.scopes if caller.key else ())}"
    )


async def _found(request: web.Request, accounts: Accounts, address: str) -> Caller:
    shown = request.headers.getall("Authorization", [])
    if shown:
        kind, _, text = shown[0].partition(" ")
        if len(shown) > 1 or kind.lower() != "bearer":
            raise Unauthenticated("Authorization: expected one, as Bearer and an API key, found something else")
        key = await accounts.keys.check(text.strip())
        return Caller(address, account=key.account, role=accounts.role(key.account), key=key)
    secret = session_cookie(request, accounts.origin)
    if secret is None or not _of_our_page(request, accounts):
        return Caller(address)
    session = await accounts.door.session(secret)
    if session is None:
        return Caller(address)
    return Caller(address, account=session.account, role=accounts.role(session.account), session=session)


def _of_our_page(request: web.Request, accounts: Accounts) -> bool:
    """Whether a cookie counts in this request."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None and site not in _own_sites:
        return False
    if origin is not None:
        return origin == accounts.origin.text
    return request.method in safe_methods or site == "same-origin"
