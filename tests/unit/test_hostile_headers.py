"""Headers that were made to hurt: very many tensors, files of two formats at once, sizes that lie. Quick to refuse."""

from __future__ import annotations

import io
import json
import time
import zipfile

import pytest
import torch

from blyan.primitives import limits
from blyan.primitives.errors import MalformedBlock
from blyan.storage import tensor_block

VALID = b"".join(tensor_block.encode({"w": torch.arange(64, dtype=torch.float32)}))


def block(header: object, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    raw += b" " * (-(8 + len(raw)) % 4096)
    return len(raw).to_bytes(8, "little") + raw + data


def zipped() -> bytes:
    """A zip archive whose central directory stands at the end: many readers open such a file wherever it begins."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("data.pkl", b"\x80\x04.")
    return held.getvalue()


POLYGLOTS = {
    "zip before": zipped() + VALID,
    "zip after": VALID + zipped(),
    "gzip before": b"\x1f\x8b\x08\x00" + VALID,
    "pickle before": b"\x80\x04\x95" + VALID,
    "ELF before": b"\x7fELF\x02\x01\x01" + VALID,
    "PNG before": b"\x89PNG\r\n\x1a\n" + VALID,
    "JSON alone": b'{"__metadata__":{}}' + bytes(4096),
    "script before": b"#!/bin/sh\nexit 0\n" + VALID,
    "another block after": VALID + VALID,
}


@pytest.mark.parametrize("name", POLYGLOTS)
def test_a_file_of_two_formats_is_refused(name: str) -> None:
    """A block is a block from its first byte to its last."""
    with pytest.raises(MalformedBlock):
        tensor_block.parse_layout(POLYGLOTS[name], len(POLYGLOTS[name]))


def test_a_hundred_thousand_tensors_are_refused_in_a_moment() -> None:
    """In a header of the largest size, and in one that would be larger."""
    tensor = b'"%d":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    short = b'{"a":{},' + b",".join(b'"%d":{}' % number for number in range(100_000)) + b"}"
    full = b"{" + b",".join(tensor % number for number in range(100_000)) + b"}"
    for header in (short, full):
        began = time.perf_counter()
        with pytest.raises(MalformedBlock):
            tensor_block.parse_layout(block(header), len(block(header)) + 100_000)
        assert time.perf_counter() - began < 2.0


def test_as_many_tensors_as_may_be_are_read_and_one_more_is_not() -> None:
    """The largest header holds about ten thousand; the limit of 65,536 stands behind it."""
    meta = {"__metadata__": tensor_block.metadata}
    many = 9_000
    header = meta | {
        f"t{n}": {"dtype": "U8", "shape": [256], "data_offsets": [256 * n, 256 * n + 256]} for n in range(many)
    }
    raw = block(header)
    assert len(raw) <= limits.tensor_header_bytes_max + 8
    assert len(tensor_block.parse_layout(raw, len(raw) + 256 * many)) == many
    with pytest.raises(MalformedBlock):
        tensor_block.parse_layout(raw, len(raw) + 256 * many - 1)


@pytest.mark.parametrize("length", [1 << 20, (1 << 20) + 4088, 1 << 32, (1 << 63) - 1, (1 << 64) - 1])
def test_a_header_length_beyond_the_limit_is_refused_before_it_is_read(length: int) -> None:
    """Whatever the file's size says."""
    for size in (10, 1 << 40):
        with pytest.raises(MalformedBlock):
            tensor_block.parse_layout(length.to_bytes(8, "little") + bytes(64), size)


@pytest.mark.parametrize("shape", [[1 << 32, 1 << 32], [1 << 36] * 8, [3, 1 << 62], [(1 << 64) + 64]])
def test_products_that_wrap_around_in_64_bits_are_refused(shape: list[int]) -> None:
    """Computed in unbounded integers they are what they are."""
    header = {"__metadata__": tensor_block.metadata, "w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 256]}}
    raw = block(header, bytes(256))
    with pytest.raises(MalformedBlock):
        tensor_block.parse_layout(raw, len(raw))


def test_every_cut_of_a_valid_block_is_refused() -> None:
    """And the whole of it is not."""
    for cut in [*range(64), *range(64, len(VALID), 97)]:
        with pytest.raises(MalformedBlock):
            tensor_block.parse_layout(VALID[:cut], cut)
    assert tensor_block.parse_layout(VALID, len(VALID))
