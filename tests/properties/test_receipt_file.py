"""Whatever stands in the place of a value of a receipt file, a check that is named fails, and nothing else happens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from blyan.inference.receipt_check import check_receipt
from blyan.primitives import canonical
from blyan.primitives.errors import MalformedEncoding

HELD = json.loads((Path(__file__).parents[1] / "vectors" / "receipt.json").read_text())
FILE: dict[str, Any] = json.loads(HELD["file"])
Place = tuple[str | int, ...]


def places(value: Any, above: Place = ()) -> list[Place]:
    """The place of every value, the file's own first."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [above, *(place for name, each in inner for place in places(each, (*above, name)))]


PLACES = places(FILE)
MODEL = ("checkpoint", "meta", 1)  # without its entry the model is not checked, which is said: no fault
hexadecimal = st.sampled_from(["0" * 32, "0" * 64, "f" * 64, "0" * 128, HELD["origin"]])
texts = st.text('a0-"é', max_size=8)
small = st.none() | st.booleans() | st.integers(-3, 2**53 - 1) | texts | hexadecimal
values = small | st.lists(small, max_size=3) | st.dictionaries(st.sampled_from(["v", "index", "path", "x"]), small)


def _joined(signs: list[str]) -> bytes:
    return "".join(signs).encode()


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PLACES), values | st.sampled_from(PLACES).map(lambda place: _at(FILE, place)), st.booleans())
def test_another_value_anywhere_fails_a_check(place: Place, value: Any, removed: bool) -> None:
    assume(not (removed and place == MODEL))
    changed = json.loads(HELD["file"])
    if not place:
        changed = value
    else:
        outer = _at(changed, place[:-1])
        if removed:
            del outer[place[-1]]
        else:
            outer[place[-1]] = value
    assume(changed != FILE or canonical_bytes(changed) != HELD["file"].encode())
    raw = canonical_bytes(changed)
    assume(raw is not None)
    assert check_receipt(raw).failed, place


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=60) | st.lists(st.sampled_from(list('{}[]":,01a')), max_size=30).map(_joined))
def test_bytes_that_are_no_receipt_fail_as_a_file(raw: bytes) -> None:
    assert [each.name for each in check_receipt(raw).failed] == ["file"]


def canonical_bytes(value: Any) -> bytes:
    try:
        return canonical.encode(value)
    except MalformedEncoding:
        assume(False)
        raise


def _at(value: Any, place: Place) -> Any:
    for each in place:
        value = value[each]
    return value
