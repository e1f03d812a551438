"""Messages of a chat in the OpenAI dialect, as values that chat templates take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, UnsupportedParameter
from blyan.wire.fields import as_dict, as_list, brief

_roles = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_own = {"assistant": {"refusal", "tool_calls", "reasoning_content"}, "tool": {"tool_call_id"}}


def parse_message(message: object) -> Mapping[str, Any]:
    """One message; `developer` is `system` to a template."""
    given = as_dict(message)
    if given is None:
        raise InvalidInput(f"message: expected an object, found {brief(message)}")
    role = given.get("role")
    if not isinstance(role, str) or role not in _roles:
        raise InvalidInput(f"message role: expected {', '.join(_roles)}, found {brief(role)}")
    known = {"role", "content", "name"} | _own.get(role, set())
    extra = sorted(name for name, value in given.items() if name not in known and value not in (None, [], ""))
    if extra:
        raise UnsupportedParameter(
            f"message {extra[0][:80]}: expected none (not provided here), found {brief(given[extra[0]])}"
        )
    calls = parse_calls(given.get("tool_calls"))
    if calls:
        said = "" if given.get("content") is None else parse_content(given["content"])
        return {"role": "assistant", "content": said, "tool_calls": calls} | _thought(given, "reasoning_content")
    parsed: dict[str, Any] = {"role": _roles[role], "content": parse_content(given.get("content"))}
    if role == "tool":
        if not isinstance(given.get("tool_call_id"), str):
            raise InvalidInput(f"message tool_call_id: expected text, found {brief(given.get('tool_call_id'))}")
        parsed["tool_call_id"] = given["tool_call_id"]
        if isinstance(given.get("name"), str):
            parsed["name"] = given["name"]
    return parsed | (_thought(given, "reasoning_content") if role == "assistant" else {})


def _thought(given: Mapping[str, Any], name: str) -> dict[str, str]:
    """What an earlier answer thought, by the name that templates read (Qwen3's first)."""
    thought = given.get(name)
    if not (thought is None or isinstance(thought, str)):
        raise InvalidInput(f"message {name}: expected text, found {brief(thought)}")
    return {"reasoning_content": thought} if thought else {}


def parse_content(content: object) -> str:
    """Text, or parts of text."""
    if isinstance(content, list):
        content = "".join(_text_part(part) for part in cast("list[Any]", content))
    if not isinstance(content, str):
        raise InvalidInput(f"message content: expected text, found {brief(content)}")
    return content


def parse_calls(value: object) -> list[dict[str, Any]]:
    """Calls of an earlier answer. Their arguments become objects: templates write them as JSON themselves."""
    calls = [] if value is None else as_list(value)
    if calls is None or len(calls) > limits.tool_calls_max:
        raise InvalidInput(
            f"message tool_calls: expected a list of at most {limits.tool_calls_max}, found {brief(value)}"
        )
    return [_call(call) for call in calls]


def _call(value: object) -> dict[str, Any]:
    given = as_dict(value) or {}
    function = as_dict(given.get("function")) or {}
    name, arguments, identity = function.get("name"), function.get("arguments"), given.get("id")
    if not isinstance(name, str) or given.get("type", "function") != "function":
        raise InvalidInput(f"message tool_calls: expected type function with a name, found {brief(value)}")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = None
    if as_dict(arguments) is None:
        raise InvalidInput(
            f"message tool_calls: expected arguments as JSON of an object, found {brief(function.get('arguments'))}"
        )
    call: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return call | ({"id": identity} if isinstance(identity, str) else {})


def _text_part(part: object) -> str:
    given = as_dict(part)
    if given is not None and given.get("type") == "text" and isinstance(given.get("text"), str):
        return given["text"]
    raise UnsupportedParameter(f"message content: expected parts of type text, found {brief(part)}")
