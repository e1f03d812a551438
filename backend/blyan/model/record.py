"""Frozen dataclasses as canonical values and back: numbers, texts, lists, and one record inside another.

Canonical JSON has no floats, so a float stands as its shortest decimal string. With `sparse`, a field that has its
default is left out, and one that says its default is refused, so that one record has one encoding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, TypeVar, cast

from blyan.primitives import canonical
from blyan.primitives.errors import InvalidInput

Record = TypeVar("Record")

_decimal = re.compile(r"-?\d{1,20}(\.\d{1,20})?(e[+-]?\d{1,3})?")
_list_items_max = 1 << 20


def encode_record(value: Any, *, sparse: bool = False) -> dict[str, canonical.Canonical]:
    """The canonical value of a dataclass instance; records inside it are always sparse."""
    return {f.name: _plain(getattr(value, f.name)) for f in fields(value) if not (sparse and _is_default(f, value))}


def parse_record(
    kind: type[Record], value: object, what: str, *, sparse: bool = False, nested: Mapping[str, type] | None = None
) -> Record:
    """Check `value` field by field against the dataclass `kind` and make it; `InvalidInput` names `what` and field.

    Annotations may be str, int, bool, float, each perhaps `| None` where none is the default of a sparse record, a
    key of `nested` (annotation → class), or a tuple of one of these.
    """
    given = cast("dict[str, Any]", value) if isinstance(value, dict) else None
    known = {f.name: f for f in fields(kind)}  # pyright: ignore[reportArgumentType] - a dataclass, as documented
    needed = {name for name, f in known.items() if not sparse or f.default is MISSING}
    if given is None or not needed <= set(given) <= set(known):
        raise InvalidInput(f"{what}: expected fields {sorted(needed)}, found {sorted(given) if given else value!r}")
    found = {name: _parse(str(known[name].type), each, f"{what}.{name}", nested or {}) for name, each in given.items()}
    made = kind(**found)
    for name in given:
        if sparse and known[name].default is not MISSING and _is_default(known[name], made):
            raise InvalidInput(f"{what}.{name}: expected it left out where it says its default, found {given[name]!r}")
    return made


def _is_default(field: Field[Any], value: object) -> bool:
    return field.default is not MISSING and getattr(value, field.name) == field.default


def _plain(value: object) -> canonical.Canonical:
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, tuple):
        return [_plain(each) for each in cast("tuple[object, ...]", value)]
    if is_dataclass(value):
        return encode_record(value, sparse=True)
    return cast("canonical.Canonical", value)


def _parse(annotation: str, given: object, what: str, nested: Mapping[str, type]) -> object:
    if annotation in nested:
        return parse_record(nested[annotation], given, what, sparse=True)
    if annotation.startswith("tuple["):
        items = cast("list[object]", given) if isinstance(given, list) else None
        if items is None or len(items) > _list_items_max:
            raise InvalidInput(f"{what}: expected a list, found {str(given)[:80]!r}")
        inner = annotation.removeprefix("tuple[").removesuffix(", ...]")
        return tuple(_parse(inner, each, what, nested) for each in items)
    annotation = annotation.removesuffix(" | None")  # none is said by leaving it out
    if annotation == "float":
        if not isinstance(given, str) or not _decimal.fullmatch(given) or repr(float(given)) != given:
            raise InvalidInput(f"{what}: expected a number as its shortest decimal text, found {str(given)[:80]!r}")
        return float(given)
    if type(given).__name__ != annotation:
        raise InvalidInput(f"{what}: expected {annotation}, found {str(given)[:80]!r}")
    return given
