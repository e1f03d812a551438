"""Few words for JSON Schema 2020-12, in which requests and answers are described beside their parsers.

Descriptions only: nothing is validated with them at run time. tests/integration/test_contract.py holds them to what the
routes do, tests/unit/test_schemas.py to the fields that the parsers know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Schema: TypeAlias = Mapping[str, Any]

anything: Schema = {}
flag: Schema = {"type": "boolean"}
token: Schema = {"type": "integer", "minimum": 0, "maximum": (1 << 31) - 1}
hex64: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}


def text(least: int = 0, most: int | None = None) -> Schema:
    """A string of so many characters."""
    found: dict[str, Any] = {"type": "string"}
    if least:
        found["minLength"] = least
    if most is not None:
        found["maxLength"] = most
    return found


def integer(least: int | None = None, most: int | None = None) -> Schema:
    """An integer within a range."""
    return {"type": "integer"} | _range(least, most)


def number(least: float | None = None, most: float | None = None, *, above: float | None = None) -> Schema:
    """A number within a range; `above` is a bound that it may not equal."""
    return {"type": "number"} | _range(least, most) | ({} if above is None else {"exclusiveMinimum": above})


def listing(items: Schema, least: int = 0, most: int | None = None) -> Schema:
    """A list of one kind of items."""
    found: dict[str, Any] = {"type": "array", "items": items}
    if least:
        found["minItems"] = least
    if most is not None:
        found["maxItems"] = most
    return found


def fields(properties: Mapping[str, Schema], *, required: Sequence[str] = (), closed: bool = True) -> Schema:
    """An object with these fields, and others unless it is closed."""
    found: dict[str, Any] = {"type": "object", "properties": dict(properties)}
    if required:
        found["required"] = list(required)
    if closed:
        found["additionalProperties"] = False
    return found


def table(values: Schema, names: Schema | None = None, most: int | None = None) -> Schema:
    """An object whose field names are data."""
    found: dict[str, Any] = {"type": "object", "additionalProperties": values}
    if names is not None:
        found["propertyNames"] = names
    if most is not None:
        found["maxProperties"] = most
    return found


def one_of(*values: object) -> Schema:
    """One of these values."""
    return {"enum": list(values)}


def either(*kinds: Schema) -> Schema:
    """At least one of these kinds."""
    return {"anyOf": list(kinds)}


def optional(kind: Schema) -> Schema:
    """The same, or null, which asks for the default."""
    return {"anyOf": [kind, {"type": "null"}]}


def _range(least: float | None, most: float | None) -> dict[str, float]:
    bounds = {"minimum": least, "maximum": most}
    return {name: bound for name, bound in bounds.items() if bound is not None}
