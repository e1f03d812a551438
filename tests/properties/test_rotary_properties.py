"""Whatever rotary scaling a `config.json` asks for, it is refused by name or its angles are numbers."""

from __future__ import annotations

import sys
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blyan.model.hf_config import config_from_hf
from blyan.model.rotary import rotary_table
from blyan.primitives.errors import UnsupportedModel

BASE: dict[str, Any] = {
    "model_type": "olmoe",
    "vocab_size": 100,
    "hidden_size": 24,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}
tiny = sys.float_info.min * sys.float_info.epsilon
edges = [0, -1, 1, 10**400, 2**53, tiny, 1e-3, 1e6, 1e308, float("inf"), float("nan"), 1.0000000000000002, -0.0]
numbers = st.one_of(st.sampled_from(edges), st.floats(1e-3, 1e6), st.floats(), st.integers(1, 1 << 60), st.none())
factors = st.one_of(numbers, st.lists(st.floats(1e-3, 1e6), min_size=3, max_size=3), st.lists(numbers, max_size=6))
ropes = st.fixed_dictionaries(
    {"rope_type": st.sampled_from(["linear", "dynamic", "yarn", "longrope", "llama3", "proportional"])},
    optional={"rope_theta": numbers, "truncate": st.booleans(), "partial_rotary_factor": numbers}
    | dict.fromkeys("factor attention_factor beta_fast beta_slow mscale mscale_all_dim".split(), numbers)
    | dict.fromkeys(["low_freq_factor", "high_freq_factor", "original_max_position_embeddings"], numbers)
    | dict.fromkeys(["short_factor", "long_factor"], factors),
)
read_by = {
    "linear": {"factor"},
    "dynamic": {"factor"},
    "yarn": set("factor attention_factor beta_fast beta_slow mscale mscale_all_dim truncate".split()),
    "longrope": {"factor", "attention_factor", "short_factor", "long_factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor"},
    "proportional": {"factor", "partial_rotary_factor"},
}
always = {"rope_type", "rope_theta", "original_max_position_embeddings"}


@settings(max_examples=600, deadline=None)
@given(rope=ropes, context=numbers, heads=st.sampled_from([1, 2, 4, 6]))
def test_the_rotary_table_is_finite_for_whatever_passes(rope: dict[str, Any], context: Any, heads: int) -> None:
    """At the first position, around the trained context, and at the last."""
    known = read_by[rope["rope_type"]] | always
    rope = {name: value for name, value in rope.items() if name in known}
    try:
        config = config_from_hf(
            BASE | {"rope_parameters": rope, "max_position_embeddings": context, "num_attention_heads": heads}
        )
    except UnsupportedModel:
        return
    last = config.context_length
    for start, reach in ((0, 8), (0, last), (last - 1, last)):
        cosines, sines = rotary_table(config.head_dim, config.rope_theta, config.rope_scaling, start, 1, reach)
        assert torch.isfinite(cosines).all()
        assert torch.isfinite(sines).all()
