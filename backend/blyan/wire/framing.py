"""Tensors over HTTP: `application/vnd.blyan.tensors`, a JSON header and then the raw buffers, never base64 or pickle.

u32 LE length of the header, the header, then the encoded bytes of each tensor in the header's order and nothing after.
Codecs: `raw`; `zstd` (one frame that states its content size); `int8row` (per row of the last dimension one fp32 scale,
absmax / 127, then one int8 per value: lossy, for floating point only). A reader checks every length against limits
before it allocates, and computes what a tensor unpacks to from its shape, not from the sender's word. Numbers are
little-endian. No torch here: a caller views the bytes as it likes. See docs/spec/tensors.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast, get_args

import numpy as np
import orjson
import zstandard
from numpy.typing import NDArray

from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, MalformedMessage

Codec: TypeAlias = Literal["raw", "zstd", "int8row"]
Buffer: TypeAlias = bytes | bytearray | memoryview

media: Final = "application/vnd.blyan.tensors"
item_bytes: Final[Mapping[str, int]] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I8": 1,
    "U8": 1,
}
_row_quantised: Final = frozenset({"F32", "F16", "BF16"})
_name: Final = re.compile(r"[A-Za-z0-9._/-]{1,256}")
_entry_fields: Final = {"name", "dtype", "shape", "codec", "bytes"}
_length_bytes: Final = 4
_codecs: Final = get_args(Codec)


@dataclass(frozen=True, slots=True)
class WireTensor:
    """One tensor: its bytes are row-major and little-endian, as many as shape and dtype say."""

    name: str
    dtype: str  # a safetensors dtype name
    shape: tuple[int, ...]
    data: Buffer

    def __post_init__(self) -> None:
        expected = unpacked_bytes(self.name, self.dtype, self.shape)
        if len(self.data) != expected:
            raise MalformedMessage(f"tensor {self.name}: expected {expected} bytes, found {len(self.data)}")


@dataclass(frozen=True, slots=True)
class Message:
    """Tensors, and what the message says beside them."""

    fields: Mapping[str, Any]
    tensors: tuple[WireTensor, ...]


def unpacked_bytes(name: str, dtype: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor; `MalformedMessage` for a name, dtype or shape that no message may have."""
    if not _name.fullmatch(name):
        raise MalformedMessage(f"tensor name: expected {_name.pattern}, found {name[:80]!r}")
    if dtype not in item_bytes:
        raise MalformedMessage(f"tensor {name}: expected a dtype of {sorted(item_bytes)}, found {dtype[:40]!r}")
    fits = len(shape) <= limits.tensor_rank_max
    for size in shape:
        fits = fits and type(size) is int and 0 <= size <= limits.message_bytes_max
    if not fits:
        raise MalformedMessage(f"tensor {name}: expected up to {limits.tensor_rank_max} sizes, found {str(shape)[:80]}")
    total = math.prod(shape) * item_bytes[dtype]
    if total > limits.message_bytes_max:
        raise MalformedMessage(f"tensor {name}: expected at most {limits.message_bytes_max} bytes, found {total}")
    return total


def encode(message: Message, codec: Codec = "raw") -> Iterator[Buffer]:
    """The pieces of a message, its header first; tensors that a codec cannot take go out raw."""
    count = len(message.tensors)
    if count > limits.message_tensors_max or (count > 1 and len({each.name for each in message.tensors}) != count):
        raise InvalidInput(f"message: expected at most {limits.message_tensors_max} tensors of distinct names")
    packed = [_pack(tensor, codec) for tensor in message.tensors]
    described = [
        {"name": t.name, "dtype": t.dtype, "shape": list(t.shape), "codec": used, "bytes": len(data)}
        for t, (used, data) in zip(message.tensors, packed, strict=True)
    ]
    header = orjson.dumps({"v": 1, "fields": dict(message.fields), "tensors": described}, option=orjson.OPT_SORT_KEYS)
    if len(header) > limits.message_header_bytes_max:
        raise InvalidInput(
            f"message header: expected at most {limits.message_header_bytes_max} bytes, found {len(header)}"
        )
    yield len(header).to_bytes(_length_bytes, "little") + header
    yield from (data for _, data in packed)


