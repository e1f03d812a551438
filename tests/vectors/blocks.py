"""TensorBlocks for `make vectors`: small valid ones of every kind, and headers that a reader refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from blyan.storage import tensor_block
from blyan.storage.tile import index_of


def _blocks() -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    counting = torch.arange(96, dtype=torch.float32)
    yield "one tensor", {"w": counting.view(8, 12)}
    yield "padding between tensors", {"a": counting[:7], "b": counting[:70], "c": counting[:1].view(())}
    yield "bf16 and fp16", {"x.weight": counting.bfloat16().view(2, 48), "y": counting.half()}
    yield "int8 with scales", {"w": torch.arange(-48, 48, dtype=torch.int8).view(8, 12), "w.scale": counting[:8] + 1}
    packed = torch.arange(48, dtype=torch.uint8).view(8, 6)
    yield "int4 by groups", {"w": packed, "w.scale": counting[:16].view(8, 2) + 1, "w.zero": counting[:16].view(8, 2)}
    yield "fp8", {"w": counting.to(torch.float8_e4m3fn).view(8, 12), "w.scale": counting[:8] + 1}
    yield "wide types", {"d": counting.double(), "i": counting.long(), "j": counting.int()}


def _header(text: str, data: bytes = bytes(256), pad: int = 4096) -> str:
    raw = text.encode()
    raw += b" " * (-(8 + len(raw)) % pad) if pad else b""
    return (len(raw).to_bytes(8, "little") + raw + data).hex()


def block_vectors() -> Any:
    meta = '"__metadata__":{"format":"pt","blyan":"tensorblock/1"}'
    good = '"a":{"dtype":"F32","shape":[64],"data_offsets":[0,256]}'
    cases = {
        "empty": "",
        "length beyond the file": (2**40).to_bytes(8, "little").hex(),
        "no metadata": _header("{" + good + "}"),
        "other metadata": _header('{"__metadata__":{"format":"pt"},' + good + "}"),
        "no tensors": _header("{" + meta + "}", b""),
        "data not at 4096": _header("{" + meta + "," + good + "}", pad=8),
        "trailing bytes": _header("{" + meta + "," + good + "}", bytes(257)),
        "too short": _header("{" + meta + "," + good + "}", bytes(255)),
        "duplicate names": _header("{" + meta + "," + good + "," + good + "}"),
        "overlap": _header("{" + meta + "," + good + ',"b":{"dtype":"U8","shape":[256],"data_offsets":[0,256]}}'),
        "hole": _header("{" + meta + ',"a":{"dtype":"F32","shape":[64],"data_offsets":[256,512]}}', bytes(512)),
        "misaligned": _header(
            "{" + meta + ',"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},'
            '"b":{"dtype":"U8","shape":[8],"data_offsets":[8,16]}}',
            bytes(16),
        ),
        "unknown dtype": _header("{" + meta + ',"a":{"dtype":"I16","shape":[128],"data_offsets":[0,256]}}'),
        "product that overflows": _header(
            "{" + meta + ',"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,256]}}'
        ),
        "float in a shape": _header("{" + meta + ',"a":{"dtype":"F32","shape":[64.0],"data_offsets":[0,256]}}'),
        "negative size": _header("{" + meta + ',"a":{"dtype":"F32","shape":[-64],"data_offsets":[0,256]}}'),
        "empty tensor": _header("{" + meta + ',"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}', b""),
        "deep header": _header("{" + meta + ',"a":[[[[1]]]]}'),
        "bad name": _header("{" + meta + ',"a b":{"dtype":"F32","shape":[64],"data_offsets":[0,256]}}'),
        "text that is no JSON": _header("{nonsense"),
    }
    valid = []
    for name, tensors in _blocks():
        raw = b"".join(tensor_block.encode(tensors))
        held = {
            key: {
                "dtype": tensor_block.dtype_names[tensor.dtype],
                "shape": list(tensor.shape),
                "bytes": tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes().hex(),
            }
            for key, tensor in tensors.items()
        }
        valid.append({"name": name, "block": raw.hex(), "payload": index_of(raw).payload_id, "tensors": held})
    return {"valid": valid, "refused": cases}
