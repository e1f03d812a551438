"""Lookups: what is old is found where it lies, what is new goes before it, and together they are one sorted table."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blyan.chain.tables import Lookup, SortedRows
from blyan.primitives.errors import IntegrityFault

KEYS = st.binary(min_size=32, max_size=32)
VALUES = st.binary(min_size=8, max_size=8)


@given(
    st.dictionaries(KEYS, VALUES, max_size=40), st.dictionaries(KEYS, VALUES, max_size=40), st.lists(KEYS, max_size=8)
)
def test_a_lookup_is_a_dictionary(old: dict[bytes, bytes], new: dict[bytes, bytes], strangers: list[bytes]) -> None:
    """Whatever is written out and opened again in between."""
    first = Lookup(8)
    for key, value in old.items():
        first.put(key, value)
    lookup = Lookup(8, memoryview(first.rows()))
    for key, value in new.items():
        lookup.put(key, value)
    expected = old | new
    for key in [*expected, *strangers]:
        assert lookup.get(key) == expected.get(key)
        assert (key in lookup) == (key in expected)
    assert lookup.rows() == b"".join(key + value for key, value in sorted(expected.items()))


def test_every_row_of_a_table_is_found_and_no_other() -> None:
    """Also the first and the last."""
    rows = sorted(os.urandom(40) for _ in range(257))
    table = SortedRows(memoryview(b"".join(rows)), 8)
    assert len(table) == 257
    assert list(table) == rows
    assert [table.get(row[:32]) for row in rows] == [row[32:] for row in rows]
    assert table.get(bytes(32)) is None
    assert table.get(b"\xff" * 32) is None


def test_half_a_row_is_refused() -> None:
    """A table that was cut is no table."""
    with pytest.raises(IntegrityFault, match="rows of 40 bytes, found 79"):
        SortedRows(memoryview(bytes(79)), 8)
