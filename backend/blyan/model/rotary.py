"""Rotary positions and every way in which checkpoints stretch them beyond the context they were trained on.

Su et al., arXiv:2104.09864; linear interpolation (Chen et al., arXiv:2306.15595), dynamic NTK, YaRN (Peng et al.,
arXiv:2309.00071), LongRoPE (Ding et al., arXiv:2402.13753), Llama 3.1's smooth interpolation, and rotation of a part of
the dimensions. Arithmetic is in fp32 and in the reference's order, so that angles are equal bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Final, TypeAlias

import torch
from torch import Tensor

from blyan.primitives import limits
from blyan.primitives.errors import UnsupportedModel


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How frequencies differ from theta^(-2i/d). Only the fields that `kind` reads may differ from their defaults."""

    kind: str  # linear, dynamic, yarn, longrope, llama3 or proportional
    factor: float = 1.0
    original_context: int = 0  # positions the checkpoint was trained on before it was stretched
    attention_factor: float = 1.0  # multiplies cosines and sines
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True  # YaRN: whole dimensions as bounds of its ramp
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    short_factor: tuple[float, ...] = ()  # LongRoPE: one divisor per frequency, up to `original_context` positions
    long_factor: tuple[float, ...] = ()  # and beyond it
    rotated_share: float = 1.0  # proportional: this share of the dimensions turns, the others stand still

    def __post_init__(self) -> None:
        read = _fields_of.get(self.kind)
        _require(read is not None, "kind", self.kind, f"one of {sorted(_fields_of)}")
        assert read is not None, "required above"
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in read and field.name != "kind":
                _require(value == field.default, field.name, value, f"nothing for {self.kind}")
            for number in value if isinstance(value, tuple) else (value,):
                if type(number) is float:
                    _require(math.isfinite(number) and 0 < number < 1e9, field.name, number, "a number above 0")
        if "original_context" in read:
            top = limits.canonical_integer_max
            _require(1 <= self.original_context <= top, "original_context", self.original_context, f"1 to {top}")
        _require(self.rotated_share <= 1, "rotated_share", self.rotated_share, "at most 1")
        if self.kind == "llama3":
            ordered = self.low_freq_factor < self.high_freq_factor
            _require(ordered, "low_freq_factor", self.low_freq_factor, f"below {self.high_freq_factor}")


_fields_of: Final[Mapping[str, frozenset[str]]] = {
    "linear": frozenset({"factor", "original_context"}),
    "dynamic": frozenset({"factor", "original_context"}),
    "yarn": frozenset("factor original_context attention_factor beta_fast beta_slow truncate".split()),
    "longrope": frozenset("original_context attention_factor short_factor long_factor".split()),
    "llama3": frozenset("factor original_context low_freq_factor high_freq_factor".split()),
    "proportional": frozenset({"factor", "rotated_share"}),
}


def check_rotary(head_dim: int, scaling: RopeScaling | None) -> None:
    """Raise `UnsupportedModel` unless the scaling fits heads of that size."""
    if scaling is not None and scaling.kind == "longrope":
        for name in ("short_factor", "long_factor"):
            found = len(getattr(scaling, name))
            _require(found == head_dim // 2, name, found, f"{head_dim // 2} factors")
    if scaling is not None and scaling.kind == "dynamic":
        _require(head_dim > 2, "head_dim", head_dim, "more than 2 for dynamic scaling")


def rotary_table(
    head_dim: int, theta: float, scaling: RopeScaling | None, start: int, count: int, reach: int
) -> tuple[Tensor, Tensor]:
    """Cosines and sines [count, head_dim] in fp32 of positions start … start+count.

    `reach` is the length of the sequence as far as it is known: dynamic and LongRoPE choose their frequencies by it,
    and a prompt computed in runs must choose for all of them what it would for one.
    """
    frequencies = _plain(head_dim, theta) if scaling is None else _scaled[scaling.kind](head_dim, theta, scaling, reach)
    positions = torch.arange(start, start + count, dtype=torch.float32)
    angles = torch.outer(positions, frequencies)
    angles = torch.cat((angles, angles), dim=-1)
    if scaling is None or scaling.attention_factor == 1.0:
        return angles.cos(), angles.sin()
    return angles.cos() * scaling.attention_factor, angles.sin() * scaling.attention_factor


def _powers(head_dim: int, theta: float) -> Tensor:
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    return theta**exponents


def _plain(head_dim: int, theta: float) -> Tensor:
    return 1.0 / _powers(head_dim, theta)


def _linear(head_dim: int, theta: float, scaling: RopeScaling, _reach: int) -> Tensor:
    return _plain(head_dim, theta) / scaling.factor


def _dynamic(head_dim: int, theta: float, scaling: RopeScaling, reach: int) -> Tensor:
    """The base grows with the sequence once it is longer than what was trained on."""
    stretch = scaling.factor * max(reach, scaling.original_context) / scaling.original_context - (scaling.factor - 1)
    return _plain(head_dim, theta * stretch ** (head_dim / (head_dim - 2)))


def _yarn(head_dim: int, theta: float, scaling: RopeScaling, _reach: int) -> Tensor:
    """High frequencies stay, low ones are interpolated, between them a ramp over the dimensions."""

    def dimension_of(rotations: float) -> float:
        turns = scaling.original_context / (rotations * 2 * math.pi)
        return (head_dim * math.log(turns)) / (2 * math.log(theta))

    low, high = dimension_of(scaling.beta_fast), dimension_of(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001  # the ramp needs a width
    ramp = torch.clamp((torch.arange(head_dim // 2, dtype=torch.float32) - low) / (high - low), 0, 1)
    powers = _powers(head_dim, theta)
    kept = 1 - ramp
    return 1.0 / (scaling.factor * powers) * (1 - kept) + 1.0 / powers * kept


def _longrope(head_dim: int, theta: float, scaling: RopeScaling, reach: int) -> Tensor:
    factors = scaling.long_factor if reach > scaling.original_context else scaling.short_factor
    return 1.0 / (torch.tensor(factors, dtype=torch.float32) * _powers(head_dim, theta))


def _llama3(head_dim: int, theta: float, scaling: RopeScaling, _reach: int) -> Tensor:
    """Wavelengths beyond the trained context are divided, short ones stay, those between are blended."""
    plain = _plain(head_dim, theta)
    wavelengths = 2 * math.pi / plain
    longest, shortest = (
        scaling.original_context / factor for factor in (scaling.low_freq_factor, scaling.high_freq_factor)
    )
    divided = torch.where(wavelengths > longest, plain / scaling.factor, plain)
    blend = (scaling.original_context / wavelengths - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    blended = (1 - blend) * divided / scaling.factor + blend * divided
    between = (wavelengths >= shortest) & (wavelengths <= longest)
    return torch.where(between, blended, divided)


def _proportional(head_dim: int, theta: float, scaling: RopeScaling, _reach: int) -> Tensor:
    turning = int(scaling.rotated_share * head_dim // 2)
    frequencies = _plain(head_dim, theta)
    frequencies[turning:] = 0.0
    return frequencies / scaling.factor


_Frequencies: TypeAlias = Callable[[int, float, RopeScaling, int], Tensor]
_scaled: Final[Mapping[str, _Frequencies]] = {
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "longrope": _longrope,
    "llama3": _llama3,
    "proportional": _proportional,
}
assert _scaled.keys() == _fields_of.keys()


def _require(holds: bool, field: str, found: object, expected: str) -> None:
    if not holds:
        raise UnsupportedModel(f"rotary scaling {field}: expected {expected}, found {found!r}")
