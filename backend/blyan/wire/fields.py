"""Reading fields of a JSON body by kind and range: what dialects share. Every refusal begins with the field's name."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final, cast

from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, UnsupportedModel

_unit_seconds: Final = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3_600.0}
_duration: Final = re.compile(r"(?P<sign>-?)(?:\d{1,9}|(?:\d{1,9}(?:\.\d{1,9})?(?:ms|s|m|h)){1,4})")
_counts: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|)")


@contextmanager
def naming_parameter() -> Generator[None]:
    """Every refusal of a parameter begins with its name; clients want it in a field of its own."""
    try:
        yield
    except InvalidInput as fault:
        name = re.split(r"[: ]", fault.message, maxsplit=1)[0]
        fault.detail = {**fault.detail, "param": {"message": "messages"}.get(name, name)}
        raise


@contextmanager
def blaming(field: str, *others: str) -> Generator[None]:
    """What a check of a field's content refuses is that field's, also where the check does not know its name.

    Unless the refusal begins with one of `others`, or the model is to blame.
    """
    try:
        yield
    except UnsupportedModel:
        raise
    except InvalidInput as fault:
        first = fault.message.split(":", 1)[0]
        fault.detail = {"param": first if first in others else field, **fault.detail}
        raise


def stop_strings(value: object) -> tuple[str, ...]:
    """One stop string or a list of them."""
    words = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(words, list) or len(cast("list[Any]", words)) > limits.stop_strings_max:
        raise InvalidInput(f"stop: expected at most {limits.stop_strings_max} strings, found {brief(value)}")
    for word in cast("list[Any]", words):
        if not isinstance(word, str) or not 0 < len(word) <= limits.stop_string_chars_max:
            raise InvalidInput(
                f"stop: expected strings of 1 to {limits.stop_string_chars_max} characters, found {brief(word)}"
            )
    return tuple(cast("list[str]", words))


def object_of(body: Mapping[str, Any], name: str, known: set[str]) -> dict[str, Any]:
    """An object with no other than the known fields; empty where there is none."""
    value = body.get(name)
    if value is None:
        return {}
    given = as_dict(value)
    if given is None or not set(given) <= known:
        raise InvalidInput(f"{name}: expected an object with {sorted(known)}, found {brief(value)}")
    return given


def quote_of(given: Mapping[str, Any]) -> str | None:
    """The quote in the object `blyan` of a request."""
    value = given.get("quote")
    if value is not None and (not isinstance(value, str) or len(value) > limits.quote_chars_max):
        raise InvalidInput(f"blyan: expected a quote as text, found {brief(value)}")
    return value


def boolean(body: Mapping[str, Any], name: str) -> bool:
    """True or false; false where there is none."""
    value = body.get(name)
    if value is not None and type(value) is not bool:
        raise InvalidInput(f"{name}: expected true or false, found {brief(value)}")
    return bool(value)


def integer(body: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    """An integer within a range."""
    value = body.get(name)
    if value is not None and (type(value) is not int or not least <= value <= most):
        raise InvalidInput(f"{name}: expected an integer from {least} to {most}, found {brief(value)}")
    return value


def number(body: Mapping[str, Any], name: str) -> float | None:
    """An integer or a float."""
    value = body.get(name)
    if value is not None and type(value) not in (int, float):
        raise InvalidInput(f"{name}: expected a number, found {brief(value)}")
    return None if value is None else float(value)


def keep_seconds(value: object) -> float | None:
    """Ollama's `keep_alive`: seconds, or text such as `5m` or `1h30m`; negative is for ever, None if unsaid."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        found = _duration.fullmatch(value)
        if found is None:
            raise InvalidInput(f"keep_alive: expected seconds or a duration such as 5m, found {brief(value)}")
        seconds = sum(float(count) * _unit_seconds[unit or "s"] for count, unit in _counts.findall(value))
        return math.inf if found["sign"] else seconds
    if type(value) not in (int, float) or not math.isfinite(cast("float", value)):
        raise InvalidInput(f"keep_alive: expected seconds or a duration such as 5m, found {brief(value)}")
    return math.inf if cast("float", value) < 0 else float(cast("float", value))


def as_list(value: object) -> list[Any] | None:
    """The value if it is a list."""
    return cast("list[Any]", value) if isinstance(value, list) else None


def as_dict(value: object) -> dict[str, Any] | None:
    """The value if it is an object."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def brief(value: object) -> str:
    """The value for an error message."""
    return reprlib.repr(value)  # bounded in depth and length, unlike repr
