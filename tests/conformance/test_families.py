"""Every family and every option of its configuration against `transformers`, on random checkpoints of awkward sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from blyan.model.generate import forward_locally, generate
from blyan.model.loading import LoadedModel, load_model
from blyan.model.sampling import Sampling
from blyan.model.transformer import logits
from blyan.node.data_directory import open_ground
from checkpoints import save_random_checkpoint
from nodes import import_into

pytestmark = pytest.mark.oracle

TOLERANCE = 1e-4  # of teacher-forced log-probabilities in fp32
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


def imported(folder: Path, **options: Any) -> tuple[Any, LoadedModel]:
    """The `transformers` model and ours of the same checkpoint, through import, blocks and chain."""
    reference = save_random_checkpoint(folder / "hf", **options)
    published = import_into(folder / "data", folder / "hf", "random")
    return reference, load_model(open_ground(folder / "data").store, published.model.manifest)


def prompt_of(model: Any, length: int) -> list[int]:
    torch.manual_seed(99)
    return torch.randint(0, model.config.vocab_size, (length,)).tolist()


@pytest.mark.parametrize("case", CASES)
def test_a_family_computes_what_transformers_computes(tmp_path: Path, case: str) -> None:
    """Teacher-forced log-probabilities within 1e-4, greedy tokens equal, at least 20 distinct ones."""
    length, tokens, options = CASES[case]
    reference, ours = imported(tmp_path, seed=len(case), **options)
    prompt = prompt_of(reference, length)
    with torch.inference_mode():
        expected = reference(torch.tensor([prompt])).logits[0].log_softmax(-1)
        greedy = reference.generate(
            torch.tensor([prompt]), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0
        )[0, length:].tolist()
        hidden = forward_locally(ours.weights, ours.manifest.config, prompt, None)
        found = logits(ours.weights, ours.manifest.config, hidden).log_softmax(-1)
    assert float((expected - found).abs().max()) <= TOLERANCE
    steps = generate(ours.weights, ours.manifest.config, prompt, Sampling(0.0, 1.0, 0, seed=0), tokens_max=tokens)
    assert greedy == [step.token for step in steps if step is not None]
    assert len(set(greedy)) >= 20, "a model that repeats itself would show little"


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe"])
def test_a_family_in_bf16_stays_within_its_tolerance(tmp_path: Path, family: str) -> None:
    """At nine of ten positions every log-probability within 0.15 nat of transformers in bf16, at the others 0.75;
    at the nine its choice where its margin exceeds 0.3.

    The others are where a token goes to another expert because two gate scores are equal but for rounding.
    """
    tolerance, apart_max = 0.15, 0.75
    width = "intermediate_size" if family in ("mixtral", "olmoe") else "moe_intermediate_size"
    # transformers multiplies half-precision experts only in rows of 16 bytes
    reference, ours = imported(tmp_path, family=family, dtype="bfloat16", scale=1.0, **{width: 56})
    prompt = prompt_of(reference, 300)
    with torch.inference_mode():
        expected = reference(torch.tensor([prompt])).logits[0].float().log_softmax(-1)
        hidden = forward_locally(ours.weights, ours.manifest.config, prompt, None)
        found = logits(ours.weights, ours.manifest.config, hidden).float().log_softmax(-1)
    apart = (expected - found).abs().amax(-1)  # [T]
    assert float(apart.max()) <= apart_max
    near = apart <= tolerance
    assert int(near.sum()) >= 0.9 * len(prompt)
    best = expected.topk(2)
    clear = near & (best.values[:, 0] - best.values[:, 1] > 2 * tolerance)
    assert int(clear.sum()) >= 10, "enough positions with a clear choice"
    assert torch.equal(best.indices[clear, 0], found.argmax(-1)[clear])
