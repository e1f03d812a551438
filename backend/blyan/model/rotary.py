"""Rotary positions and every way in which checkpoints stretch them beyond the context they were trained on.

Su et al., arXiv:2104.09864; linear interpolation (Chen et al., arXiv:2306.15595), dynamic NTK, YaRN (Peng et al.,
arXiv:2309.00071), LongRoPE (Ding et al., arXiv:2402.13753), Llama 3.1's smooth interpolation, and rotation of a part of
the dimensions. Arithmetic is in fp32 and in the reference's order, so that angles are equal bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import torch
from torch import Tensor

from blyan.model.rope_scaling import RopeScaling


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
