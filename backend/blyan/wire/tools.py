"""Tools and the form of an answer as requests say them: what the OpenAI and the Ollama dialect share."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, UnsupportedParameter
from blyan.wire.fields import as_dict, as_list, brief

_tool_name: Final = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the caller can run."""

    name: str
    description: str
    parameters: Mapping[str, Any]  # a JSON schema of an object; empty: any
    strict: bool = False  # refuse a schema that no grammar can be made of

    @property
    def declared(self) -> dict[str, Any]:
        """As chat templates have it."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Which tools an answer may use, and whether it must."""

    tools: tuple[Tool, ...] = ()
    required: bool = False
    parallel: bool = True  # several calls in one answer


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """That an answer is JSON, and which."""

    schema: Mapping[str, Any] | None = None  # None: any object


def parse_tools(value: object) -> tuple[Tool, ...]:
    """The list `tools`, in both dialects."""
    given = [] if value is None else as_list(value)
    if given is None or len(given) > limits.tools_max:
        raise InvalidInput(f"tools: expected a list of at most {limits.tools_max}, found {brief(value)}")
    tools = tuple(_tool(item) for item in given)
    names = [tool.name for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInput(f"tools: expected each name once, found {twice!r} again")
    return tools


def parse_choice(tools: tuple[Tool, ...], choice: object, *, parallel: bool) -> ToolChoice | None:
    """`tool_choice` of the OpenAI dialect; None: nothing is called."""
    given = as_dict(choice)
    if given is not None and given.get("type") == "function":
        tools, mode = _named(tools, (given.get("function"),)), "required"
        parallel = False
    elif given is not None and given.get("type") == "allowed_tools":
        allowed = as_dict(given.get("allowed_tools")) or {}
        named = as_list(allowed.get("tools")) or []
        tools = _named(tools, [(as_dict(each) or {}).get("function") for each in named])
        mode = allowed.get("mode")
    else:
        mode = "auto" if choice is None else choice
    if mode not in ("none", "auto", "required"):
        raise InvalidInput(f"tool_choice: expected none, auto, required or one of tools, found {brief(choice)}")
    if mode == "required" and not tools:
        raise InvalidInput(f"tool_choice: expected tools with it, found {brief(choice)} and none")
    return None if mode == "none" or not tools else ToolChoice(tools, mode == "required", parallel)


def parse_response_format(value: object) -> AnswerFormat | None:
    """`response_format` of the OpenAI dialect."""
    if value is None:
        return None
    given = as_dict(value) or {}
    kind = given.get("type")
    if kind == "text" and set(given) == {"type"}:
        return None
    if kind == "json_object" and set(given) == {"type"}:
        return AnswerFormat()
    if kind != "json_schema" or set(given) != {"type", "json_schema"}:
        raise InvalidInput(f"response_format: expected type text, json_object or json_schema, found {brief(value)}")
    held = as_dict(given["json_schema"]) or {}
    extra = sorted(set(held) - {"name", "description", "schema", "strict"})
    if extra or not isinstance(held.get("name"), str) or held.get("strict") not in (None, True, False):
        raise InvalidInput(
            f"response_format: expected json_schema with name, schema and perhaps strict, found {brief(held)}"
        )
    return AnswerFormat(parse_schema(held.get("schema"), "response_format"))


def parse_schema(value: object, what: str) -> Mapping[str, Any]:
    """A JSON schema of bounded size; whether a grammar can be made of it shows later."""
    schema = as_dict(value)
    if schema is None:
        raise InvalidInput(f"{what}: expected a schema as an object, found {brief(value)}")
    found = len(json.dumps(schema))
    if found > limits.json_schema_bytes_max:
        raise InvalidInput(f"{what}: expected a schema of at most {limits.json_schema_bytes_max} bytes, found {found}")
    return schema


def _tool(item: object) -> Tool:
    given = as_dict(item) or {}
    function = as_dict(given.get("function"))
    if given.get("type", "function") != "function" or function is None:
        raise UnsupportedParameter(f"tools: expected type function (others are not provided here), found {brief(item)}")
    name, description, strict = function.get("name"), function.get("description"), function.get("strict")
    if not isinstance(name, str) or len(name) > limits.tool_name_chars_max or not _tool_name.fullmatch(name):
        raise InvalidInput(
            f"tools: expected names of 1 to {limits.tool_name_chars_max} letters, digits, '_', '.' and '-', "
            f"found {brief(name)}"
        )
    if not (description is None or isinstance(description, str)) or strict not in (None, True, False):
        raise InvalidInput(f"tools: expected a description as text and strict true or false, found {brief(function)}")
    parameters = function.get("parameters")
    schema: Mapping[str, Any] = {} if parameters is None else parse_schema(parameters, "tools")
    if schema.get("type", "object") != "object":
        raise InvalidInput(f"tools: expected parameters of type object, found {brief(schema.get('type'))}")
    return Tool(name, description or "", schema, strict is True)


def _named(tools: tuple[Tool, ...], functions: Sequence[object]) -> tuple[Tool, ...]:
    names = [(as_dict(function) or {}).get("name") for function in functions]
    held = {tool.name: tool for tool in tools}
    found = tuple(held[name] for name in names if isinstance(name, str) and name in held)
    if not names or len(found) < len(names):
        known = ", ".join(tool.name for tool in tools) or "none"
        unknown = next((name for name in names if not isinstance(name, str) or name not in held), None)
        raise InvalidInput(f"tool_choice: expected one of tools ({known}), found {brief(unknown)}")
    return found
