"""From a Hugging Face `config.json` to the one `ModelConfig`: every field is read, ignored on purpose, or refused.

A field that this engine does not know could change what is computed, so it is refused with its name and value. The
defaults are those of the `transformers` configuration classes, for checkpoints that leave fields out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from blyan.model.config import ModelConfig
from blyan.model.rope_scaling import RopeScaling, sensible, sensible_range
from blyan.primitives import limits
from blyan.primitives.errors import UnsupportedModel

# fields that do not change what is computed at inference, or that other files say better
_ignored: Final = frozenset(
    "architectures attention_dropout bos_token_id dtype eos_token_id initializer_range output_router_logits "
    "pad_token_id router_aux_loss_coef router_z_loss_coef router_jitter_noise torch_dtype transformers_version "
    "use_cache _name_or_path id2label label2id return_dict output_attentions output_hidden_states problem_type "
    "chunk_size_feed_forward is_encoder_decoder".split()
)
_read: Final = frozenset(
    "hidden_size intermediate_size max_position_embeddings model_type num_attention_heads num_experts_per_tok "
    "num_hidden_layers num_key_value_heads rms_norm_eps rope_parameters rope_scaling rope_theta tie_word_embeddings "
    "vocab_size partial_rotary_factor original_max_position_embeddings".split()
)
# fields that may only say what this engine computes anyway
_fixed: Final[Mapping[str, tuple[object, ...]]] = {"hidden_act": ("silu",), "quantization_config": (None,)}


@dataclass(frozen=True, slots=True)
class _Fields:
    """How one family's `config.json` says it."""

    experts: tuple[str, ...]  # names of the number of experts, in order of preference
    expert_width: str
    attention_bias: str | None
    defaults: Mapping[str, Any]
    also: frozenset[str]  # further fields that are read
    fixed: Mapping[str, tuple[object, ...]]
    ignored: frozenset[str] = frozenset()
    always_normalised: bool = False


