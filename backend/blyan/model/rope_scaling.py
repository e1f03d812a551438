"""How a checkpoint stretches its rotary positions, as plain values; what is computed from them is in `rotary`.

Apart, because what only reads manifests must not wait for torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from blyan.primitives import limits
from blyan.primitives.errors import UnsupportedModel

_least, _most = 1e-3, 1e6  # far beyond any published checkpoint, and no angle leaves fp32 within
sensible_range: Final = f"a number from {_least:g} to {_most:g}"


def sensible(number: float) -> bool:
    """Whether a number is one that positions can be stretched by: a factor, a bound in rotations, a temperature."""
    return _least <= number <= _most  # NaN is not


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
                    _require(sensible(number), field.name, number, sensible_range)
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


def _require(holds: bool, field: str, found: object, expected: str) -> None:
    if not holds:
        raise UnsupportedModel(
            f"rotary scaling {field}: expected {expected}, found {found!r}",
            detail={"field": field, "expected": expected, "found": repr(found)[:200]},
        )


def lasting_positions(scaling: RopeScaling | None, reach: int) -> int | None:
    """How many first positions are turned as in every other sequence, None for all.

    Dynamic and LongRoPE choose their frequencies by how long a sequence is known to become, `reach`: within the trained
    context they are everybody's, and a longer prompt's are its own.
    """
    if scaling is None or scaling.kind not in ("dynamic", "longrope"):
        return None
    return scaling.original_context if reach <= scaling.original_context else 0
