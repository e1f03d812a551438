"""From a Hugging Face `config.json` to the one `ModelConfig`: every field is read, ignored on purpose, or refused.

A field that this engine does not know could change what is computed, so it is refused with its name and value. The
defaults are those of the `transformers` configuration classes, for checkpoints that leave fields out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from blyan.model import hf_fields
from blyan.model.config import ModelConfig
from blyan.model.hf_fields import FamilyFields
from blyan.model.hf_rope import read_rope, stretched
from blyan.model.hf_values import boolean, integer, naming, number, sensible_number, want
from blyan.primitives import limits
from blyan.primitives.errors import UnsupportedModel


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """The architecture that a `config.json` describes; `UnsupportedModel` names the field and what it holds."""
    family = raw.get("model_type")
    known = hf_fields.families.get(family) if isinstance(family, str) else None
    if known is None:
        raise UnsupportedModel(f"model_type: expected one of {sorted(hf_fields.families)}, found {str(family)[:80]!r}")
    _check_names(raw, known)
    given = {**known.defaults, **raw}
    layers = integer(given, "num_hidden_layers")
    want(1 <= layers <= limits.layers_max, "num_hidden_layers", layers, f"1 to {limits.layers_max}")
    heads, hidden = integer(given, "num_attention_heads"), integer(given, "hidden_size")
    context = integer(given, "max_position_embeddings")
    want(context >= 1, "max_position_embeddings", context, "a number of positions")
    theta, scaling = read_rope(raw, known.defaults["rope_theta"], context)
    window, window_layers = _windows(given, str(family), layers)
    bias, experts = known.attention_bias, _experts_name(raw, known)
    with naming({**_said, "expert_intermediate": known.expert_width, "experts": experts}):
        return ModelConfig(
            family=str(family),
            vocab_size=integer(given, "vocab_size"),
            hidden=hidden,
            layers=layers,
            heads=heads,
            kv_heads=integer(given, "num_key_value_heads", heads),
            head_dim=_head_dim(raw, str(family), heads, hidden),
            dense_intermediate=integer(given, "intermediate_size"),
            expert_intermediate=integer(given, known.expert_width),
            experts=integer(given, experts),
            experts_per_token=integer(given, "num_experts_per_tok"),
            normalise_top_k=known.always_normalised or boolean(given, "norm_topk_prob", False),
            moe_layers=_moe_layers(given, layers),
            attention_bias=bias is not None and boolean(given, bias, False),
            tied_embeddings=boolean(given, "tie_word_embeddings", False),
            rms_eps=number(given, "rms_norm_eps", None),
            rope_theta=theta,
            context_length=stretched(context, scaling),
            rope_scaling=scaling,
            shared_intermediate=integer(given, "shared_expert_intermediate_size") if family == "qwen2_moe" else 0,
            clip_qkv=0.0 if given.get("clip_qkv") is None else sensible_number(given, "clip_qkv"),
            window=window,
            window_layers=window_layers,
        )


def asked_in_vain(raw: Mapping[str, Any]) -> Iterator[str]:
    """Sentences about the generation fields of a `config.json`, where `transformers` reads them no more since 5.0."""
    for name in sorted(hf_fields.asks_for_nothing.keys() & raw.keys()):
        if hf_fields.asks(name, raw[name]):
            yield f"config.json: {name} {str(raw[name])[:200]!r} is not honoured; generation_config.json is its place"


# our field → the checkpoint's
_said = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "dense_intermediate": "intermediate_size",
    "experts_per_token": "num_experts_per_tok",
    "moe_layers": "mlp_only_layers",
    "rms_eps": "rms_norm_eps",
    "context_length": "max_position_embeddings",
    "shared_intermediate": "shared_expert_intermediate_size",
    "window": "sliding_window",
    "window_layers": "layer_types",
    **{name: name for name in ("vocab_size", "head_dim", "rope_theta", "clip_qkv", "short_factor", "long_factor")},
}


def _check_names(raw: Mapping[str, Any], known: FamilyFields) -> None:
    unknown = sorted(set(raw) - known.known - hf_fields.asks_for_nothing.keys() - hf_fields.of_the_machinery)
    if unknown:
        found = str(raw[unknown[0]])[:200]
        raise UnsupportedModel(f"{unknown[0][:200]}: expected a known field of {raw['model_type']}, found {found!r}")
    for field, allowed in {**hf_fields.fixed, **known.fixed}.items():
        found = raw.get(field, allowed[0])
        same = any(found == value and type(found) is type(value) for value in allowed)
        want(same, field, found, " or ".join(map(json.dumps, allowed)))
    for field, default in known.defaults.items():
        strict = default is not None and field not in known.nullable
        want(not strict or raw.get(field, default) is not None, field, None, "a value (without the field: the default)")


def _experts_name(raw: Mapping[str, Any], known: FamilyFields) -> str:
    """The field that says the number of experts; where both of its names are there, they must agree."""
    there = [name for name in known.experts if name in raw]
    for name in there[1:]:
        want(raw[name] == raw[there[0]], name, raw[name], f"{there[0]}, {raw[there[0]]}")
    return there[0] if there else known.experts[0]


def _head_dim(raw: Mapping[str, Any], family: str, heads: int, hidden: int) -> int:
    derived = hidden // heads if heads > 0 else 0
    if raw.get("head_dim") is None:
        want(heads > 0 and hidden % heads == 0, "num_attention_heads", heads, f"a divisor of hidden_size {hidden}")
        return derived
    found = integer(raw, "head_dim")
    want(family != "olmoe" or found * heads == hidden, "head_dim", found, f"hidden_size / heads, {derived}")
    return found


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


def _windows(given: Mapping[str, Any], family: str, layers: int) -> tuple[int, tuple[int, ...]]:
    """The sliding window and the layers that have it."""
    used = family == "mixtral" or boolean(given, "use_sliding_window", False)
    types: Any = given.get("layer_types")
    if family == "olmoe" or not used or (given.get("sliding_window") is None and family != "qwen2_moe"):
        plain = types is None or types == ["full_attention"] * layers
        want(plain, "layer_types", types, "full_attention for every layer without a sliding window")
        return 0, ()
    window = integer(given, "sliding_window")
    want(window >= 1, "sliding_window", window, "at least 1")
    if family != "qwen2_moe":
        everywhere = types is None or types == ["sliding_attention"] * layers
        want(everywhere, "layer_types", types, "sliding_attention for every layer with a sliding window")
        return window, tuple(range(layers))
    if types is None:
        last = integer(given, "max_window_layers")
        return _without_layers(window, tuple(layer for layer in range(0, layers, 2) if layer < last))
    kinds = ("full_attention", "sliding_attention")
    fits = isinstance(types, list) and len(cast("list[Any]", types)) == layers and all(each in kinds for each in types)
    want(fits, "layer_types", types, f"{layers} of {kinds}")
    return _without_layers(window, tuple(layer for layer, kind in enumerate(types) if kind == kinds[1]))


def _without_layers(window: int, layers: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    return (window, layers) if layers else (0, ())
