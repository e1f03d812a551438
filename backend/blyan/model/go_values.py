"""What expressions of Go templates are in Jinja: the kinds of values that Ollama gives its templates, and functions.

Structures, their fields and how each prints follow Ollama's `api` and `template` packages. Maps keep the order in which
they were sent, and what is no text prints as JSON (ADR 0021). Lengths and slices of texts count bytes, as Go does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from blyan.model.go_template import Call, Literal, refused, shown


@dataclass(frozen=True, slots=True)
class Value:
    """An expression in Jinja and what it is: text, number, truth, any, root, or a name of the tables below."""

    code: str
    kind: str


# what may be read of each kind of structure → its Jinja (@ is the structure), and the kind of what is found
fields: Final[Mapping[str, Mapping[str, tuple[str, str]]]] = {
    "message": {
        "Role": ("@['role']", "text"),
        "Content": ("@['content']", "text"),
        "Thinking": ("@['thinking']", "text"),
        "Images": ("[]", "texts"),  # messages have none here
        "ToolCalls": ("@['tool_calls']", "calls"),
        "ToolName": ("@['name']", "text"),
        "ToolCallID": ("@['tool_call_id']", "text"),
    },
    "tool": {"Type": ("(@['type'] or '')", "text"), "Function": ("@['function']", "declared")},
    "declared": {
        "Name": ("@['name']", "text"),
        "Description": ("(@['description'] or '')", "text"),
        "Parameters": ("(@['parameters'] or dict())", "parameters"),
    },
    "parameters": {
        "Type": ("(@['type'] or '')", "text"),
        "Required": ("(@['required'] or [])", "texts"),
        "Properties": ("(@['properties'] or dict())", "properties"),
    },
    "property": {
        "Type": ("(([@['type']] if @['type'] is string else @['type']) or [])", "types"),
        "Description": ("(@['description'] or '')", "text"),
        "Enum": ("(@['enum'] or [])", "values"),
        "Items": ("@['items']", "any"),
        "AnyOf": ("(@['anyOf'] or [])", "alternatives"),
    },
    "call": {"ID": ("(@['id'] or '')", "text"), "Function": ("@['function']", "called")},
    "called": {"Name": ("@['name']", "text"), "Arguments": ("@['arguments']", "arguments")},
}
lists: Final[Mapping[str, str]] = {
    "messages": "message",
    "tools": "tool",
    "calls": "call",
    "types": "text",
    "texts": "text",
    "values": "any",
    "alternatives": "property",
}
maps: Final[Mapping[str, str]] = {"properties": "property", "arguments": "any"}
_as_json: Final = frozenset({"tools", "tool", "declared", "parameters", "properties", "arguments"})
_no_json: Final = frozenset({"root", "message", "messages", "call", "calls", "called", "types"})  # ours
_comparisons: Final = {"ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_verb: Final = re.compile(r"%(.?)", re.DOTALL)


def printed(value: Value) -> str | None:
    """The Jinja that prints a value as Ollama does; None for what is not printed."""
    code = value.code
    match value.kind:
        case "text" | "number":
            return code
        case "any":
            return f"({code} if {code} is string else {_json(value)})"
        case "types":  # one as it is, several as Go prints a list
            return f"({code}[0] if {code}|length == 1 else ('[' ~ {code}|join(' ') ~ ']' if {code} else ''))"
        case "texts":
            return f"('[' ~ {code}|join(' ') ~ ']')"
        case _:
            return _json(value) if value.kind in _as_json else None


def truth(value: Value) -> str:
    """The Jinja of a condition: in Go a structure is always true, whatever it holds."""
    return "true" if value.kind in fields else value.code


def called(name: str, given: Sequence[Value], call: Call) -> Value:
    """What a function gives; `InvalidInput` for one that is not known, or not of such operands."""
    kinds = {each.kind for each in given}
    found = None
    if "root" not in kinds:
        found = _logic(name, given, kinds) or _part(name, given) or _written(name, given, call)
    if found is None:
        raise refused(shown(call))
    return found


def _logic(name: str, given: Sequence[Value], kinds: set[str]) -> Value | None:
    codes = [each.code for each in given]
    if name in ("and", "or") and given:  # the operand that decides, as in Jinja
        if len(kinds) == 1 and not kinds <= fields.keys():
            return Value("(" + f" {name} ".join(codes) + ")", given[0].kind)
        return Value("(" + f" {name} ".join(map(truth, given)) + ")", "truth")
    if name == "not" and len(given) == 1:
        return Value(f"(not {truth(given[0])})", "truth")
    comparable = (len(kinds) == 1 and kinds <= {"text", "number", "truth"}) or kinds <= {"text", "any"}
    if name == "eq" and len(given) >= 2 and comparable:
        return Value("(" + " or ".join(f"{codes[0]} == {each}" for each in codes[1:]) + ")", "truth")
    ordered = kinds in ({"text"}, {"number"})
    if name in _comparisons and len(given) == 2 and (ordered or (name == "ne" and comparable)):
        return Value(f"({codes[0]} {_comparisons[name]} {codes[1]})", "truth")
    return None


def _part(name: str, given: Sequence[Value]) -> Value | None:
    """`len`, `slice`, `index`."""
    if not given:
        return None
    whole, *places = given
    code, listed = whole.code, whole.kind in lists
    numbers = all(each.kind == "number" for each in places)
    if name == "len" and not places and (listed or whole.kind in maps):
        return Value(f"({code}|length)", "number")
    if name == "len" and not places and whole.kind == "text":
        return Value(f"({code}.encode('utf-8')|length)", "number")
    if name == "slice" and 1 <= len(places) <= 2 and numbers:
        part = f"[{':'.join(each.code for each in places)}{':' if len(places) == 1 else ''}]"
        if whole.kind == "text":
            return Value(f"{code}.encode('utf-8'){part}.decode('utf-8', 'replace')", "text")
        return Value(code + part, whole.kind) if listed else None
    if name == "index" and len(places) == 1 and listed and numbers:
        return Value(f"{code}[{places[0].code}]", lists[whole.kind])
    if name == "index" and len(places) == 1 and whole.kind in maps and places[0].kind == "text":
        missing = "dict()" if maps[whole.kind] in fields else "''"
        return Value(f"({code}.get({places[0].code}, {missing}))", maps[whole.kind])
    return None


def _written(name: str, given: Sequence[Value], call: Call) -> Value | None:
    """`json`, `print`, `println`, `printf`, `currentDate`."""
    if name == "json" and len(given) == 1 and given[0].kind not in _no_json:
        return Value(_json(given[0]), "text")
    if name == "currentDate" and not given:
        return Value("strftime_now('%Y-%m-%d')", "text")
    texts = [printed(each) for each in given]
    if name in ("print", "println") and given and None not in texts:
        pieces: list[str] = []
        for number, (one, text) in enumerate(zip(given, texts, strict=True)):
            assert text is not None, "none of them is None"
            # Go writes a space between two operands of which neither is a text
            apart = name == "println" or "text" not in (one.kind, given[number - 1].kind)
            pieces += [quoted(" "), text] if number and apart else [text]
        return Value(_joined([*pieces, quoted("\n")] if name == "println" else pieces), "text")
    if name == "printf" and given and isinstance(call.arguments[0], Literal):
        return _formatted(str(call.arguments[0].value), given[1:])
    return None


def _formatted(text: str, given: Sequence[Value]) -> Value | None:
    left, pieces, at = list(given), [quoted("")], 0
    for verb in _verb.finditer(text):
        pieces.append(quoted(text[at : verb.start()]))
        at = verb.end()
        if verb[1] == "%":
            pieces.append(quoted("%"))
            continue
        value = left.pop(0) if left else None
        written = None if value is None else printed(value)
        if value is None or written is None or verb[1] not in ("dv" if value.kind == "number" else "sv"):
            return None
        pieces.append(written)
    return None if left else Value(_joined([*pieces, quoted(text[at:])]), "text")


def _joined(pieces: Sequence[str]) -> str:
    return "(" + " ~ ".join(pieces) + ")"


def _json(value: Value) -> str:
    """JSON without spaces, in the order in which it was sent."""
    return f"({value.code}|tojson(separators=(',', ':')))"


def quoted(text: str) -> str:
    """A Jinja string; braces and percent signs are escaped, so that nothing in it can end an expression."""
    plain = {character for character in map(chr, range(0x20, 0x7F)) if character not in "'\\{}%#"}
    return "'" + "".join(each if each in plain else _escaped(each) for each in text) + "'"


def _escaped(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
