"""One route as a value: how it is reached, who answers, and what goes in and comes out.

`api/routes` lists them all; the aiohttp application and `/openapi.json` are both made from that list, so neither can
know a route that the other does not.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from aiohttp import web

from blyan.api.caller import Access
from blyan.wire.schema import Schema, anything

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
Contents: TypeAlias = Mapping[str, Schema]  # media type → what it holds

binary: Final[Schema] = {"type": "string", "contentMediaType": "application/octet-stream"}
octets: Final[Contents] = {"application/octet-stream": binary}
plain: Final[Contents] = {"text/plain": {"type": "string"}}
_paid: Final = (402, 404, 409)  # what may cost something: too little money, no such model, a quote that is over
_parameter: Final = re.compile(r"\{(\w+)(?::[^{}]*)?\}")


def json_of(schema: Schema) -> Contents:
    """A JSON body."""
    return {"application/json": schema}


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. Every GET answers HEAD too."""

    method: str
    path: str  # as aiohttp writes it, such as `/chain/{name}/tile/{path:.+}`
    handler: Handler
    answers: Mapping[int, Contents]
    body: Schema | None = None  # a JSON object; None: the route reads no JSON body
    query: Mapping[str, Schema] = field(default_factory=dict[str, Schema])
    required: tuple[str, ...] = ()  # of the query
    headers: tuple[str, ...] = ()  # request headers that change the answer
    errors: tuple[int, ...] = ()  # beside those that every route may answer
    group: str = "node"
    access: Access = "models"  # the most there is, for a route that does not say what it needs

    @property
    def template(self) -> str:
        """The path as OpenAPI writes it, which is also its name in metrics and logs."""
        return _parameter.sub(r"{\1}", self.path)

    @property
    def parameters(self) -> list[str]:
        """Names of the parts of the path that vary."""
        return _parameter.findall(self.path)


def get(
    path: str,
    handler: Handler,
    answer: Contents,
    *,
    more: Mapping[int, Contents] | None = None,
    query: Mapping[str, Schema] | None = None,
    required: tuple[str, ...] = (),
    headers: tuple[str, ...] = (),
    errors: tuple[int, ...] = (),
    group: str = "node",
    access: Access = "public",
) -> Route:
    """A GET route, for everybody unless it says what it needs; `more` are its answers beside 200."""
    answers = {200: answer, **(more or {})}
    return Route("GET", path, handler, answers, None, query or {}, required, headers, errors, group, access)


def openai_post(path: str, handler: Handler, body: Schema, answer: Schema, *, streams: bool = True) -> Route:
    """A POST route of the OpenAI dialect: a JSON object in; out a JSON object or server-sent events."""
    contents = {**json_of(answer), **({"text/event-stream": {"description": "server-sent events"}} if streams else {})}
    return Route("POST", path, handler, {200: contents}, body, errors=_paid, group="openai", access="inference")


def ollama_post(
    path: str,
    handler: Handler,
    body: Schema = anything,
    answer: Schema = anything,
    *,
    streams: bool = False,
    access: Access = "inference",
) -> Route:
    """A POST route of the Ollama dialect: a JSON object in; out a JSON object or lines of them."""
    contents = {**json_of(answer), **({"application/x-ndjson": {"type": "string"}} if streams else {})}
    errors = _paid if access == "inference" else (404,)
    return Route("POST", path, handler, {200: contents}, body, errors=errors, group="ollama", access=access)


def ollama(method: str, path: str, handler: Handler, *, errors: tuple[int, ...] = (404,)) -> Route:
    """Any other route of that dialect, such as DELETE or one that takes bytes: answers with or without a body."""
    answers: Mapping[int, Contents] = {200: json_of(anything), 201: {}}
    return Route(method, path, handler, answers, errors=errors, group="ollama")


def auth_post(
    path: str, handler: Handler, body: Schema, answer: Schema, *, access: Access = "public", made: bool = False
) -> Route:
    """A POST route of sign-in: a JSON object in and out; `made` says that it answers 201."""
    answers: Mapping[int, Contents] = {201 if made else 200: json_of(answer)}
    return Route("POST", path, handler, answers, body, group="auth", access=access)
