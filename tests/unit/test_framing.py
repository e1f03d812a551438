"""Tensors over HTTP: what was sent arrives, and nothing else gets through."""

import contextlib
import math
import struct
from typing import Any

import numpy as np
import orjson
import pytest
import torch
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, MalformedMessage
from blyan.wire.framing import Message, WireTensor, decode, encode, item_bytes

CHANCE = np.random.default_rng(1)


def tensor(name: str = "hidden", dtype: str = "F32", shape: tuple[int, ...] = (3, 4)) -> WireTensor:
    return WireTensor(name, dtype, shape, CHANCE.bytes(math.prod(shape) * item_bytes[dtype]))


def joined(message: Message, codec: Any = "raw") -> bytes:
    return b"".join(encode(message, codec))


def framed(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else orjson.dumps(header)
    return struct.pack("<I", len(raw) if length is None else length) + raw + body


def described(**changes: Any) -> dict[str, Any]:
    return {"name": "a", "dtype": "U8", "shape": [4], "codec": "raw", "bytes": 4} | changes


@pytest.mark.parametrize("codec", ["raw", "zstd"])
def test_what_was_sent_arrives_bit_for_bit(codec: str) -> None:
    """Every dtype, empty and scalar tensors too, and the fields beside them."""
    tensors = [tensor(f"t.{dtype}", dtype, (5, 7)) for dtype in item_bytes]
    tensors += [
        tensor("scalar", "I32", ()),
        tensor("empty", "F32", (0, 4)),
        WireTensor("z", "U8", (9_000,), bytes(9_000)),
    ]
    message = Message({"round": 3, "text": "é", "list": [1, 2]}, tuple(tensors))
    found = decode(joined(message, codec))
    assert found.fields == message.fields
    assert [(t.name, t.dtype, t.shape, bytes(t.data)) for t in found.tensors] == [
        (t.name, t.dtype, t.shape, t.data) for t in tensors
    ]


def test_zstd_is_used_where_it_helps_and_only_there() -> None:
    """Random bytes go out raw."""
    zeros, noise = WireTensor("z", "U8", (9_000,), bytes(9_000)), tensor("n", "U8", (9_000,))
    assert len(joined(Message({}, (zeros,)), "zstd")) < 400
    assert len(joined(Message({}, (noise,)), "zstd")) == len(joined(Message({}, (noise,)), "raw"))


@pytest.mark.parametrize(
    ("dtype", "torch_dtype"), [("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16)]
)
def test_int8_rows_are_within_half_a_step(dtype: str, torch_dtype: torch.dtype) -> None:
    """Of each row's own scale; a row of zeros stays zeros; torch reads the result as that dtype."""
    values = torch.randn(6, 50) * torch.tensor([1e-3, 1.0, 30.0, 0.0, 5.0, 100.0]).unsqueeze(1)
    sent = values.to(torch_dtype)
    raw = sent.contiguous().view(torch.uint8).numpy().tobytes()
    found = decode(joined(Message({}, (WireTensor("h", dtype, (6, 50), raw),)), "int8row")).tensors[0]
    got = torch.frombuffer(bytearray(found.data), dtype=torch_dtype).view(6, 50).float()
    step = sent.float().abs().amax(1, keepdim=True) / 127
    rounding = sent.float().abs() * {"F32": 0.0, "F16": 2**-10, "BF16": 2**-7}[dtype]
    assert bool(((got - sent.float()).abs() <= step * 0.501 + rounding).all())
    assert bool((got[3] == 0).all())
    assert len(joined(Message({}, (WireTensor("h", dtype, (6, 50), raw),)), "int8row")) < 6 * 54 + 200


def test_what_int8_cannot_say_goes_out_raw() -> None:
    """Integers, infinities and NaN arrive as they are."""
    wild = np.array([[1.0, np.inf], [np.nan, 2.0]], "<f4").tobytes()
    for sent in (tensor("i", "I32"), WireTensor("w", "F32", (2, 2), wild)):
        found = decode(joined(Message({}, (sent,)), "int8row")).tensors[0]
        assert bytes(found.data) == sent.data


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "expected 4 to"),
        (b"\x00\x00\x00", "expected 4 to"),
        (framed(b"{}", length=100), "expected it within"),
        (framed(b"{}", length=0xFFFFFFFF), "expected it within"),
        (framed(b"nonsense"), "expected JSON"),
        (framed(b"[" * 100_000), "expected JSON"),
        (framed([]), "expected fields"),
        (framed({"v": 1, "tensors": []}), "expected fields"),
        (framed({"v": 2, "fields": {}, "tensors": []}), "version 1"),
        (framed({"v": True, "fields": {}, "tensors": []}), "version 1"),
        (framed({"v": 1, "fields": [], "tensors": []}), "object of fields"),
        (framed({"v": 1, "fields": {}, "tensors": {}}), "list of at most"),
        (framed({"v": 1, "fields": {}, "tensors": []}, b"more"), "bytes in all"),
    ],
)
def test_a_malformed_frame_is_refused(raw: bytes, words: str) -> None:
    """Each with what was expected."""
    with pytest.raises(MalformedMessage, match=words):
        decode(raw)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "../../etc passwd"}, "tensor name"),
        ({"name": 5}, "expected text"),
        ({"dtype": "F4"}, "expected a dtype"),
        ({"dtype": None}, "expected text"),
        ({"codec": "pickle"}, "expected a codec"),
        ({"shape": [4.0]}, "sizes"),
        ({"shape": [True]}, "sizes"),
        ({"shape": [-4]}, "sizes"),
        ({"shape": [2**62, 2**62]}, "sizes"),
        ({"shape": [2**20, 2**20]}, "at most"),
        ({"shape": [1] * 9}, "sizes"),
        ({"shape": "4"}, "list of sizes"),
        ({"bytes": 3}, "raw bytes"),
        ({"bytes": -1}, "number of bytes"),
        ({"bytes": 4.0}, "number of bytes"),
        ({"codec": "int8row"}, "int8 rows"),
        ({"codec": "int8row", "dtype": "F32", "shape": [1, 4]}, "int8 rows"),
        ({"codec": "zstd"}, "bytes unpacked|zstd frame"),
    ],
)
def test_a_malformed_tensor_is_refused(changes: dict[str, Any], words: str) -> None:
    """Before anything is allocated for it."""
    raw = framed({"v": 1, "fields": {}, "tensors": [described(**changes)]}, b"data")
    with pytest.raises(MalformedMessage, match=words):
        decode(raw)


