"""Making quantised tensors: round to nearest, or int4 scales searched for.

The search tries scales below the largest weight's and keeps, group by group, the one whose products differ least from
the true ones on the inputs that a calibration text gave (mean squares per input channel), then fits the scale to the
chosen integers by least squares. Known as importance-weighted clipping: AWQ (Lin et al. 2023, arXiv:2306.00978,
section 3) and llama.cpp's importance matrix do the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from blyan.model.parts import Part
from blyan.model.quantization import Quantization
from blyan.model.stored_tensors import is_matrix, pack, scale_suffix
from blyan.primitives.errors import UnsupportedModel

_fp8_largest: Final = 448.0  # of E4M3 without infinities
_int4_largest: Final = 7
_shrinks: Final = tuple(1.0 - 0.05 * step for step in range(11))  # 1.0 … 0.5 of the largest weight
_finite_rows: Final = 1_024  # looked at together
_rows_at_once_bytes: Final = 2 << 20  # in fp32: stays in the cache through all passes over it


class QuantizedPart:
    """The tensors of a part's block, made one at a time from those of a checkpoint."""

    def __init__(
        self,
        part: Part,
        read: Callable[[str], Tensor],
        quantization: Quantization,
        mean_squares: Mapping[str, Tensor],
    ) -> None:
        """`read` gives the checkpoint's tensors; `mean_squares` [in] by matrix weigh the search, and may lack any."""
        self._part = part
        self._read = read
        self._quantization = quantization
        self._mean_squares = mean_squares
        self._made: dict[str, Tensor] = {}  # codes or scales whose other half was asked for first

    def tensor(self, name: str) -> Tensor:
        """One tensor as `stored_layout` has it; `UnsupportedModel` names one that is not finite."""
        matrix = name.removesuffix(scale_suffix)
        if matrix != name or (is_matrix(name) and self._quantization.scheme != "bf16"):
            if name not in self._made:
                codes, scales = quantize_matrix(
                    self._finite(matrix), self._quantization, self._mean_squares.get(matrix)
                )
                self._made |= {matrix: codes, matrix + scale_suffix: scales}
            return self._made.pop(name)
        tensor = self._finite(name)
        return tensor.to(torch.bfloat16) if self._quantization.scheme == "bf16" else tensor

    def _finite(self, name: str) -> Tensor:
        tensor = self._read(name)
        if not all(bool(torch.isfinite(rows).all()) for rows in tensor.split(_finite_rows)):
            raise UnsupportedModel(
                f"tensor {self._part.checkpoint_name(name)}: expected finite weights, found infinities or NaN"
            )
        return tensor


def quantize_matrix(
    matrix: Tensor, quantization: Quantization, mean_squares: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Codes and scales of a matrix [out, in], as `stored_tensors` lays them out."""
    scheme, search = quantization.scheme, quantization.method == "search"
    if scheme != "int4":
        return _some_rows(matrix, lambda some: _by_channel(some, scheme))
    importance = _importance(matrix.shape[1], quantization.group, mean_squares if search else None)
    largest = torch.finfo(matrix.dtype).max  # beyond it a product with a scale is no number in the model's dtype
    return _some_rows(matrix, lambda some: _by_group(some, search, importance, largest))


def _by_channel(matrix: Tensor, scheme: str) -> tuple[Tensor, Tensor]:
    """int8 or fp8 codes [out, in] and scales [out]."""
    rows = matrix.float()
    largest = rows.abs().amax(dim=1)
    if scheme == "fp8":
        scales = _or_one(largest / _fp8_largest)
        return (rows / scales.unsqueeze(1)).to(torch.float8_e4m3fn), scales
    scales = _or_one(largest / 127)
    return (rows / scales.unsqueeze(1)).round_().clamp_(-127, 127).to(torch.int8), scales


def _by_group(matrix: Tensor, search: bool, importance: Tensor, largest: float) -> tuple[Tensor, Tensor]:
    """Packed int4 codes [out, ceil(in / 2)] and scales [out, groups]; importance [groups, group]."""
    columns = matrix.shape[1]
    padded = functional.pad(matrix.float(), (0, importance.numel() - columns))
    grouped = padded.view(-1, *importance.shape)
    values, scales = _search(grouped, importance, largest) if search else _round(grouped)
    return pack(values.view(len(grouped), importance.numel())[:, :columns].to(torch.int16)), scales


def _importance(columns: int, group: int, mean_squares: Tensor | None) -> Tensor:
    """What an error in each input weighs, [groups, group]: nothing where a short last group has no input."""
    groups = -(-columns // group)
    found = torch.zeros(groups * group)
    found[:columns] = 1.0
    if mean_squares is not None and mean_squares.sum() > 0:
        found[:columns] = mean_squares + 1e-6 * mean_squares.mean()
    return found.view(groups, group)


def _some_rows(matrix: Tensor, quantized: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Codes and scales of a matrix, some rows at a time so that memory is bounded."""
    step = max(1, _rows_at_once_bytes // (4 * matrix.shape[1]))
    pieces = [quantized(matrix[begin : begin + step]) for begin in range(0, matrix.shape[0], step)]
    return torch.cat([codes for codes, _ in pieces]), torch.cat([scales for _, scales in pieces])


def _round(grouped: Tensor) -> tuple[Tensor, Tensor]:
    """Integers [rows, groups, group] and scales [rows, groups]: a group's largest weight on the largest integer."""
    scales = _or_one(grouped.abs().amax(dim=-1) / _int4_largest)
    return (grouped / scales.unsqueeze(-1)).round().clamp(-8, _int4_largest), scales


def _search(grouped: Tensor, importance: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """As `_round`, with the scale of each group that leaves the least weighted square error.

    With integers v, weights x and importance w the best scale is s = Σwvx / Σwv², and it leaves Σwx² - (Σwvx)² / Σwv².
    """
    # the sign too: -8 reaches further than 7, so the largest weight's sign decides which way round is better
    at = grouped.abs().argmax(dim=-1, keepdim=True)
    extreme = grouped.gather(-1, at).squeeze(-1)
    weighted = grouped * importance
    values, spare = torch.empty_like(grouped), torch.empty_like(grouped)
    divisors = torch.where(extreme == 0, 1.0, extreme / _int4_largest)  # as `_round` has them
    scales, gain = divisors, torch.full_like(extreme, -torch.inf)
    for largest in (float(_int4_largest), -8.0):
        for shrink in _shrinks:
            tried = _or_one(extreme * (shrink / largest))
            torch.div(grouped, tried.unsqueeze(-1), out=values).round_().clamp_(-8, _int4_largest)
            product = torch.mul(values, weighted, out=spare).sum(-1)
            size = values.square_().mul_(importance).sum(-1)
            fitted = torch.where(size > 0, product / size, tried)
            better = (product * fitted > gain) & (8 * fitted.abs() <= limit)  # what the error falls by
            gain = torch.where(better, product * fitted, gain)
            divisors = torch.where(better, tried, divisors)
            scales = torch.where(better, fitted, scales)
    return torch.div(grouped, divisors.unsqueeze(-1), out=values).round_().clamp_(-8, _int4_largest), scales


def _or_one(scales: Tensor) -> Tensor:
    """A scale of zero stands for weights that are all zero: any other does too."""
    return torch.where(scales == 0, torch.ones_like(scales), scales)