_fields: Final[Mapping[str, _Fields]] = {
    "mixtral": _Fields(
        experts=("num_local_experts", "num_experts"),
        expert_width="intermediate_size",
        attention_bias=None,
        defaults={"max_position_embeddings": 131_072, "rms_norm_eps": 1e-5, "rope_theta": 1e6, "kv_heads": 8},
        also=frozenset({"head_dim", "sliding_window"}),
        fixed={"attention_bias": (False, None), "norm_topk_prob": (True, None)},
        always_normalised=True,
    ),
    "qwen2_moe": _Fields(
        experts=("num_experts",),
        expert_width="moe_intermediate_size",
        attention_bias="qkv_bias",
        defaults={"max_position_embeddings": 32_768, "rms_norm_eps": 1e-6, "rope_theta": 1e4, "qkv_bias": True},
        also=frozenset(
            "decoder_sparse_step layer_types max_window_layers mlp_only_layers norm_topk_prob "
            "shared_expert_intermediate_size sliding_window use_sliding_window".split()
        ),
        fixed={},
    ),
    "qwen3_moe": _Fields(
        experts=("num_experts", "num_local_experts"),
        expert_width="moe_intermediate_size",
        attention_bias="attention_bias",
        defaults={"max_position_embeddings": 32_768, "rms_norm_eps": 1e-6, "rope_theta": 1e4},
        also=frozenset(
            "decoder_sparse_step head_dim mlp_only_layers norm_topk_prob sliding_window use_sliding_window".split()
        ),
        fixed={"qkv_bias": (False, None), "use_qk_norm": (True, None), "shared_expert_intermediate_size": (0, None)},
        ignored=frozenset({"max_window_layers"}),  # of its predecessor; this family's window is for all layers
    ),
    "olmoe": _Fields(
        experts=("num_experts", "num_local_experts"),
        expert_width="intermediate_size",
        attention_bias="attention_bias",
        defaults={"max_position_embeddings": 4_096, "rms_norm_eps": 1e-5, "rope_theta": 1e4},
        also=frozenset({"clip_qkv", "norm_topk_prob"}),
        fixed={},
    ),
}


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """The architecture that a `config.json` describes; `UnsupportedModel` names the field and what it holds."""
    family = raw.get("model_type")
    known = _fields.get(family) if isinstance(family, str) else None
    if known is None:
        raise UnsupportedModel(f"model_type: expected one of {sorted(_fields)}, found {str(family)[:80]!r}")
    _check_names(raw, known)
    layers = integer(raw, "num_hidden_layers")
    want(1 <= layers <= limits.layers_max, "num_hidden_layers", layers, f"1 to {limits.layers_max}")
    heads, hidden = integer(raw, "num_attention_heads"), integer(raw, "hidden_size")
    if raw.get("head_dim") is None:
        want(heads > 0 and hidden % heads == 0, "num_attention_heads", heads, f"a divisor of hidden_size {hidden}")
    head_dim = integer(raw, "head_dim", hidden // heads if heads else 0)
    context = integer(raw, "max_position_embeddings", known.defaults["max_position_embeddings"])
    want(context >= 1, "max_position_embeddings", context, "a number of positions")
    theta, scaling = _rope(raw, known, context)
    window, window_layers = _windows(raw, str(family), layers)
    bias = known.attention_bias
    return ModelConfig(
        family=str(family),
        vocab_size=integer(raw, "vocab_size"),
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=integer(raw, "num_key_value_heads", known.defaults.get("kv_heads", heads)),
        head_dim=head_dim,
        dense_intermediate=integer(raw, "intermediate_size"),
        expert_intermediate=integer(raw, known.expert_width),
        experts=integer(raw, next((name for name in known.experts if name in raw), known.experts[0])),
        experts_per_token=integer(raw, "num_experts_per_tok"),
        normalise_top_k=known.always_normalised or _boolean(raw, "norm_topk_prob", False),
        moe_layers=_moe_layers(raw, layers),
        attention_bias=bias is not None and _boolean(raw, bias, known.defaults.get(bias, False)),
        tied_embeddings=_boolean(raw, "tie_word_embeddings", False),
        rms_eps=number(raw, "rms_norm_eps", known.defaults["rms_norm_eps"]),
        rope_theta=theta,
        context_length=_stretched(context, scaling),
        rope_scaling=scaling,
        shared_intermediate=integer(raw, "shared_expert_intermediate_size") if family == "qwen2_moe" else 0,
        clip_qkv=0.0 if raw.get("clip_qkv") is None else _sensible(raw, "clip_qkv"),
        window=window,
        window_layers=window_layers,
    )


def _check_names(raw: Mapping[str, Any], known: _Fields) -> None:
    fixed = {**_fixed, **known.fixed}
    read = {*_read, *known.experts, known.expert_width, known.attention_bias, *known.also}
    unknown = sorted(set(raw) - _ignored - known.ignored - fixed.keys() - read)
    if unknown:
        found = str(raw[unknown[0]])[:200]
        raise UnsupportedModel(f"{unknown[0]}: expected a known field of {raw['model_type']}, found {found!r}")
    for field, allowed in fixed.items():
        found = raw.get(field, allowed[0])
        same = any(found == value and type(found) is type(value) for value in allowed)
        want(same, field, found, " or ".join(map(json.dumps, allowed)))


def _moe_layers(raw: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    step = integer(raw, "decoder_sparse_step", 1)
    want(step >= 1, "decoder_sparse_step", step, "at least 1")
    dense: Any = raw.get("mlp_only_layers") or []
    want(
        isinstance(dense, list) and all(type(layer) is int for layer in cast("list[Any]", dense)),
        "mlp_only_layers",
        dense,
        "a list of layer numbers",
    )
    return tuple(layer for layer in range(layers) if layer not in dense and (layer + 1) % step == 0)


def _windows(raw: Mapping[str, Any], family: str, layers: int) -> tuple[int, tuple[int, ...]]:
    """The sliding window and the layers that have it."""
    used = family == "mixtral" or _boolean(raw, "use_sliding_window", False)
    if family == "olmoe" or not used or (raw.get("sliding_window") is None and family != "qwen2_moe"):
        types: Any = raw.get("layer_types")
        plain = types is None or types == ["full_attention"] * layers
        want(plain, "layer_types", types, "full_attention for every layer without a sliding window")
        return 0, ()
    window = integer(raw, "sliding_window", 4096)
    want(window >= 1, "sliding_window", window, "at least 1")
    if family != "qwen2_moe":
        return window, tuple(range(layers))
    types = raw.get("layer_types")
    if types is None:
        last = integer(raw, "max_window_layers", 28)
        return _without_layers(window, tuple(layer for layer in range(0, layers, 2) if layer < last))
    kinds = ("full_attention", "sliding_attention")
    fits = isinstance(types, list) and len(cast("list[Any]", types)) == layers and all(each in kinds for each in types)
    want(fits, "layer_types", types, f"{layers} of {kinds}")
    return _without_layers(window, tuple(layer for layer, kind in enumerate(types) if kind == kinds[1]))


def _without_layers(window: int, layers: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    return (window, layers) if layers else (0, ())


def _rope(raw: Mapping[str, Any], known: _Fields, context: int) -> tuple[float, RopeScaling | None]:
    """Theta and scaling, from `rope_parameters` (transformers 5) or `rope_scaling` beside `rope_theta`."""
    given: Any = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    field = "rope_scaling" if raw.get("rope_scaling") else "rope_parameters"
    want(isinstance(given, dict), field, given, "an object")
    rope = dict(cast("dict[str, Any]", given))
    kind = rope.pop("rope_type", None) or rope.get("type") or "default"
    rope.pop("type", None)
    theta = number(rope, "rope_theta", number(raw, "rope_theta", known.defaults["rope_theta"]))
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
    return theta, _scaling(kind, rope, context, share)


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
    factor = _sensible(rope, "factor", context / original)
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
        truncate=_boolean(rope, "truncate", True),
    )


def _yarn_attention(rope: Mapping[str, Any], factor: float) -> float:
    """The temperature of YaRN's paper, or DeepSeek's ratio of two of them."""

    def temperature(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    scale, scale_all = (
        _sensible(rope, name) if rope.get(name) else number(rope, name, 0.0) for name in ("mscale", "mscale_all_dim")
    )
    return temperature(scale) / temperature(scale_all) if scale and scale_all else temperature(1.0)


def _stretched(context: int, scaling: RopeScaling | None) -> int:
    """Positions that the model may be given: the configuration's, or what its scaling makes of the trained ones."""
    if scaling is None or scaling.kind in ("longrope", "llama3", "proportional"):
        return context
    trained = scaling.original_context or context
    return max(context, min(int(trained * scaling.factor), limits.canonical_integer_max))


def _factors(rope: Mapping[str, Any], name: str) -> tuple[float, ...]:
    listed: Any = rope.get(name)
    want(isinstance(listed, list) and len(listed) <= limits.dimension_max, name, listed, "a list of numbers")
    return tuple(number({name: each}, name, None) for each in cast("list[Any]", listed))


def integer(raw: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """An integer of a JSON object; `UnsupportedModel` names the field."""
    value = raw.get(name)
    if value is None and default is not None:
        return default
    top = limits.canonical_integer_max
    want(type(value) is int and abs(value) <= top, name, value, f"an integer, at most {top} from 0")
    return cast("int", value)


def number(raw: Mapping[str, Any], name: str, default: float | None) -> float:
    """A finite number of a JSON object; `UnsupportedModel` names the field."""
    value = raw.get(name)
    if value is None and default is not None:
        return default
    fits = type(value) in (int, float) and abs(cast("float", value)) <= limits.canonical_integer_max
    want(fits, name, value, "a number")  # NaN is not below anything either
    return float(cast("float", value))


def _sensible(raw: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = number(raw, name, default)
    want(sensible(value), name, value, sensible_range)
    return value


def _boolean(raw: Mapping[str, Any], name: str, default: bool) -> bool:
    value = raw.get(name)
    if value is None:
        return default
    want(type(value) is bool, name, value, "true or false")
    return cast("bool", value)


def want(holds: bool, field: str, found: object, expected: str) -> None:
    """Raise `UnsupportedModel` with both values unless it holds."""
    if not holds:
        raise UnsupportedModel(f"{field}: expected {expected}, found {str(found)[:200]!r}")
