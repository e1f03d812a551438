"""Values of a checkpoint's JSON files, each read by its kind; whoever is refused is told field and value."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from blyan.model.rope_scaling import sensible, sensible_range
from blyan.primitives import limits
from blyan.primitives.errors import UnsupportedModel


def integer(raw: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """An integer of a JSON object; `UnsupportedModel` names the field."""
    value = raw.get(name)
    if value is None and default is not None:
        return default
    top = limits.canonical_integer_max
    want(type(value) is int and abs(value) <= top, name, value, f"an integer, at most {top} from 0")
    return cast("int", value)


def number(raw: Mapping[str, Any], name: str, default: float | None) -> float:
    """A finite number of a JSON object; `UnsupportedModel` names the field."""
    value = raw.get(name)
    if value is None and default is not None:
        return default
    fits = type(value) in (int, float) and abs(cast("float", value)) <= limits.canonical_integer_max
    want(fits, name, value, "a number")  # NaN is not below anything either
    return float(cast("float", value))


def sensible_number(raw: Mapping[str, Any], name: str, default: float | None = None) -> float:
    """A number that positions or bounds may be stretched by; `UnsupportedModel` names the field."""
    value = number(raw, name, default)
    want(sensible(value), name, value, sensible_range)
    return value


def boolean(raw: Mapping[str, Any], name: str, default: bool) -> bool:
    """True or false of a JSON object; `UnsupportedModel` names the field."""
    value = raw.get(name)
    if value is None:
        return default
    want(type(value) is bool, name, value, "true or false")
    return cast("bool", value)


def want(holds: bool, field: str, found: object, expected: str) -> None:
    """Raise `UnsupportedModel` with both values unless it holds."""
    if not holds:
        raise UnsupportedModel(f"{field}: expected {expected}, found {str(found)[:200]!r}")


@contextmanager
def naming(said: Mapping[str, str]) -> Generator[None, None, None]:
    """Let a refusal of one of our values name the checkpoint's field; `said` is our name → the checkpoint's."""
    try:
        yield
    except UnsupportedModel as reason:
        field = str(reason.detail.get("field"))
        if field not in said:
            raise
        expected, found = reason.detail["expected"], reason.detail["found"]
        raise UnsupportedModel(f"{said[field]}: expected {expected}, found {found}") from None
