"""What every request passes: known Host, same origin on unsafe methods, security headers, faults as JSON.

The Host allow-list stops DNS rebinding: a page of another site whose name is made to resolve to 127.0.0.1 still sends
its own name. The Origin check stops that page's plain cross-site POSTs.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from blyan.api.errors import error_response
from blyan.api.state import node_of
from blyan.node.config import HttpConfig
from blyan.primitives.errors import Denied, Fault, InternalError, InvalidInput, NotFound, PayloadTooLarge

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = logging.getLogger(__name__)
_begun: Final = web.RequestKey("begun", bool)  # headers of the response went out
_safe_methods: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_loopback_names: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
_headers: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types lit-html blyan"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


async def add_security_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Signal handler: runs before any response's headers go out, streams included."""
    request[_begun] = True
    for name, value in _headers.items():
        response.headers.setdefault(name, value)


@web.middleware
async def faults_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn faults, and our own mistakes, into the error body; aiohttp's own errors too.

    A response that has begun is cut off instead: a second one would be read as part of its body.
    """
    try:
        return await handler(request)
    except ConnectionError:  # the caller went away
        raise
    except Exception as reason:  # noqa: BLE001 - request boundary: our own mistake is this request's 500, and logged
        if _begun in request:
            ours = None if isinstance(reason, Fault) else reason
            _log.error("%s %s: cut off: %s", request.method, request.path[:200], reason, exc_info=ours)
            raise ConnectionResetError("a response that has begun cannot become an error") from None
        return _error_answer(request, reason)


@web.middleware
async def known_host_and_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Deny requests that were sent to another name, or that another site's page sends."""
    hosts = request.headers.getall("Host", [])
    if len(hosts) != 1:  # `request.host` would take this machine's own name, which may be a loopback name
        raise Denied(f"Host: expected one such header, found {len(hosts)}")
    host = hosts[0].lower()
    name = host if host.endswith("]") else host.rsplit(":", 1)[0]
    if name not in _own_names(node_of(request).config.http):
        raise Denied(f"Host: expected a name of this node, found {hosts[0][:200]!r}", hint="see http.allowed_hosts")
    origin = request.headers.get("Origin")
    if request.method not in _safe_methods and origin is not None and _origin_host(origin) != host:
        raise Denied(f"Origin: expected {host!r}, found {origin[:200]!r}")
    return await handler(request)


def _error_answer(request: web.Request, reason: Exception) -> web.Response:
    if isinstance(reason, Fault):
        return error_response(reason)
    if isinstance(reason, web.HTTPRequestEntityTooLarge):
        return error_response(PayloadTooLarge(f"body: {reason.text}"))
    if isinstance(reason, web.HTTPNotFound):
        return error_response(NotFound(f"route: expected a known path, found {request.method} {request.path[:200]}"))
    if isinstance(reason, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(reason.allowed_methods))
        response = error_response(InvalidInput(f"method: expected {allowed}, found {request.method}"))
        response.set_status(405)
        response.headers["Allow"] = allowed
        return response
    if isinstance(reason, web.HTTPException):  # aiohttp's own answers
        raise reason
    _log.error("%s %s failed", request.method, request.path[:200], exc_info=reason)
    return error_response(InternalError(f"internal error: {type(reason).__name__}"))


def _own_names(http: HttpConfig) -> frozenset[str]:
    """Names that a Host header may say, in lower case."""
    listen, _ = http.address
    configured = {listen, f"[{listen}]", *http.allowed_hosts}
    return _loopback_names | {name.lower() for name in configured}


def _origin_host(origin: str) -> str | None:
    """HOST:PORT of an Origin header in lower case; None if it is no URL."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None
