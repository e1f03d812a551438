"""`GET /openapi.json`: the OpenAPI 3.1 document of the routes that this application has, made from its route table."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson
from aiohttp import web

from blyan import __version__
from blyan.api.route import Contents, Route
from blyan.chain.entries import chain_names
from blyan.wire import ollama_schema, openai_schema
from blyan.wire.schema import Schema, hex64, one_of, text

document_key: Final = web.AppKey("document", bytes)

# parts of paths, by name; the rest is text
_path_parameters: Final[Mapping[str, Schema]] = {"name": one_of(*chain_names), "payload_id": hex64}
_path_parameters_of: Final[Mapping[tuple[str, str], Schema]] = {("/entries/{id}", "id"): hex64}
# what any route may answer: malformed, an API key that does not hold, another Host or Origin, slow, too large, too
# many, our mistake, not now
_every_route: Final = (400, 401, 403, 408, 413, 417, 429, 431, 500, 503)
_said: Final[Mapping[int, str]] = {
    400: "A value does not fit; nothing was changed.",
    401: "Nobody was shown who may do it, or an API key that does not hold.",
    402: "The account has less than the answer may cost.",
    403: "Denied: another Host or Origin, or a policy of the node.",
    404: "The named thing is not here.",
    408: "The body did not come in time.",
    409: "Not yet, or not any more: a receipt that is not sealed, a quote whose time is over.",
    413: "The body is above its limit.",
    417: "Only `Expect: 100-continue` is known.",
    429: "Too many requests are under way or wait, or a quota is used up; `Retry-After` says when to come again.",
    431: "The headers are above their limit.",
    500: "A mistake of the node's; its log has more.",
    503: "Not now: draining, a corrupt block, no model; the same request may succeed later.",
}
_security: Final = (
    "An API key of a node with accounts (see docs/http.md); browsers have a session in its place. "
    "Nodes without accounts need neither."
)
_request_id: Final = {
    "X-Request-Id": {
        "description": "The id that came in this header, or the one that was made; the log has it too.",
        "schema": text(1, 128),
    }
}


async def openapi(request: web.Request) -> web.Response:
    """This document."""
    return web.Response(
        body=request.app[document_key], content_type="application/json", headers={"Cache-Control": "no-cache"}
    )


def build_document(table: Iterable[Route]) -> bytes:
    """The document as JSON. Pure: the same table gives the same bytes."""
    paths: dict[str, dict[str, Any]] = {}
    for route in table:
        paths.setdefault(route.template, {})[route.method.lower()] = _operation(route)
    return orjson.dumps(
        {
            "openapi": "3.1.1",
            "info": {
                "title": "Blyan node",
                "version": __version__,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
                "description": "Every GET answers HEAD too. Error codes: docs/errors.md.",
            },
            "paths": paths,
            "components": {
                "securitySchemes": {"apiKey": {"type": "http", "scheme": "bearer", "description": _security}},
                "schemas": {"Error": openai_schema.error, "OllamaError": ollama_schema.error},
                "responses": {
                    f"{name}{status}": _error(status, name) for name in ("Error", "OllamaError") for status in _said
                },
            },
        },
    )


def _operation(route: Route) -> dict[str, Any]:
    said = (inspect.getdoc(route.handler) or "").partition("\n")[0]
    name = route.template.strip("/").translate(str.maketrans({"/": "_", "{": "", "}": "", ".": "_", "-": "_"}))
    errors = "OllamaError" if route.group == "ollama" else "Error"
    answers = {str(status): _answer(status, contents) for status, contents in route.answers.items()}
    for status in sorted({*_every_route, *route.errors}):
        answers.setdefault(str(status), {"$ref": f"#/components/responses/{errors}{status}"})
    operation: dict[str, Any] = {
        "operationId": f"{route.method.lower()}_{name or 'page'}",
        "summary": said,
        "tags": [route.group],
        "parameters": _parameters(route),
        "responses": answers,
    }
    if route.access not in ("public", "session"):
        operation["security"] = [{"apiKey": []}, {}]
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": route.body}}}
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": _path_parameters_of.get((route.template, name), _path_parameters.get(name, text(1))),
        }
        for name in route.parameters
    ]
    found += [
        {"name": name, "in": "query", "required": name in route.required, "schema": schema}
        for name, schema in route.query.items()
    ]
    found += [{"name": name, "in": "header", "required": False, "schema": text()} for name in route.headers]
    return found


def _answer(status: int, contents: Contents) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": HTTPStatus(status).phrase, "headers": _request_id}
    if contents:
        answer["content"] = {kind: {"schema": schema} for kind, schema in contents.items()}
    return answer


def _error(status: int, schema: str) -> dict[str, Any]:
    headers: dict[str, Any] = dict(_request_id)
    if status in (429, 503):
        headers["Retry-After"] = {"description": "seconds", "schema": text(1)}
    return {
        "description": _said[status],
        "headers": headers,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }
