"""Lookups of fixed-width values: the old ones lie in a sorted table, found by bisection, the new ones in a dictionary.

Opening one costs nothing per row; writing it sorted again is one merge.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from typing import Final

from blyan.primitives.errors import IntegrityFault

key_bytes: Final = 32


class SortedRows:
    """Rows of key (32 bytes) ‖ value over a buffer, in rising order of their keys."""

    def __init__(self, rows: memoryview, value_bytes: int) -> None:
        """`IntegrityFault` unless the buffer is a whole number of rows; for their order the writer is trusted."""
        self._width = key_bytes + value_bytes
        if len(rows) % self._width:
            raise IntegrityFault(f"table: expected rows of {self._width} bytes, found {len(rows)} bytes in all")
        self._rows = rows
        self._count = len(rows) // self._width

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[bytes]:
        return (bytes(self._rows[at : at + self._width]) for at in range(0, len(self._rows), self._width))

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""
        rows, width = self._rows, self._width
        low, high = 0, self._count
        while low < high:
            middle = (low + high) // 2
            if bytes(rows[middle * width : middle * width + key_bytes]) < key:
                low = middle + 1
            else:
                high = middle
        at = low * width
        found = bytes(rows[at : at + width])
        return found[key_bytes:] if found[:key_bytes] == key else None


class Lookup:
    """Key (32 bytes) → value of a fixed width: the old in rows, the new in a dictionary that goes before them."""

    def __init__(self, value_bytes: int, rows: memoryview | None = None) -> None:
        self._old = SortedRows(memoryview(b"") if rows is None else rows, value_bytes)
        self._new: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""
        found = self._new.get(key)
        return self._old.get(key) if found is None and len(self._old) else found

    def put(self, key: bytes, value: bytes) -> None:
        """Set the value of a key."""
        self._new[key] = value

    def put_first(self, key: bytes, value: bytes) -> None:
        """Set the value of a key that has none."""
        if len(self._old) and self._old.get(key) is not None:
            return
        self._new.setdefault(key, value)

    def __contains__(self, key: bytes) -> bool:
        return self.get(key) is not None

    def rows(self) -> bytes:
        """All rows, sorted, each key once."""
        new = sorted(key + value for key, value in self._new.items())
        if not len(self._old):
            return b"".join(new)
        old = (row for row in self._old if row[:key_bytes] not in self._new)
        return b"".join(merge(old, new))
