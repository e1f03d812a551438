"""Modelfiles: the text by which Ollama's users say what a model is (ollama/docs/modelfile.md), read and written.

One instruction a line; a value between `"` or three of them may go on over lines, and nothing is escaped within. Here
it is only read: what its names mean, and which of them are provided, `wire/ollama_create` says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, PayloadTooLarge

_instructions: Final = ("from", "parameter", "system", "template", "message", "license", "adapter")
_roles: Final = ("system", "user", "assistant")
_word: Final = re.compile(r"[^\s\"]+")
_break: Final = re.compile(r"\r\n|\r|\n")


@dataclass(slots=True)
class Modelfile:
    """What a Modelfile says, each value as text. Of SYSTEM and TEMPLATE the last one counts."""

    base: str = ""  # FROM
    parameters: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    system: str | None = None
    template: str | None = None
    messages: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    license: list[str] = field(default_factory=list[str])
    adapters: list[str] = field(default_factory=list[str])


def parse_modelfile(text: str) -> Modelfile:
    """Read a Modelfile; `InvalidInput` names the line that is none of its instructions."""
    if len(text) > limits.modelfile_chars_max:
        raise PayloadTooLarge(f"Modelfile: expected at most {limits.modelfile_chars_max} characters, found {len(text)}")
    lines = _break.split(text)
    made = Modelfile()
    at = 0
    while at < len(lines):
        number, line = at + 1, lines[at].strip(" \t")
        at += 1
        if not line or line.startswith("#"):
            continue
        name, _, rest = line.partition(" ") if " " in line else line.partition("\t")
        instruction = name.lower()
        if instruction not in _instructions:
            raise InvalidInput(
                f"Modelfile line {number}: expected one of {', '.join(_instructions).upper()}, found {name[:80]!r}"
            )
        word = ""
        if instruction in ("parameter", "message"):
            word, rest = _first_word(rest, number, instruction)
        value, at = _value(rest, lines, at, number)
        _take(made, instruction, word, value, number)
    if not made.base:
        raise InvalidInput("Modelfile: expected a FROM line, found none")
    return made


def _first_word(rest: str, number: int, instruction: str) -> tuple[str, str]:
    rest = rest.lstrip(" \t")
    found = _word.match(rest)
    if found is None or not rest[found.end() :].strip(" \t"):
        expected = "a name and a value" if instruction == "parameter" else "a role and a text"
        raise InvalidInput(f"Modelfile line {number}: expected {expected} after {instruction.upper()}, found {rest!r}")
    return found[0], rest[found.end() :]


def _value(rest: str, lines: Sequence[str], at: int, number: int) -> tuple[str, int]:
    """The value that begins with `rest`, and the first line after it."""
    value = rest.strip(" \t")
    mark = '"""' if value.startswith('"""') else '"' if value.startswith('"') else ""
    if not mark:
        return value, at
    parts = [rest.lstrip(" \t")[len(mark) :]]
    while not (ended := parts[-1].rstrip(" \t")).endswith(mark):
        if at == len(lines):
            raise InvalidInput(f"Modelfile line {number}: expected {mark} at the end of a text, found none")
        parts.append(lines[at])
        at += 1
    parts[-1] = ended[: -len(mark)]
    return "\n".join(parts), at


def _take(made: Modelfile, instruction: str, word: str, value: str, number: int) -> None:
    match instruction:
        case "from":
            if made.base:
                raise InvalidInput(f"Modelfile line {number}: expected one FROM, found another")
            made.base = value
        case "parameter":
            made.parameters.append((word.lower(), value))
        case "system":
            made.system = value
        case "template":
            made.template = value
        case "message":
            if word.lower() not in _roles:
                raise InvalidInput(
                    f"Modelfile line {number}: expected {', '.join(_roles)} as role, found {word[:80]!r}"
                )
            made.messages.append((word.lower(), value))
        case "license":
            made.license.append(value)
        case _:
            made.adapters.append(value)


def modelfile_text(made: Modelfile) -> str:
    """The text that is read back as `made`, but for a value that holds three quotation marks in a row."""
    lines = [f"FROM {made.base}"]
    if made.template is not None:
        lines.append(f"TEMPLATE {_quoted(made.template)}")
    if made.system is not None:
        lines.append(f"SYSTEM {_quoted(made.system)}")
    lines += [f"PARAMETER {name} {_quoted(value)}" for name, value in made.parameters]
    lines += [f"MESSAGE {role} {_quoted(text)}" for role, text in made.messages]
    lines += [f"LICENSE {_quoted(text)}" for text in made.license]
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    if value and not re.search(r"[\r\n]|^[ \t\"]|[ \t]$", value):
        return value
    return f'"""{value}"""'
