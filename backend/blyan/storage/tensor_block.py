"""TensorBlock v1: a safetensors file with rules, so that it maps straight into aligned tensors.

The header is padded so that the data starts at a multiple of 4096; every tensor starts at a multiple of 256, with `U8`
tensors named `_pad.N` between where a size is no multiple. `parse_layout` checks every field before anything is mapped
and raises nothing but `MalformedBlock`. See docs/spec/tensor-block.md; the container is
https://huggingface.co/docs/safetensors (format section).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor

from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, MalformedBlock

dtypes: Final[Mapping[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
}
dtype_names: Final[Mapping[torch.dtype, str]] = {dtype: name for name, dtype in dtypes.items()}
metadata: Final = {"format": "pt", "blyan": "tensorblock/1"}

_name = re.compile(r"[A-Za-z0-9._/-]{1,256}")
_padding_prefix = "_pad."
_json_tokens = re.compile(rb'\\.|"|[{\[]+|[}\]]+', re.DOTALL)


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where one tensor lies in the file."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file, a multiple of 256
    length: int  # bytes


def parse_layout(head: bytes | memoryview, file_bytes: int) -> list[TensorPlace]:
    """Check a TensorBlock's header and return its tensors without the padding, in file order.

    `head` is the beginning of the file, at least through its header (8 bytes + header length); `file_bytes` is the
    size of the whole file.
    """
    if len(head) < 8 or file_bytes < 8:
        raise MalformedBlock(f"block: expected a header length of 8 bytes, found {min(len(head), file_bytes)}")
    header_bytes = int.from_bytes(head[:8], "little")
    if header_bytes > limits.tensor_header_bytes_max:
        raise MalformedBlock(
            f"block: expected a header of at most {limits.tensor_header_bytes_max} bytes, found {header_bytes}"
        )
    data_start = 8 + header_bytes
    if data_start % limits.data_alignment_bytes or data_start > file_bytes or data_start > len(head):
        raise MalformedBlock(
            f"block: expected data at a multiple of {limits.data_alignment_bytes} within {file_bytes} bytes, "
            f"found {data_start}"
        )
    header = _parse_header(bytes(head[8:data_start]))
    if header.pop("__metadata__", None) != metadata:
        raise MalformedBlock(f"block: expected __metadata__ {metadata}")
    if not 0 < len(header) <= limits.tensors_per_block_max:
        raise MalformedBlock(f"block: expected 1 to {limits.tensors_per_block_max} tensors, found {len(header)}")
    places = sorted((_parse_place(name, value, data_start) for name, value in header.items()), key=lambda p: p.offset)
    _check_tiling(places, data_start, file_bytes)
    return [place for place in places if not place.name.startswith(_padding_prefix)]


def _parse_header(raw: bytes) -> dict[str, Any]:
    if not raw.startswith(b"{"):
        raise MalformedBlock("block: expected a JSON object as header")
    if raw.count(b"{") > limits.tensors_per_block_max + 3:
        raise MalformedBlock(f"block: expected at most {limits.tensors_per_block_max} tensors, found more")
    _check_depth(raw)

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise MalformedBlock("block: expected distinct names in the header, found a duplicate")
        return found

    def no_float(text: str) -> Any:
        raise MalformedBlock(f"block: expected integers in the header, found {text[:40]}")

    try:
        header = json.loads(
            raw.decode("utf-8"), object_pairs_hook=without_duplicates, parse_float=no_float, parse_constant=no_float
        )
    except (ValueError, RecursionError) as reason:
        raise MalformedBlock(f"block: expected a JSON header, found {reason}") from None
    return cast("dict[str, Any]", header)


def _check_depth(raw: bytes) -> None:
    """Before the parser recurses. One pass of tokens that never overlap: a string without end costs no more."""
    depth = 0
    in_string = False
    for found in _json_tokens.finditer(raw):
        token = found.group()
        if token == b'"':
            in_string = not in_string
        elif in_string or token.startswith(b"\\"):
            continue  # outside strings a backslash is no JSON, which the parser says
        elif token[0] in b"{[":
            depth += len(token)
            if depth > limits.header_json_depth_max:
                raise MalformedBlock(f"block: expected header depth ≤ {limits.header_json_depth_max}, found {depth}")
        else:
            depth -= len(token)


def _parse_place(name: str, value: object, data_start: int) -> TensorPlace:
    if not _name.fullmatch(name):
        raise MalformedBlock(f"tensor name: expected [A-Za-z0-9._/-]{{1,256}}, found {name[:80]!r}")
    if not isinstance(value, dict) or set(cast("dict[str, Any]", value)) != {"dtype", "shape", "data_offsets"}:
        raise MalformedBlock(f"tensor {name}: expected dtype, shape and data_offsets")
    fields = cast("dict[str, Any]", value)
    dtype = dtypes.get(fields["dtype"]) if isinstance(fields["dtype"], str) else None
    if dtype is None:
        raise MalformedBlock(f"tensor {name}: expected a dtype of {sorted(dtypes)}, found {str(fields['dtype'])[:40]}")
    shape = _sizes(fields["shape"], f"tensor {name}: shape")
    if len(shape) > limits.tensor_rank_max:  # before the product, which a long list would make huge
        raise MalformedBlock(f"tensor {name}: expected rank ≤ {limits.tensor_rank_max}, found {len(shape)}")
    offsets = _sizes(fields["data_offsets"], f"tensor {name}: data_offsets")
    elements = 1
    for size in shape:
        elements *= size
    if len(offsets) != 2 or offsets[1] - offsets[0] != elements * dtype.itemsize or elements == 0:
        raise MalformedBlock(
            f"tensor {name}: expected {elements * dtype.itemsize} bytes (not none), found offsets {offsets[:2]}"
        )
    if name.startswith(_padding_prefix):
        if dtype != torch.uint8 or len(shape) != 1 or shape[0] >= limits.tensor_alignment_bytes:
            raise MalformedBlock(
                f"tensor {name}: expected padding of fewer than {limits.tensor_alignment_bytes} U8 in one dimension, "
                f"found {fields['dtype']} {shape}"
            )
    elif offsets[0] % limits.tensor_alignment_bytes:
        raise MalformedBlock(
            f"tensor {name}: expected a start at a multiple of {limits.tensor_alignment_bytes}, found {offsets[0]}"
        )
    return TensorPlace(name, dtype, tuple(shape), data_start + offsets[0], offsets[1] - offsets[0])


def _sizes(value: object, what: str) -> list[int]:
    if not isinstance(value, list):
        raise MalformedBlock(f"{what}: expected a list, found {type(value).__name__}")
    for size in cast("list[object]", value):
        if type(size) is not int or not 0 <= size <= limits.payload_bytes_max:
            raise MalformedBlock(
                f"{what}: expected integers from 0 to {limits.payload_bytes_max}, found {str(size)[:40]}"
            )
    return cast("list[int]", value)


def _check_tiling(places: Sequence[TensorPlace], data_start: int, file_bytes: int) -> None:
    expected = data_start
    for place in places:
        if place.offset != expected:
            raise MalformedBlock(f"tensor {place.name}: expected to start at {expected}, found {place.offset}")
        expected += place.length
    if expected != file_bytes:
        raise MalformedBlock(f"block: expected {expected} bytes in all, found {file_bytes}")


def encode(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Serialise CPU tensors as a TensorBlock: the header, then each buffer in turn; equal tensors give equal bytes."""
    layout = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    yield from encode_lazily(layout, tensors.__getitem__)


