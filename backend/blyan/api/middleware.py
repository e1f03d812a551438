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
from blyan.primitives.errors import Denied, Fault, InternalError, InvalidInput, NotFound, PayloadTooLarge

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = logging.getLogger(__name__)
_safe_methods: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_loopback_names: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
_headers: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types lit-html"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


async def add_security_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Signal handler: runs before any response's headers go out, streams included."""
    for name, value in _headers.items():
        response.headers.setdefault(name, value)


@web.middleware
async def faults_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn faults, and our own mistakes, into the error body; aiohttp's own errors too."""
    try:
        return await handler(request)
    except Fault as fault:
        return error_response(fault)
    except web.HTTPRequestEntityTooLarge as reason:
        return error_response(PayloadTooLarge(f"body: {reason.text}"))
    except web.HTTPNotFound:
        return error_response(NotFound(f"route: expected a known path, found {request.method} {request.path[:200]}"))
    except web.HTTPMethodNotAllowed as reason:
        response = error_response(
            InvalidInput(f"method: expected {', '.join(sorted(reason.allowed_methods))}, found {request.method}")
        )
        response.set_status(405)
        response.headers["Allow"] = ", ".join(sorted(reason.allowed_methods))
        return response
    except (web.HTTPException, ConnectionError):  # aiohttp's own answers, and callers that went away
        raise
    except Exception as reason:  # noqa: BLE001 - request boundary: our own mistake is this request's 500, and logged
        _log.exception("%s %s failed", request.method, request.path)
        return error_response(InternalError(f"internal error: {type(reason).__name__}"))


@web.middleware
async def known_host_and_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Deny requests that were sent to another name, or that another site's page sends."""
    host = request.host
    name = host if host.endswith("]") else host.rsplit(":", 1)[0]
    if name.lower() not in _loopback_names and name.lower() not in node_of(request).config.http.allowed_hosts:
        raise Denied(f"Host: expected a name of this node, found {host[:200]!r}", hint="see http.allowed_hosts")
    origin = request.headers.get("Origin")
    if request.method not in _safe_methods and origin is not None and urlsplit(origin).netloc != host:
        raise Denied(f"Origin: expected {host!r}, found {origin[:200]!r}")
    return await handler(request)
