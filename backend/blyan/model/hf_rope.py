"""How a `config.json` says rotary positions: theta, and how they are stretched beyond the trained context."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final, cast

from blyan.model.hf_values import boolean, integer, naming, number, sensible_number, want
from blyan.model.rope_scaling import RopeScaling
from blyan.primitives import limits
from blyan.primitives.errors import UnsupportedModel


def read_rope(raw: Mapping[str, Any], theta: float, context: int) -> tuple[float, RopeScaling | None]:
    """Theta and scaling, from `rope_parameters` (transformers 5) or `rope_scaling` beside `rope_theta`.

    `theta` is the family's default, `context` is `max_position_embeddings`. `UnsupportedModel` names the field.
    """
    given: Any = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    field = "rope_scaling" if raw.get("rope_scaling") else "rope_parameters"
    want(isinstance(given, dict), field, given, "an object")
    rope = dict(cast("dict[str, Any]", given))
    for holder in (raw, rope):
        want(holder.get("rope_theta", theta) is not None, "rope_theta", None, "a number")
    kind = rope.pop("rope_type", None) or rope.get("type") or "default"
    rope.pop("type", None)
    theta = number(rope, "rope_theta", number(raw, "rope_theta", theta))
    share = number(rope, "partial_rotary_factor", number(raw, "partial_rotary_factor", 1.0))
    rope = {name: value for name, value in rope.items() if name not in ("rope_theta", "partial_rotary_factor")}
    if kind != "proportional":
        want(share == 1.0, "partial_rotary_factor", share, "1.0")
    if kind == "default":
        rope.pop("factor", None)  # written and not read by the reference
        want(not rope, field, given, "rope_type default and rope_theta alone")
        return theta, None
    want(isinstance(kind, str) and kind in _scaling_fields, f"{field}.rope_type", kind, f"one of {[*_scaling_fields]}")
    strange = sorted(set(rope) - _scaling_fields[kind] - {"original_max_position_embeddings"})
    want(not strange, f"{field}.{strange[0] if strange else ''}", given, f"no such field of {kind}")
    outer = raw.get("original_max_position_embeddings")  # Phi's way; it goes before the inner one
    original = outer if outer is not None else rope.get("original_max_position_embeddings")
    rope["original_max_position_embeddings"] = (
        context if original is None or kind in ("linear", "dynamic") else original
    )
    try:
        with naming({each.name: _said.get(each.name, each.name) for each in fields(RopeScaling)}):
            return theta, _scaling(kind, rope, context, share)
    except UnsupportedModel as reason:
        raise UnsupportedModel(f"{field}.{reason.message}") from None


_said: Final = {  # ours → the checkpoint's, where they differ
    "kind": "rope_type",
    "original_context": "original_max_position_embeddings",
    "rotated_share": "partial_rotary_factor",
}
_scaling_fields: Final[Mapping[str, frozenset[str]]] = {
    "linear": frozenset({"factor"}),
    "dynamic": frozenset({"factor"}),
    "yarn": frozenset("factor attention_factor beta_fast beta_slow mscale mscale_all_dim truncate".split()),
    "longrope": frozenset("factor attention_factor short_factor long_factor".split()),
    "llama3": frozenset("factor low_freq_factor high_freq_factor".split()),
    "proportional": frozenset({"factor"}),
}


def _scaling(kind: str, rope: Mapping[str, Any], context: int, share: float) -> RopeScaling:
    original = integer(rope, "original_max_position_embeddings")
    want(original >= 1, "original_max_position_embeddings", original, "a number of positions")
    if kind == "proportional":
        return RopeScaling(kind, factor=number(rope, "factor", 1.0), rotated_share=share)
    if kind in ("linear", "dynamic"):
        return RopeScaling(kind, factor=number(rope, "factor", None), original_context=original)
    if kind == "llama3":
        return RopeScaling(
            kind,
            factor=number(rope, "factor", None),
            original_context=original,
            low_freq_factor=number(rope, "low_freq_factor", None),
            high_freq_factor=number(rope, "high_freq_factor", None),
        )
    factor = sensible_number(rope, "factor", context / original)
    if kind == "longrope":
        stretch = 1.0 if factor <= 1.0 or original == 1 else math.sqrt(1 + math.log(factor) / math.log(original))
        return RopeScaling(
            kind,
            original_context=original,
            attention_factor=number(rope, "attention_factor", stretch),
            short_factor=_factors(rope, "short_factor"),
            long_factor=_factors(rope, "long_factor"),
        )
    return RopeScaling(
        kind,
        factor=factor,
        original_context=original,
        attention_factor=number(rope, "attention_factor", _yarn_attention(rope, factor)),
        beta_fast=number(rope, "beta_fast", 32.0) or 32.0,
        beta_slow=number(rope, "beta_slow", 1.0) or 1.0,
        truncate=boolean(rope, "truncate", True),
    )


def _yarn_attention(rope: Mapping[str, Any], factor: float) -> float:
    """The temperature of YaRN's paper, or DeepSeek's ratio of two of them."""

    def temperature(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    scale, scale_all = (
        sensible_number(rope, name) if rope.get(name) else number(rope, name, 0.0)
        for name in ("mscale", "mscale_all_dim")
    )
    return temperature(scale) / temperature(scale_all) if scale and scale_all else temperature(1.0)


def stretched(context: int, scaling: RopeScaling | None) -> int:
    """Positions that the model may be given: the configuration's, or what its scaling makes of the trained ones."""
    if scaling is None or scaling.kind in ("longrope", "llama3", "proportional"):
        return context
    trained = scaling.original_context or context
    return max(context, min(int(trained * scaling.factor), limits.canonical_integer_max))


def _factors(rope: Mapping[str, Any], name: str) -> tuple[float, ...]:
    listed: Any = rope.get(name)
    want(isinstance(listed, list) and len(listed) <= limits.dimension_max, name, listed, "a list of numbers")
    return tuple(number({name: each}, name, None) for each in cast("list[Any]", listed))
