"""The canonical encoding: one value, one byte string."""

import pytest

from blyan.primitives.canonical import decode, encode
from blyan.primitives.errors import MalformedEncoding


def test_encoding_of_a_known_value_never_changes() -> None:
    """Frozen vector: sorted keys, no white space, UTF-8, RFC 8785 escapes."""
    value = {"b": [1, -2, True, None], "a": 'é"\\\n\x01', "A": {}}
    assert encode(value) == b'{"A":{},"a":"\xc3\xa9\\"\\\\\\n\\u0001","b":[1,-2,true,null]}'


def test_decoding_gives_the_value_back() -> None:
    """What was encoded is read as it was."""
    value = {"list": [1, [2, {"deep": "x"}]], "n": (1 << 53) - 1}
    assert decode(encode(value), bytes_max=100) == value


@pytest.mark.parametrize(
    "raw",
    [
        b'{"b":1,"a":2}',
        b'{"a": 1}',
        b'{"a":1,"a":1}',
        b'{"a":1.5}',
        b'{"a":1e3}',
        b'{"a":9007199254740992}',
        b'{"a":-0}',
        b'{"\xc3\xa9":1}',
        b'{"a":"\\u00e9"}',
        b'{"a":"\\/"}',
        b'\xef\xbb\xbf{"a":1}',
        b"[" * 9 + b"]" * 9,
        b"",
        b"{",
        b'"\xff"',
    ],
)
def test_bytes_that_are_not_canonical_are_refused(raw: bytes) -> None:
    """Another spelling, order, number or depth of the same value has no place in a signature."""
    with pytest.raises(MalformedEncoding):
        decode(raw, bytes_max=1000)


@pytest.mark.parametrize("value", [1.0, {1: 2}, {"é": 1}, 1 << 53, b"x", {"a": {1}}, "\ud800"])
def test_values_without_an_encoding_are_refused(value: object) -> None:
    """Floats, other keys, large integers, bytes, sets and lone surrogates."""
    with pytest.raises(MalformedEncoding):
        encode(value)  # pyright: ignore[reportArgumentType]


def test_the_limit_comes_before_parsing() -> None:
    """More bytes than allowed are not read."""
    with pytest.raises(MalformedEncoding, match="at most 3 bytes, found 4"):
        decode(b"1000", bytes_max=3)
