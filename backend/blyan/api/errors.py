"""Faults as HTTP: one table from the fault tree to statuses, one shape of body.

The body has OpenAI's fields (`message`, `type`, `param`, `code`) and ours (`detail`, `hint`), so that both kinds of
client read it. Codes are listed in docs/errors.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson
from aiohttp import web

from blyan.node.tracing import current_trace
from blyan.primitives import errors

# most specific first; the first class that matches gives status and OpenAI error type
_statuses: Final[Mapping[type[errors.Fault], tuple[int, str]]] = {
    errors.RequestTimeout: (408, "invalid_request_error"),
    errors.PayloadTooLarge: (413, "invalid_request_error"),
    errors.IdempotencyConflict: (409, "invalid_request_error"),
    errors.QuoteExpired: (409, "invalid_request_error"),
    errors.NotYet: (409, "invalid_request_error"),
    errors.InvalidInput: (400, "invalid_request_error"),
    errors.NotFound: (404, "not_found_error"),
    errors.Unauthenticated: (401, "authentication_error"),
    errors.InsufficientFunds: (402, "insufficient_funds"),
    errors.Denied: (403, "permission_error"),
    errors.QueueFull: (429, "rate_limit_error"),
    errors.IntegrityFault: (503, "integrity_error"),
    errors.Unavailable: (503, "server_error"),
    errors.PeerFault: (502, "server_error"),
    errors.Fault: (500, "server_error"),
}
_retry_after_seconds: Final = 5


def status_of(fault: errors.Fault) -> int:
    """The HTTP status of a fault."""
    return next(status for cls, (status, _) in _statuses.items() if isinstance(fault, cls))


def error_body(fault: errors.Fault) -> dict[str, Any]:
    """The JSON body of a fault."""
    kind = next(kind for cls, (_, kind) in _statuses.items() if isinstance(fault, cls))
    return {
        "error": {
            "message": fault.message,
            "type": kind,
            "param": fault.detail.get("param"),
            "code": fault.code,
            "detail": dict(fault.detail),
            "hint": fault.hint,
        }
    }


def named_error_body(fault: errors.Fault) -> dict[str, Any]:
    """The JSON body of a fault that ends a request: with the request's id, by which the log is searched."""
    body, trace = error_body(fault), current_trace()
    if trace is not None:
        body["error"]["request_id"] = trace.identity
    return body


def error_response(fault: errors.Fault, *, status: int | None = None, path: str = "") -> web.Response:
    """A complete response for a fault that comes before any body was sent, in the dialect of the path."""
    body = ollama_error(fault) if path.startswith("/api/") else named_error_body(fault)
    seconds = fault.detail.get("retry_after_seconds", _retry_after_seconds)
    headers = {"Retry-After": str(seconds)} if isinstance(fault, errors.Unavailable) else None
    if isinstance(fault, errors.Unauthenticated):
        headers = {"WWW-Authenticate": 'Bearer realm="blyan"'}
    return json_response(body, status=status or status_of(fault), headers=headers)


def ollama_error(fault: errors.Fault) -> dict[str, str]:
    """The Ollama dialect's body of a fault."""
    return {"error": fault.message}


def json_response(
    value: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A JSON response; nothing of it is cached unless `headers` says so."""
    return web.Response(
        body=orjson.dumps(value),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )
