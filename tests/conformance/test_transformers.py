"""The engine against `transformers` on the same random checkpoints, through import, blocks, chain and the HTTP door."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from checkpoints import save_random_checkpoint
from nodes import import_into, serving

pytestmark = pytest.mark.oracle

TOLERANCE = 1e-4  # of teacher-forced log-probabilities in fp32
CASES: dict[str, dict[str, Any]] = {
    "untied, dense first layer": {},
    "tied": {"tie_word_embeddings": True, "seed": 1},
    "weights of the chosen experts not normalised": {"norm_topk_prob": False, "seed": 2},
    "attention bias": {"attention_bias": True, "seed": 3},
    "every second layer routed, one expert a token": {
        "decoder_sparse_step": 2,
        "mlp_only_layers": [],
        "num_experts_per_tok": 1,
        "seed": 4,
    },
    "one KV head, other rope base": {
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "seed": 5,
    },
}


def prompt_of(model: Any, length: int) -> list[int]:
    torch.manual_seed(99)
    return torch.randint(0, model.config.vocab_size, (length,)).tolist()


@pytest.mark.parametrize("case", CASES)
async def test_imported_model_computes_what_transformers_computes(tmp_path: Path, case: str) -> None:
    """Teacher-forced log-probabilities within 1e-4, and 64 greedy tokens equal with at least 20 distinct ones."""
    reference = save_random_checkpoint(tmp_path / "hf", **CASES[case])
    import_into(tmp_path / "data", tmp_path / "hf", "random")
    prompt = prompt_of(reference, 48)
    with torch.inference_mode():
        logprobs = reference(torch.tensor([prompt])).logits[0].log_softmax(-1)
        greedy = reference.generate(
            torch.tensor([prompt]), max_new_tokens=64, min_new_tokens=64, do_sample=False, pad_token_id=0
        )[0, 48:].tolist()
    async with serving(tmp_path / "data") as client:
        body = {"model": "random", "prompt": prompt, "temperature": 0, "logprobs": 20}
        scored = await (await client.post("/v1/completions", json=body | {"echo": True, "max_tokens": 0})).json()
        answer = await (
            await client.post("/v1/completions", json=body | {"max_tokens": 64, "return_token_ids": True})
        ).json()
    found = scored["choices"][0]["logprobs"]
    assert found["token_logprobs"][0] is None
    expected = logprobs[:-1].gather(1, torch.tensor(prompt[1:]).unsqueeze(1)).flatten()
    assert torch.tensor(found["token_logprobs"][1:]) == pytest.approx(expected, abs=TOLERANCE)
    for position, top in enumerate(found["top_logprobs"][1:]):
        best = logprobs[position].topk(20)
        assert sorted(top.values(), reverse=True) == pytest.approx(best.values.tolist(), abs=TOLERANCE)
    assert answer["choices"][0]["token_ids"] == greedy
    assert len(set(greedy)) >= 20, "a model that repeats itself would show little"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
async def test_half_precision_stays_within_its_tolerance(tmp_path: Path, dtype: str) -> None:
    """Log-probabilities within 0.15 nat of transformers in the same dtype; where its margin exceeds 0.3, its choice."""
    tolerance = 0.15
    # transformers multiplies half-precision experts only in rows of 16 bytes
    reference = save_random_checkpoint(tmp_path / "hf", dtype=dtype, scale=1.0, moe_intermediate_size=56)
    import_into(tmp_path / "data", tmp_path / "hf", "random")
    prompt = prompt_of(reference, 160)
    with torch.inference_mode():
        logprobs = reference(torch.tensor([prompt])).logits[0].float().log_softmax(-1)
    async with serving(tmp_path / "data") as client:
        body = {"model": "random", "prompt": prompt, "temperature": 0, "logprobs": 1, "echo": True, "max_tokens": 0}
        scored = await (await client.post("/v1/completions", json=body)).json()
    found = scored["choices"][0]["logprobs"]
    expected = logprobs[:-1].gather(1, torch.tensor(prompt[1:]).unsqueeze(1)).flatten()
    assert torch.tensor(found["token_logprobs"][1:]) == pytest.approx(expected, abs=tolerance)
    clear = 0
    for position, top in enumerate(found["top_logprobs"][1:]):
        best = logprobs[position].topk(2)
        if best.values[0] - best.values[1] > 2 * tolerance:
            clear += 1
            assert top.keys() == {f"token_id:{best.indices[0]}"}
    assert clear >= 10, "enough positions with a clear choice"


async def test_a_prefill_in_pieces_equals_one_prefill(tmp_path: Path) -> None:
    """With the KV cache, positions computed one by one score as those computed together."""
    from blyan.model.generate import forward_locally
    from blyan.model.kv_cache import KVCache
    from blyan.model.loading import load_model
    from blyan.node.data_directory import open_ground

    reference = save_random_checkpoint(tmp_path / "hf")
    published = import_into(tmp_path / "data", tmp_path / "hf", "random")
    model = load_model(open_ground(tmp_path / "data").store, published.model.manifest)
    prompt, config = prompt_of(reference, 300), model.manifest.config
    whole = forward_locally(model.weights, config, prompt, None)
    cache = KVCache(config)
    pieces = [prompt[:1], prompt[1:7], prompt[7:260], *([token] for token in prompt[260:])]
    joined = torch.cat([forward_locally(model.weights, config, piece, cache) for piece in pieces])
    assert torch.allclose(whole, joined, atol=1e-4)


async def test_a_long_prompt_computed_in_runs_equals_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every score and every generated token, whatever the length of a run."""
    reference = save_random_checkpoint(tmp_path / "hf")
    import_into(tmp_path / "data", tmp_path / "hf", "random")
    asked = {"model": "random", "prompt": prompt_of(reference, 100), "echo": True, "logprobs": 1, "temperature": 0}
    found: list[Any] = []
    async with serving(tmp_path / "data") as client:
        for rows in (512, 100, 99, 7):
            monkeypatch.setattr("blyan.model.generate._prefill_rows", rows)
            body = await (await client.post("/v1/completions", json=asked | {"max_tokens": 8})).json()
            found.append(body["choices"][0]["logprobs"])
    for other in found[1:]:
        assert other["tokens"] == found[0]["tokens"]
        assert other["token_logprobs"][1:] == pytest.approx(found[0]["token_logprobs"][1:], abs=1e-4)
