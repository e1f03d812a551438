"""What lies in the block of a part, quantised or not: dtypes and shapes, int4 packing, and the matrix it stands for.

`W` int8 or fp8 with `W.scale` [out]; int4 as two values per byte (the even column in the low half, each plus 8) with
`W.scale` [out, groups], the last group of a row perhaps short. A quantised model computes with what `dense` gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

import torch
from torch import Tensor

from blyan.model.parts import Part, Shape
from blyan.model.quantization import Quantization, int4_groups

Layout: TypeAlias = dict[str, tuple[torch.dtype, Shape]]

scale_suffix: Final = ".scale"
_code_types: Final[Mapping[str, torch.dtype]] = {"int8": torch.int8, "int4": torch.uint8, "fp8": torch.float8_e4m3fn}
_values_at_once: Final = 1 << 19
_int4_zero: Final = 8  # what is added to a value of -8 … 7


def is_matrix(name: str) -> bool:
    """Whether a tensor of a part is one that is quantised."""
    return name.endswith("_proj.weight")


def stored_layout(part: Part, dtype: torch.dtype, quantization: Quantization | None) -> Layout:
    """Every tensor of the part's block: dtype and shape by name."""
    layout: Layout = {}
    for name, shape in part.shapes.items():
        code = _code_types.get(quantization.scheme) if quantization is not None and is_matrix(name) else None
        if code is None or quantization is None:
            layout[name] = dtype, shape
            continue
        rows, columns = shape
        grouped = quantization.scheme == "int4"
        layout[name] = code, (rows, -(-columns // 2)) if grouped else shape
        scales = (rows, -(-columns // quantization.group)) if grouped else (rows,)
        layout[name + scale_suffix] = torch.float32, scales
    return layout


def dense(codes: Tensor, scales: Tensor, columns: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix [out, columns] that codes and scales stand for: computed in fp32, then rounded to `dtype`."""
    found = torch.empty(len(codes), columns, dtype=dtype)
    step = max(1, _values_at_once // columns)
    for begin in range(0, len(codes), step):  # in the cache, and without an fp32 copy of the whole
        rows = slice(begin, begin + step)
        found[rows] = _dense_rows(codes[rows], scales[rows], columns)
    return found


def _dense_rows(codes: Tensor, scales: Tensor, columns: int) -> Tensor:
    if codes.dtype != torch.uint8:
        return codes.float() * scales.unsqueeze(1)
    pairs = torch.stack((codes & 15, codes >> 4), dim=-1).flatten(1)[:, :columns]
    group = group_of(columns, scales.shape[1])
    return (pairs.float() - _int4_zero) * scales.repeat_interleave(group, dim=1)[:, :columns]


def pack(values: Tensor) -> Tensor:
    """int4 values -8 … 7 of any integer type [out, in] as bytes [out, ceil(in / 2)]; an odd end is filled with 0."""
    shifted = torch.nn.functional.pad(values + _int4_zero, (0, values.shape[1] % 2), value=_int4_zero).to(torch.uint8)
    return shifted[:, 0::2] | shifted[:, 1::2] << 4


def dense_tensors(part: Part, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """A part's tensors as they would be without quantisation, in the model's own dtype."""
    found: dict[str, Tensor] = {}
    for name, shape in part.shapes.items():
        scales = tensors.get(name + scale_suffix)
        found[name] = tensors[name] if scales is None else dense(tensors[name], scales, shape[1], dtype)
    return found


def stored_bytes(layout: Layout) -> int:
    """Bytes of the tensors of a block, without header and padding."""
    return sum(dtype.itemsize * torch.Size(shape).numel() for dtype, shape in layout.values())


def group_of(columns: int, groups: int) -> int:
    """Inputs per scale, where a row of `columns` has `groups` scales and the last may stand for fewer."""
    group = int4_groups[0]
    while columns > groups * group:
        group *= 2
    return group
