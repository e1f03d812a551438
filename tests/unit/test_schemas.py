"""`/openapi.json` is a valid document, has every route and no other, and names the fields that the parsers know."""

import ast
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from openapi_spec_validator import OpenAPIV31SpecValidator

from blyan.api.app import build_app
from blyan.api.document import build_document, document_key
from blyan.api.route import Route, get, plain
from blyan.node.config import NodeConfig
from blyan.node.node import Node
from blyan.primitives.errors import InvalidInput
from blyan.wire import ollama, ollama_schema, openai, openai_schema

Parser = Callable[[Mapping[str, Any]], object]


@pytest.fixture(scope="module")
def app() -> web.Application:
    return build_app(cast("Node", SimpleNamespace(config=NodeConfig(Path()))))


def document(app: web.Application) -> dict[str, Any]:
    return json.loads(app[document_key])


def test_the_document_is_valid_openapi(app: web.Application) -> None:
    OpenAPIV31SpecValidator(document(app)).validate()


def test_every_route_stands_in_the_document_and_the_other_way_round(app: web.Application) -> None:
    """HEAD is answered wherever GET is and not written out."""
    served = {
        (route.method.lower(), route.resource.canonical) for route in app.router.routes() if route.resource is not None
    }
    served -= {("head", path) for method, path in served if method == "get"}
    written = {(method, path) for path, item in document(app)["paths"].items() for method in item}
    assert served == written


def test_every_operation_says_what_it_does_and_which_errors_it_answers(app: web.Application) -> None:
    for path, item in document(app)["paths"].items():
        for method, operation in item.items():
            assert operation["summary"].endswith((".", ":")), (method, path)
            assert {"400", "403", "408", "413", "429", "500", "503"} <= operation["responses"].keys()


def test_names_of_parameters_are_those_of_the_path() -> None:
    async def handler(_: web.Request) -> web.Response:
        """Answers."""
        return web.Response()

    made = json.loads(build_document([get("/a/{one}/{two:.+}", handler, plain)]))
    [operation] = [item["get"] for path, item in made["paths"].items() if path == "/a/{one}/{two}"]
    assert [(each["name"], each["in"]) for each in operation["parameters"]] == [("one", "path"), ("two", "path")]
    assert Route("GET", "/a/{b:.+}", handler, {}).template == "/a/{b}"


def words(modules: Iterable[ModuleType]) -> set[str]:
    """Every string in the modules that could be the name of a field, also from lists of words in one string."""
    found: set[str] = set()
    for module in modules:
        assert module.__file__ is not None
        for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {word for word in node.value.split() if word.isidentifier()}
    return found


def known(parse: Parser, holder: str | None, candidates: Iterable[str]) -> set[str]:
    """Those that the parser does not call unknown."""
    found: set[str] = set()
    for name in candidates:
        body: dict[str, Any] = {name: None} if holder is None else {"model": "m", holder: {name: None}}
        try:
            parse(body)
        except InvalidInput as fault:
            if f"{name}: expected a known" in fault.message:
                continue
        found.add(name)
    return found


@pytest.mark.parametrize(
    ("parse", "schema", "holder", "modules"),
    [
        (openai.parse_chat, openai_schema.chat_request, None, (openai,)),
        (openai.parse_completion, openai_schema.completion_request, None, (openai,)),
        (openai.parse_embedding, openai_schema.embedding_request, None, (openai,)),
        (ollama.parse_chat, ollama_schema.chat_request, None, (ollama,)),
        (ollama.parse_generate, ollama_schema.generate_request, None, (ollama,)),
        (ollama.parse_chat, ollama_schema.options, "options", (ollama,)),
    ],
)
def test_a_schema_has_the_fields_that_its_parser_knows(
    parse: Parser, schema: Mapping[str, Any], holder: str | None, modules: tuple[ModuleType, ...]
) -> None:
    """A field that only one of the two knows is named by this test."""
    candidates = words(modules) | set(schema["properties"]) | {"no_such_field"}
    assert known(parse, holder, candidates) == set(schema["properties"])
