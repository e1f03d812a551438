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
from family_cases import CASES
from nodes import import_into

pytestmark = pytest.mark.oracle

TOLERANCE = 1e-4  # of teacher-forced log-probabilities in fp32
BF16_TOLERANCES = {"mixtral": 0.01, "qwen2_moe": 0.01, "qwen3_moe": 0.01, "olmoe": 0.01}  # nats, at every position


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


@pytest.mark.parametrize("family", BF16_TOLERANCES)
def test_a_family_in_bf16_stays_within_its_tolerance(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weights times 4: at every position every log-probability within the family's tolerance of transformers in
    bf16, and its choice wherever its first exceeds its second by more than twice that, which is nearly everywhere.

    Both sides round the same sums in the same order, so that measured differences are 0. oneDNN is off: it chooses its
    kernels by processor and by shape, and one bit more or less in a gate sends a token to another expert.
    """
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    tolerance = BF16_TOLERANCES[family]
    width = "intermediate_size" if family in ("mixtral", "olmoe") else "moe_intermediate_size"
    # transformers multiplies half-precision experts only in rows of 16 bytes
    reference, ours = imported(tmp_path, family=family, dtype="bfloat16", scale=4.0, **{width: 56})
    prompt = prompt_of(reference, 300)
    with torch.inference_mode():
        expected = reference(torch.tensor([prompt])).logits[0].float().log_softmax(-1)
        hidden = forward_locally(ours.weights, ours.manifest.config, prompt, None)
        found = logits(ours.weights, ours.manifest.config, hidden).float().log_softmax(-1)
    assert float((expected - found).abs().max()) <= tolerance
    best = expected.topk(2)
    clear = best.values[:, 0] - best.values[:, 1] > 2 * tolerance
    assert int(clear.sum()) >= 0.9 * len(prompt), "nearly every position has a clear choice"
    assert torch.equal(best.indices[clear, 0], found.argmax(-1)[clear])
    assert len(set(found.argmax(-1).tolist())) >= 100, "a model that repeats itself would show little"