def encode_lazily(
    layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], read: Callable[[str], Tensor]
) -> Iterator[bytes | memoryview]:
    """The same of tensors that are read one at a time, when their turn comes; each as the layout says.

    Largest first (so that few need padding), by name where sizes are equal.
    """
    if not 0 < len(layout) <= limits.tensors_per_block_max:
        raise InvalidInput(f"block: expected 1 to {limits.tensors_per_block_max} tensors, found {len(layout)}")
    sizes = {name: dtype.itemsize * math.prod(shape) for name, (dtype, shape) in layout.items()}
    header: dict[str, object] = {"__metadata__": metadata}
    pieces: list[str | bytes] = []  # a tensor's name, or padding
    offset = 0
    for name in sorted(layout, key=lambda each: (-sizes[each], each)):
        dtype, shape = layout[name]
        if not _name.fullmatch(name) or name.startswith(_padding_prefix) or name == "__metadata__":
            raise InvalidInput(f"tensor name: expected [A-Za-z0-9._/-]{{1,256}}, found {name[:80]!r}")
        if dtype not in dtype_names or sizes[name] == 0 or len(shape) > limits.tensor_rank_max:
            raise InvalidInput(
                f"tensor {name}: expected a stored dtype, rank ≤ {limits.tensor_rank_max} and some elements, "
                f"found {dtype} {list(shape)}"
            )
        if offset % limits.tensor_alignment_bytes:
            gap = -offset % limits.tensor_alignment_bytes
            header[f"{_padding_prefix}{len(header)}"] = _described("U8", [gap], offset, gap)
            pieces.append(bytes(gap))
            offset += gap
        header[name] = _described(dtype_names[dtype], list(shape), offset, sizes[name])
        pieces.append(name)
        offset += sizes[name]
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode("ascii")
    raw += b" " * (-(8 + len(raw)) % limits.data_alignment_bytes)
    if len(raw) > limits.tensor_header_bytes_max:
        raise InvalidInput(f"block: expected a header ≤ {limits.tensor_header_bytes_max} bytes, found {len(raw)}")
    yield len(raw).to_bytes(8, "little") + raw
    for piece in pieces:
        if isinstance(piece, bytes):
            yield piece
            continue
        tensor = read(piece)
        assert (tensor.dtype, tuple(tensor.shape)) == layout[piece], "as the layout says"
        yield tensor.contiguous().view(-1).view(torch.uint8).numpy().data


def _described(dtype: str, shape: list[int], offset: int, length: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + length]}


def views(places: Sequence[TensorPlace], mapping: memoryview) -> dict[str, Tensor]:
    """Tensors that lie in `mapping` (the whole file, page-aligned): nothing is copied.

    torch accepts misaligned views silently, so the layout's alignment rules are what makes this safe.
    """
    found: dict[str, Tensor] = {}
    for place in places:
        flat = torch.frombuffer(
            mapping, dtype=place.dtype, count=place.length // place.dtype.itemsize, offset=place.offset
        )
        found[place.name] = flat.view(place.shape)
    return found
