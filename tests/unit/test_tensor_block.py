"""TensorBlocks: any safetensors tool opens them, and nothing malformed gets through."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from blyan.primitives.errors import InvalidInput, MalformedBlock
from blyan.storage import tensor_block

TENSORS = {
    "a.weight": torch.arange(33 * 7, dtype=torch.float32).view(33, 7),
    "b": torch.arange(5).to(torch.bfloat16),
    "c": torch.tensor([1, 2, 3]),
    "s": torch.tensor(2.5),
    "e": torch.ones(3, 3).to(torch.float8_e4m3fn),
}


def encoded(tensors: dict[str, torch.Tensor] | None = None) -> bytes:
    return b"".join(bytes(piece) for piece in tensor_block.encode(TENSORS if tensors is None else tensors))


def block_of(header: Any, data: bytes = bytes(256), *, pad: bool = True) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    if pad:
        raw += b" " * (-(8 + len(raw)) % 4096)
    return len(raw).to_bytes(8, "little") + raw + data


def header_of(**changes: Any) -> dict[str, Any]:
    tensor = {"dtype": "F32", "shape": [8, 8], "data_offsets": [0, 256]} | changes
    return {"__metadata__": tensor_block.metadata, "w": tensor}


def test_safetensors_reads_what_was_written(tmp_path: Path) -> None:
    """`safe_open` gives every tensor back, bit for bit."""
    (tmp_path / "block.safetensors").write_bytes(encoded())
    with safe_open(tmp_path / "block.safetensors", "pt") as file:
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in TENSORS.items())


def test_views_lie_aligned_inside_the_buffer() -> None:
    """Nothing is copied: each tensor's address is within the bytes, at a multiple of 256 from their start."""
    raw = bytearray(encoded())
    base = torch.frombuffer(raw, dtype=torch.uint8).data_ptr()
    views = tensor_block.views(tensor_block.parse_layout(memoryview(raw), len(raw)), memoryview(raw))
    assert {name: tensor.dtype for name, tensor in views.items()} == {n: t.dtype for n, t in TENSORS.items()}
    for name, tensor in views.items():
        assert torch.equal(tensor, TENSORS[name])
        assert (tensor.data_ptr() - base) % 256 == 0
        assert base <= tensor.data_ptr() < base + len(raw)


def test_equal_tensors_give_equal_bytes() -> None:
    """Order of insertion does not matter, so equal blocks are stored once."""
    assert encoded() == encoded(dict(reversed(TENSORS.items())))


def padded_with(**changes: Any) -> dict[str, Any]:
    """A valid header but for its padding, which lies before `w`."""
    padding = {"dtype": "U8", "shape": [255], "data_offsets": [256, 511]} | changes
    first, last = padding["data_offsets"]
    return {
        "__metadata__": tensor_block.metadata,
        "v": {"dtype": "U8", "shape": [first], "data_offsets": [0, first]},
        "_pad.1": padding,
        "w": {"dtype": "U8", "shape": [256], "data_offsets": [last, last + 256]},
    }


MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "no header": b"\x05\0\0\0\0\0\0\0",
    "huge header": (1 << 40).to_bytes(8, "little") + bytes(100),
    "header beyond the file": (4088).to_bytes(8, "little") + b"{}",
    "data not at a multiple of 4096": block_of(header_of(), pad=False),
    "not an object": block_of([1]),
    "not JSON": block_of(b"{nope"),
    "not UTF-8": block_of(b'{"\xff":1}'),
    "duplicate names": block_of(
        b'{"__metadata__":{"format":"pt","blyan":"tensorblock/1"},'
        b'"w":{"dtype":"F32","shape":[64],"data_offsets":[0,256]},"w":{"dtype":"F32","shape":[64],"data_offsets":[0,256]}}'
    ),
    "duplicate fields": block_of(
        b'{"__metadata__":{"format":"pt","blyan":"tensorblock/1"},"w":{"dtype":"F32","dtype":"F32","shape":[64],"data_offsets":[0,256]}}'
    ),
    "no metadata": block_of({"w": header_of()["w"]}),
    "other metadata": block_of(header_of() | {"__metadata__": {"format": "pt"}}),
    "no tensors": block_of({"__metadata__": tensor_block.metadata}, b""),
    "bad name": block_of({"__metadata__": tensor_block.metadata, "a b": header_of()["w"]}),
    "unknown dtype": block_of(header_of(dtype="C64")),
    "dtype of another kind": block_of(header_of(dtype=["F32"])),
    "negative size": block_of(header_of(shape=[-8, -8])),
    "boolean size": block_of(header_of(shape=[True, 64])),
    "float size": block_of(header_of(shape=[64.0])),
    "product that would overflow 64 bits": block_of(header_of(shape=[1 << 33, 1 << 31, 2])),
    "rank nine": block_of(header_of(shape=[64, 1, 1, 1, 1, 1, 1, 1, 1])),
    "very many sizes": block_of(header_of(shape=[1 << 30] * 30_000)),
    "no elements": block_of(header_of(shape=[0], data_offsets=[0, 0])),
    "offsets of another size": block_of(header_of(data_offsets=[0, 255])),
    "offsets reversed": block_of(header_of(data_offsets=[256, 0])),
    "a hole": block_of(header_of(data_offsets=[256, 512]), bytes(512)),
    "trailing bytes": block_of(header_of(), bytes(257)),
    "truncated": block_of(header_of(), bytes(255)),
    "overlap": block_of(header_of() | {"v": header_of()["w"]}),
    "misaligned": block_of(
        {
            "__metadata__": tensor_block.metadata,
            "_pad.1": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
            "w": {"dtype": "F32", "shape": [64], "data_offsets": [4, 260]},
        },
        bytes(260),
    ),
    "deep": block_of(header_of(shape=[[[[64]]]])),
    "padding of another dtype": block_of(padded_with(dtype="I8", shape=[251], data_offsets=[261, 512]), bytes(768)),
    "padding of rank two": block_of(padded_with(shape=[251, 1], data_offsets=[261, 512]), bytes(768)),
    "padding of rank none": block_of(padded_with(shape=[], data_offsets=[511, 512]), bytes(768)),
    "padding of 256 bytes": block_of(padded_with(shape=[256], data_offsets=[256, 512]), bytes(768)),
    "a string without end": block_of(b'{"' + b'\\"' * 40),
    "a string that ends in a backslash": block_of(b'{"' + b"\\" * 4086, pad=False),
    "deep after an escaped quote": block_of(b'{"\\"":[[[[1]]]]}'),
    "extra field": block_of(header_of(code="rm")),
    "NaN": block_of(
        b'{"__metadata__":{"format":"pt","blyan":"tensorblock/1"},"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,256]}}'
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_blocks_are_refused(case: str) -> None:
    """Whatever is wrong, the answer is `MalformedBlock`."""
    with pytest.raises(MalformedBlock):
        tensor_block.parse_layout(MALFORMED[case], len(MALFORMED[case]))


def test_a_header_of_the_same_shape_without_fault_passes() -> None:
    """The malformed cases differ from this one in one thing each."""
    (place,) = tensor_block.parse_layout(block_of(header_of()), 4096 + 256)
    assert (place.name, place.shape, place.offset, place.length) == ("w", (8, 8), 4096, 256)


@pytest.mark.parametrize("unit", [b'\\"', b'"', b'"\\', b"[", b"}", b"\\", b'"a', b"1"])
def test_the_largest_header_is_judged_in_a_moment(unit: bytes) -> None:
    """1 MiB of whatever, a string without end included: the time is linear in the header."""
    raw = b'{"' + unit * (1 << 20)
    block = ((1 << 20) - 8).to_bytes(8, "little") + raw[: (1 << 20) - 8] + bytes(256)
    start = time.process_time()
    with pytest.raises(MalformedBlock):
        tensor_block.parse_layout(block, len(block))
    assert time.process_time() - start < 1


def test_padding_of_fewer_than_256_bytes_passes_and_is_not_a_tensor() -> None:
    """The malformed paddings differ from this one in one thing each."""
    raw = block_of(padded_with(shape=[251], data_offsets=[261, 512]), bytes(768))
    assert [place.name for place in tensor_block.parse_layout(raw, len(raw))] == ["v", "w"]


@pytest.mark.parametrize(
    "tensors",
    [{}, {"_pad.1": torch.ones(1)}, {"a b": torch.ones(1)}, {"w": torch.ones(0)}, {"w": torch.ones(1).cfloat()}],
)
def test_what_has_no_block_is_refused_before_a_byte_is_written(tensors: dict[str, torch.Tensor]) -> None:
    """No tensors, reserved or bad names, empty tensors, dtypes that are not stored."""
    with pytest.raises(InvalidInput):
        next(tensor_block.encode(tensors))