def decode(raw: Buffer) -> Message:
    """Read a message; `MalformedMessage` says what was expected and found. Raw tensors are views of `raw`."""
    view = memoryview(raw)
    if not _length_bytes <= len(view) <= limits.message_bytes_max:
        raise MalformedMessage(f"message: expected 4 to {limits.message_bytes_max} bytes, found {len(view)}")
    at = _length_bytes + int.from_bytes(view[:_length_bytes], "little")
    if at > min(len(view), _length_bytes + limits.message_header_bytes_max):
        raise MalformedMessage(f"message header: expected it within {len(view)} bytes, found {at - _length_bytes}")
    fields, described = _parse_header(bytes(view[_length_bytes:at]))
    total = sum(entry.unpacked for entry in described)
    if total > limits.message_bytes_max:
        raise MalformedMessage(f"message: expected at most {limits.message_bytes_max} bytes unpacked, found {total}")
    end = at + sum(entry.packed for entry in described)
    if end != len(view):
        raise MalformedMessage(f"message: expected {end} bytes in all, found {len(view)}")
    tensors: list[WireTensor] = []
    for entry in described:
        data = _unpack(entry, view[at : at + entry.packed])
        tensors.append(_whole(entry, data))
        at += entry.packed
    return Message(fields, tuple(tensors))


def _whole(entry: _Described, data: Buffer) -> WireTensor:
    """A tensor of the bytes that its description promises, which was checked: it is not checked once more."""
    assert len(data) == entry.unpacked, "as its description says"
    made = object.__new__(WireTensor)
    for name, value in (("name", entry.name), ("dtype", entry.dtype), ("shape", entry.shape), ("data", data)):
        object.__setattr__(made, name, value)
    return made


class _Described(NamedTuple):
    name: str
    dtype: str
    shape: tuple[int, ...]
    codec: Codec
    packed: int  # bytes in the message
    unpacked: int  # bytes of the tensor


def _parse_header(raw: bytes) -> tuple[dict[str, Any], list[_Described]]:
    try:
        value = orjson.loads(raw)
    except (orjson.JSONDecodeError, RecursionError) as reason:
        raise MalformedMessage(f"message header: expected JSON, found {reason}") from None
    if not isinstance(value, dict) or cast("dict[str, Any]", value).keys() != {"v", "fields", "tensors"}:
        raise MalformedMessage("message header: expected fields ['fields', 'tensors', 'v']")
    header = cast("dict[str, Any]", value)
    fields, listed = header["fields"], header["tensors"]
    if type(header["v"]) is not int or header["v"] != 1 or not isinstance(fields, dict):
        raise MalformedMessage(f"message header: expected version 1 and an object of fields, found {header['v']!r}")
    if not isinstance(listed, list) or len(cast("list[Any]", listed)) > limits.message_tensors_max:
        raise MalformedMessage(f"message: expected a list of at most {limits.message_tensors_max} tensors")
    described = [_parse_described(each) for each in cast("list[Any]", listed)]
    if len(described) > 1 and len({entry.name for entry in described}) != len(described):
        raise MalformedMessage("message: expected tensors of distinct names, found one twice")
    return cast("dict[str, Any]", fields), described


def _parse_described(value: object) -> _Described:
    if not isinstance(value, dict) or cast("dict[str, Any]", value).keys() != _entry_fields:
        raise MalformedMessage(f"tensor: expected fields {sorted(_entry_fields)}")
    given = cast("dict[str, Any]", value)
    for name in ("name", "dtype", "codec"):
        if not isinstance(given[name], str):
            raise MalformedMessage(f"tensor {name}: expected text, found {str(given[name])[:80]!r}")
    if not isinstance(given["shape"], list):
        raise MalformedMessage(f"tensor {given['name'][:80]!r}: expected a list of sizes as shape")
    shape = tuple(cast("list[int]", given["shape"]))
    unpacked = unpacked_bytes(given["name"], given["dtype"], shape)
    packed, codec = given["bytes"], given["codec"]
    if type(packed) is not int or not 0 <= packed <= limits.message_bytes_max:
        raise MalformedMessage(f"tensor {given['name']}: expected a number of bytes, found {str(packed)[:40]!r}")
    if codec not in _codecs:
        raise MalformedMessage(f"tensor {given['name']}: expected a codec of {_codecs}, found {codec[:40]!r}")
    if codec == "raw" and packed != unpacked:
        raise MalformedMessage(f"tensor {given['name']}: expected {unpacked} raw bytes, found {packed}")
    if codec == "int8row":
        rows, columns = _rows(shape)
        if given["dtype"] not in _row_quantised or packed != rows * (4 + columns):
            raise MalformedMessage(
                f"tensor {given['name']}: expected {rows * (4 + columns)} bytes of int8 rows of F32, F16 or BF16, "
                f"found {packed} of {given['dtype']}"
            )
    return _Described(given["name"], given["dtype"], shape, cast("Codec", codec), packed, unpacked)


