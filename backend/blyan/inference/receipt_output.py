"""An answer as its user has it, back to the choices that a receipt's digest covers (docs/spec/receipt.md).

Read are the bodies that this node answers with, whole or streamed, of both dialects; the canonical list of choices
itself; and anything else as the text of one choice, to the last byte.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from blyan.inference.receipt import Choice, ToolCall
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput
from blyan.wire.fields import as_dict, as_list

_event: Final = re.compile(rb"^data: (\{.*)\r?$", re.MULTILINE)


@dataclass(slots=True)
class _Joined:
    """One choice while its pieces come."""

    content: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list[ToolCall])

    def choice(self) -> Choice:
        return Choice(self.content, self.reasoning, tuple(self.calls))


def choices_of(raw: bytes) -> list[Choice]:
    """The choices of a saved answer; `InvalidInput` for one that is too long or no text."""
    if len(raw) > limits.receipt_output_bytes_max:
        raise InvalidInput(f"output: expected at most {limits.receipt_output_bytes_max} bytes, found {len(raw)}")
    found = _of_list(_json(raw)) or _of_bodies(_bodies(raw))
    if found:
        return found
    try:
        return [Choice(raw.decode("utf-8"))]
    except UnicodeDecodeError:
        raise InvalidInput("output: expected an answer or its text in UTF-8, found other bytes") from None


def _of_list(value: Any) -> list[Choice] | None:
    """The canonical list of choices, also where it is spelled with spaces."""
    given = as_list(value)
    if not given:
        return None
    found: list[Choice] = []
    for each in given:
        match each:
            case {"content": str(content), "reasoning": str(reasoning), "tool_calls": [*calls], **rest} if not rest:
                made = [_listed_call(call) for call in calls]
                known = [call for call in made if call is not None]
                if len(known) != len(made):
                    return None
                found.append(Choice(content, reasoning, tuple(known)))
            case _:
                return None
    return found


def _listed_call(value: Any) -> ToolCall | None:
    match value:
        case {"id": str(identity), "name": str(name), "arguments": str(arguments), **rest} if not rest:
            return ToolCall(name, arguments, identity)
        case _:
            return None


def _bodies(raw: bytes) -> list[dict[str, Any]]:
    """JSON bodies: one whole, events of server-sent events, or lines."""
    whole = as_dict(_json(raw))
    if whole is not None:
        return [whole]
    lines = _event.findall(raw) or raw.splitlines()
    found = [as_dict(_json(line)) for line in lines if line.strip()]
    return [each for each in found if each is not None] if found and None not in found else []


def _of_bodies(bodies: Iterable[Mapping[str, Any]]) -> list[Choice]:
    """Choices in the order of their index, the pieces of each joined as they came."""
    joined: dict[int, _Joined] = {}
    for body in bodies:
        for index, vector in enumerate(_vectors(body)):
            joined[index] = _Joined(vector)
        if isinstance(body.get("choices"), list):
            for choice in body["choices"]:
                _take_openai(joined, as_dict(choice) or {})
        elif isinstance(body.get("message"), dict):
            _take(joined.setdefault(0, _Joined()), body["message"])
        elif isinstance(body.get("response"), str):
            _take(joined.setdefault(0, _Joined()), {**body, "content": body["response"]})
    return [joined[index].choice() for index in sorted(joined)]


def _vectors(body: Mapping[str, Any]) -> list[str]:
    """Vectors of the routes that embed, each as `vector_text`."""
    listed = [(as_dict(each) or {}).get("embedding") for each in as_list(body.get("data")) or []]
    listed = listed or as_list(body.get("embeddings")) or ([body["embedding"]] if "embedding" in body else [])
    found: list[str] = []
    for each in listed:
        numbers = as_list(each)
        if numbers is not None and all(isinstance(number, int | float) for number in numbers):
            found.append(vector_text(numbers))
        elif isinstance(each, str):
            found.append(each)
    return found


def vector_text(vector: Sequence[float]) -> str:
    """An embedding as the text of a choice: base64 of its 32-bit floats, little-endian."""
    try:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    except (OverflowError, struct.error):
        raise InvalidInput("output: expected vectors of 32-bit floats, found a number beyond them") from None


def _take_openai(joined: dict[int, _Joined], choice: Mapping[str, Any]) -> None:
    index = choice.get("index")
    into = joined.setdefault(index if isinstance(index, int) else 0, _Joined())
    said = as_dict(choice.get("message")) or as_dict(choice.get("delta")) or {}
    _take(into, {**said, "content": choice["text"]} if isinstance(choice.get("text"), str) else said)


def _take(into: _Joined, said: Mapping[str, Any]) -> None:
    """One piece of either dialect; what is not there is empty."""
    into.content += _text(said.get("content"))
    into.reasoning += _text(said.get("reasoning_content")) + _text(said.get("thinking"))
    for call in as_list(said.get("tool_calls")) or []:
        given = as_dict(call) or {}
        function = as_dict(given.get("function")) or {}
        arguments = function.get("arguments")
        # Ollama delivers an object: what counts is its bytes as they stood in the line
        text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
        into.calls.append(ToolCall(_text(function.get("name")), text, _text(given.get("id"))))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _json(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except (orjson.JSONDecodeError, RecursionError):
        return None
