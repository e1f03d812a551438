"""Random checkpoints that between them say everything a family's configuration can say."""

from __future__ import annotations

from typing import Any

LONG, SHORT = 256, 32  # greedy tokens compared

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "original_max_position_embeddings": 64,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}


def longrope(head_dim: int) -> dict[str, Any]:
    half = head_dim // 2
    return {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "factor": 8.0,
        "original_max_position_embeddings": 64,
        "short_factor": [1.0 + 0.05 * n for n in range(half)],
        "long_factor": [1.0 + 0.4 * n for n in range(half)],
    }


CASES: dict[str, tuple[int, int, dict[str, Any]]] = {  # prompt length, greedy tokens, what the checkpoint says
    "mixtral": (48, LONG, {"family": "mixtral"}),
    "qwen2_moe": (48, LONG, {"family": "qwen2_moe"}),
    "qwen3_moe": (48, LONG, {"family": "qwen3_moe"}),
    "olmoe": (48, LONG, {"family": "olmoe"}),
    "mixtral tied, one KV head": (
        48,
        SHORT,
        {"family": "mixtral", "tie_word_embeddings": True, "num_key_value_heads": 1},
    ),
    "mixtral with a window": (90, SHORT, {"family": "mixtral", "sliding_window": 17}),
    "mixtral with a window of two": (40, SHORT, {"family": "mixtral", "sliding_window": 2}),
    "mixtral, one expert": (48, SHORT, {"family": "mixtral", "num_local_experts": 1, "num_experts_per_tok": 1}),
    "mixtral, 33 experts, all used": (
        24,
        SHORT,
        {"family": "mixtral", "num_local_experts": 33, "num_experts_per_tok": 33},
    ),
    "qwen2_moe without bias, not normalised": (
        48,
        SHORT,
        {"family": "qwen2_moe", "qkv_bias": False, "norm_topk_prob": False, "mlp_only_layers": []},
    ),
    "qwen2_moe, every second layer routed": (48, SHORT, {"family": "qwen2_moe", "decoder_sparse_step": 2}),
    "qwen2_moe with windows in some layers": (
        90,
        SHORT,
        {"family": "qwen2_moe", "use_sliding_window": True, "sliding_window": 13, "max_window_layers": 3},
    ),
    "qwen2_moe with windows in listed layers": (
        90,
        SHORT,
        {
            "family": "qwen2_moe",
            "use_sliding_window": True,
            "sliding_window": 11,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
        },
    ),
    "qwen3_moe with a window": (90, SHORT, {"use_sliding_window": True, "sliding_window": 19}),
    "olmoe clipped": (48, SHORT, {"family": "olmoe", "clip_qkv": 0.7}),
    "olmoe with bias, tied, not normalised": (
        48,
        SHORT,
        {"family": "olmoe", "attention_bias": True, "tie_word_embeddings": True, "norm_topk_prob": False},
    ),
    "rope linear": (90, SHORT, {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}}),
    "rope dynamic, beyond": (
        90,
        SHORT,
        {
            "max_position_embeddings": 64,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
        },
    ),
    "rope dynamic, growing past": (
        50,
        SHORT,
        {
            "max_position_embeddings": 64,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
        },
    ),
    "rope yarn": (90, SHORT, {"rope_parameters": YARN}),
    "rope yarn, not truncated, its own temperature": (
        90,
        SHORT,
        {"rope_parameters": {**YARN, "truncate": False, "attention_factor": 0.9, "beta_fast": 20, "beta_slow": 2}},
    ),
    "rope yarn of DeepSeek's temperatures": (
        90,
        SHORT,
        {"family": "mixtral", "rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3}},
    ),
    "rope longrope, short": (20, SHORT, {"rope_parameters": longrope(20)}),
    "rope longrope, long": (90, SHORT, {"rope_parameters": longrope(20)}),
    "rope longrope, growing past": (50, SHORT, {"rope_parameters": longrope(20)}),
    "rope llama3": (90, SHORT, {"family": "olmoe", "rope_parameters": LLAMA3}),
    "rope proportional": (
        90,
        SHORT,
        {
            "family": "mixtral",
            "rope_parameters": {
                "rope_type": "proportional",
                "rope_theta": 1e4,
                "factor": 2.0,
                "partial_rotary_factor": 0.5,
            },
        },
    ),
}