def are_finite(dtype: str, data: Buffer) -> bool:
    """Whether floating-point numbers (F32, F16 or BF16) are all finite."""
    if dtype == "BF16":
        return not bool(((np.frombuffer(data, "<u2") & 0x7F80) == 0x7F80).any())
    return bool(np.isfinite(np.frombuffer(data, "<f4" if dtype == "F32" else "<f2")).all())


def _pack(tensor: WireTensor, codec: Codec) -> tuple[Codec, Buffer]:
    if codec == "zstd" and len(tensor.data):
        packed = zstandard.ZstdCompressor(level=3).compress(tensor.data)
        return ("zstd", packed) if len(packed) < len(tensor.data) else ("raw", tensor.data)
    if codec == "int8row" and tensor.dtype in _row_quantised and len(tensor.data):
        rows = pack_rows(tensor)
        if rows is not None:
            return "int8row", rows
    return "raw", tensor.data


def pack_rows(tensor: WireTensor) -> bytes | None:
    """The bytes of a floating-point tensor as `int8row`; None if it is not finite."""
    values = _to_float32(tensor.dtype, tensor.data).reshape(_rows(tensor.shape))
    if not np.isfinite(values).all():
        return None
    scales = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
    quotients = np.divide(values, scales, out=np.zeros_like(values), where=scales > 0)
    return scales.astype("<f4").tobytes() + np.rint(quotients).clip(-127, 127).astype("i1").tobytes()


def unpack_rows(name: str, dtype: str, rows: int, columns: int, data: Buffer) -> bytes:
    """The bytes [rows, columns] of what `pack_rows` packed; `MalformedMessage` if it is nothing like that."""
    if dtype not in _row_quantised or len(data) != rows * (4 + columns):
        raise MalformedMessage(f"tensor {name}: expected {rows * (4 + columns)} bytes of int8 rows, found {len(data)}")
    scales = np.frombuffer(data[: 4 * rows], "<f4").reshape(rows, 1)
    if not np.isfinite(scales).all() or (scales < 0).any():
        raise MalformedMessage(f"tensor {name}: expected finite scales from 0, found others")
    values = np.frombuffer(data[4 * rows :], "i1").reshape(rows, columns)
    if (values == -128).any():
        raise MalformedMessage(f"tensor {name}: expected values from -127 to 127, found -128")
    return _from_float32(dtype, values.astype("<f4") * scales)


def _unpack(entry: _Described, data: memoryview) -> Buffer:
    if entry.codec == "raw":
        return data
    if entry.codec == "int8row":
        return unpack_rows(entry.name, entry.dtype, *_rows(entry.shape), data)
    try:
        said = zstandard.frame_content_size(data)
        if said != entry.unpacked:
            raise MalformedMessage(f"tensor {entry.name}: expected {entry.unpacked} bytes unpacked, found {said}")
        reader = zstandard.ZstdDecompressor(max_window_size=limits.message_bytes_max)
        found = reader.decompress(data, max_output_size=entry.unpacked, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError) as reason:
        raise MalformedMessage(f"tensor {entry.name}: expected one zstd frame, found {reason}") from None
    return found


def _rows(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tensor seen as a matrix of its last dimension."""
    columns = shape[-1] if shape else 1
    return math.prod(shape[:-1]) if columns else 0, columns


def _to_float32(dtype: str, data: Buffer) -> NDArray[np.float32]:
    if dtype == "BF16":  # the upper half of an fp32
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, "<f4" if dtype == "F32" else "<f2").astype("<f4")


def _from_float32(dtype: str, values: NDArray[np.float32]) -> bytes:
    if dtype == "BF16":  # rounded to nearest, ties to even
        bits = values.view("<u4")
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes()
    return values.astype("<f4" if dtype == "F32" else "<f2").tobytes()