def test_two_tensors_of_one_name_are_refused_on_both_sides() -> None:
    """A reader would take one of them."""
    twice = (tensor("a"), tensor("a"))
    with pytest.raises(InvalidInput, match="distinct"):
        joined(Message({}, twice))
    raw = framed({"v": 1, "fields": {}, "tensors": [described(), described()]}, b"datadata")
    with pytest.raises(MalformedMessage, match="distinct"):
        decode(raw)


def test_a_small_frame_that_unpacks_to_much_is_refused_unread() -> None:
    """A bomb says its size, or says none; neither is unpacked."""
    bomb = zstandard.ZstdCompressor().compress(bytes(50_000_000))
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1_000))
    for packed in (bomb, silent):
        entry = described(codec="zstd", shape=[1_000], bytes=len(packed))
        with pytest.raises(MalformedMessage, match="1000 bytes unpacked"):
            decode(framed({"v": 1, "fields": {}, "tensors": [entry]}, packed))
    many = [described(name=f"t{n}", shape=[limits.message_bytes_max // 2], codec="zstd", bytes=0) for n in range(3)]
    with pytest.raises(MalformedMessage, match="bytes unpacked"):
        decode(framed({"v": 1, "fields": {}, "tensors": many}))


def test_scales_and_values_that_no_sender_writes_are_refused() -> None:
    """Infinite scales would make infinite activations."""
    entry = described(codec="int8row", dtype="F32", shape=[1, 4], bytes=8)
    for body in (
        struct.pack("<f", math.inf) + b"abcd",
        struct.pack("<f", -1.0) + b"abcd",
        struct.pack("<f", 1.0) + b"ab\x80d",
    ):
        with pytest.raises(MalformedMessage, match=r"scales|-128"):
            decode(framed({"v": 1, "fields": {}, "tensors": [entry]}, body))


@given(st.binary(max_size=300))
def test_no_bytes_give_another_error(raw: bytes) -> None:
    """Whatever comes."""
    for each in (raw, framed(raw), framed({"v": 1, "fields": {}, "tensors": [described()]}, raw)):
        try:
            decode(each)
        except MalformedMessage:
            continue


@given(st.data())
def test_a_damaged_message_is_refused_or_is_another_message(data: st.DataObject) -> None:
    """A flipped bit anywhere never escapes as another exception."""
    raw = bytearray(joined(Message({"n": 1}, (tensor("a"), WireTensor("z", "U8", (900,), bytes(900)))), "zstd"))
    at = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[at // 8] ^= 1 << at % 8
    with contextlib.suppress(MalformedMessage):
        decode(bytes(raw))
