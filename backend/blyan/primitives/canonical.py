"""The one encoding for anything hashed or signed: the integer-only subset of RFC 8785 (JCS).

ASCII keys sorted by byte, no floats, integers within ±(2^53-1), depth at most 8, UTF-8, no white space. `decode`
re-encodes what it read and refuses bytes that differ, so that one value has one byte string and one hash.
APIs use orjson directly instead; this module is for what must never change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

import orjson

from blyan.primitives import limits
from blyan.primitives.errors import MalformedEncoding

Canonical: TypeAlias = "str | int | bool | None | Sequence[Canonical] | Mapping[str, Canonical]"


def encode(value: Canonical) -> bytes:
    """Return the canonical bytes of `value`; `MalformedEncoding` if it has none."""
    _check(value, 1)
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONEncodeError, UnicodeEncodeError) as reason:
        raise MalformedEncoding(f"canonical encoding: expected plain JSON values, found {reason}") from None


def decode(raw: bytes, *, bytes_max: int) -> Canonical:
    """Parse canonical bytes; `MalformedEncoding` unless encoding the result gives `raw` again."""
    if len(raw) > bytes_max:
        raise MalformedEncoding(f"canonical encoding: expected at most {bytes_max} bytes, found {len(raw)}")
    try:
        value = cast(Canonical, orjson.loads(raw))
    except (orjson.JSONDecodeError, RecursionError) as reason:
        raise MalformedEncoding(f"canonical encoding: expected JSON, found {reason}") from None
    again = encode(value)
    if again != raw:
        at = next((i for i, (a, b) in enumerate(zip(again, raw, strict=False)) if a != b), min(len(again), len(raw)))
        raise MalformedEncoding(
            f"canonical encoding: expected {again[at : at + 16]!r} at byte {at}, found {raw[at : at + 16]!r}"
        )
    return value


def decode_object(raw: bytes, *, bytes_max: int) -> dict[str, Canonical]:
    """Parse canonical bytes of an object."""
    value = decode(raw, bytes_max=bytes_max)
    if not isinstance(value, dict):
        raise MalformedEncoding(f"canonical encoding: expected an object, found {type(value).__name__}")
    return value


def _check(value: object, depth: int) -> None:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return
    if kind is int:  # the common cases first: this runs for every answer of an expert
        if not -limits.canonical_integer_max <= cast(int, value) <= limits.canonical_integer_max:
            raise MalformedEncoding(f"canonical encoding: expected an integer within ±(2^53-1), found {value}")
        return
    if isinstance(value, bool | str):
        return
    if isinstance(value, int):
        if abs(value) > limits.canonical_integer_max:
            raise MalformedEncoding(f"canonical encoding: expected an integer within ±(2^53-1), found {value}")
        return
    if depth > limits.canonical_depth_max:
        raise MalformedEncoding(f"canonical encoding: expected at most {limits.canonical_depth_max} levels, found more")
    if isinstance(value, Mapping):
        for key, inner in cast("Mapping[object, object]", value).items():
            if not isinstance(key, str) or not key.isascii():
                raise MalformedEncoding(f"canonical encoding: expected ASCII keys, found {key!r}")
            _check(inner, depth + 1)
        return
    if isinstance(value, list | tuple):
        for inner in cast("Sequence[object]", value):
            _check(inner, depth + 1)
        return
    raise MalformedEncoding(f"canonical encoding: expected JSON without floats, found {type(value).__name__} {value!r}")
