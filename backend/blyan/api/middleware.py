"""What every request passes: known Host, same origin on unsafe methods, security headers, faults as JSON.

The Host allow-list stops DNS rebinding: a page of another site whose name is made to resolve to 127.0.0.1 still sends
its own name. The Origin check stops that page's plain cross-site POSTs.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from blyan.api.body import held_key
from blyan.api.client import tell_client
from blyan.api.errors import error_response
from blyan.api.state import node_of
from blyan.api.traffic import traffic_key
from blyan.api.turnstile import turn
from blyan.node.logs import fields_attribute
from blyan.node.metrics import Metrics
from blyan.node.tracing import Trace, begin_trace, current_trace
from blyan.primitives.errors import Denied, Fault, InternalError, InvalidInput, NotFound, PayloadTooLarge

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = logging.getLogger(__name__)
_requests_log = logging.getLogger("blyan.requests")
# templates of routes that are always answered and, if they go well, logged at level debug alone: health and page
quiet_key: Final = web.AppKey("quiet", frozenset[str])
_left: Final = 499  # the caller left before the answer (nginx's number for it)
_known_methods: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_begun: Final = web.RequestKey("begun", bool)  # headers of the response went out
safe_methods: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_loopback_names: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
_headers: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
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
    harden(response)
    trace = current_trace()
    if trace is not None:
        response.headers["X-Request-Id"] = trace.identity


def harden(response: web.StreamResponse) -> None:
    """Add the security headers that every response has."""
    for name, value in _headers.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "blyan"  # not the versions of what it is made of


@web.middleware
async def traced(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its id, count it, and write its line into the log when it has ended.

    The line names the route, never the path or the query, which hold what the caller wrote.
    """
    node = node_of(request)
    given = request.headers.getall("X-Request-Id", [])
    trace = begin_trace(given[0] if len(given) == 1 else None, node.sources.entropy(8))
    tell_client(request)
    began, status = node.sources.monotonic(), _left
    node.metrics.in_flight.inc()
    try:
        response = await handler(request)
        status = response.status
        return response
    finally:
        node.metrics.in_flight.dec()
        seconds = node.sources.monotonic() - began
        _account(node.metrics, trace, request, status, seconds)


def route_of(request: web.Request) -> str:
    """The template of the route, `unmatched` for a path or method that none has."""
    resource = request.match_info.route.resource
    return "unmatched" if resource is None else resource.canonical


def _account(metrics: Metrics, trace: Trace, request: web.Request, status: int, seconds: float) -> None:
    method = request.method if request.method in _known_methods else "other"
    route = route_of(request)
    metrics.requests.labels(method, route, str(status)).inc()
    metrics.request_seconds.labels(method, route).observe(seconds)
    quiet = status < 400 and request.app[quiet_key].issuperset({route})
    fields: dict[str, str | int | float] = {"method": method, "route": route, "status": status}
    fields["duration_ms"] = round(seconds * 1000, 3)
    if trace.outcome:
        fields |= {
            "prompt_tokens": trace.prompt_tokens,
            "completion_tokens": trace.completion_tokens,
            "outcome": trace.outcome,
        }
    _requests_log.log(logging.DEBUG if quiet else logging.INFO, "request", extra={fields_attribute: fields})


@web.middleware
async def admitted(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what is too much, or comes while the node ends; health is answered always."""
    if route_of(request) in request.app[quiet_key]:
        return await handler(request)
    await turn()
    twice = next((name for name in request.query if len(request.query.getall(name)) > 1), None)
    if twice is not None:
        raise InvalidInput(f"query: expected each name once, found {twice[:80]!r} again")
    traffic = request.app[traffic_key]
    with traffic.admitted():
        try:
            return await handler(request)
        finally:
            traffic.let_go(request.get(held_key, 0))


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
            why = reason.code if isinstance(reason, Fault) else type(reason).__name__
            _log.error("%s: an answer that had begun is cut off: %s", route_of(request), why, exc_info=ours)
            raise ConnectionResetError("a response that has begun cannot become an error") from None
        return _error_answer(request, reason)


@web.middleware
async def known_host_and_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Deny requests that were sent to another name, or that another site's page sends."""
    config = node_of(request).config
    where = config.accounts.where
    ours = (*config.http.allowed_hosts, *([where.host] if where else []))
    host = want_known_host(request, config.http.address[0], ours)
    origin = request.headers.get("Origin")
    # the configured origin is ours also where a proxy names this node otherwise to us
    foreign = origin is not None and (where is None or origin != where.text) and _origin_host(origin) != host
    if foreign and request.method not in safe_methods:
        raise Denied(f"Origin: expected {host!r}, found {str(origin)[:200]!r}")
    return await handler(request)


def want_known_host(request: web.Request, listen: str, allowed: Iterable[str]) -> str:
    """The request's Host in lower case; `Denied` if it is no name of the node, `listen` and `allowed` among them."""
    hosts = request.headers.getall("Host", [])
    if len(hosts) != 1:  # `request.host` would take this machine's own name, which may be a loopback name
        raise Denied(f"Host: expected one such header, found {len(hosts)}")
    host = hosts[0].lower()
    name = host if host.endswith("]") else host.rsplit(":", 1)[0]
    if name not in _loopback_names | {each.lower() for each in (listen, f"[{listen}]", *allowed)}:
        raise Denied(f"Host: expected a name of this node, found {hosts[0][:200]!r}", hint="see http.allowed_hosts")
    return host


def _error_answer(request: web.Request, reason: Exception) -> web.Response:
    path = request.path
    if isinstance(reason, Fault):
        return error_response(reason, path=path)
    if isinstance(reason, web.HTTPRequestEntityTooLarge):
        return error_response(PayloadTooLarge(f"body: {reason.text}"), path=path)
    if isinstance(reason, web.HTTPNotFound):
        return error_response(NotFound(f"route: expected a known path, found {request.method} {path[:200]}"), path=path)
    if isinstance(reason, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(reason.allowed_methods))
        fault = InvalidInput(f"method: expected {allowed}, found {request.method[:40]}")
        response = error_response(fault, status=405, path=path)
        response.headers["Allow"] = allowed
        return response
    if isinstance(reason, web.HTTPException) and reason.status >= 400:  # aiohttp's own answers, in our shape
        return error_response(InvalidInput(f"request: {reason.reason}"), status=reason.status, path=path)
    if isinstance(reason, web.HTTPException):
        raise reason
    _log.error("%s failed", route_of(request), exc_info=reason)
    return error_response(InternalError(f"internal error: {type(reason).__name__}"), path=path)


def _origin_host(origin: str) -> str | None:
    """HOST:PORT of an Origin header in lower case; None if it is no URL."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None
