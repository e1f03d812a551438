"""Layers computed in ranges, one after the other, give what all of them give at once, bit for bit."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch

from blyan.model.config import ModelConfig
from blyan.model.eager_step import EagerStepper
from blyan.model.fused_stage import FusedHead, FusedLayers
from blyan.model.fused_step import FusedStepper
from blyan.model.stage_step import EagerHead, EagerLayers, Head
from blyan.model.stepping import KVPages, LayerStepper, Run, RunResult, Stepper, Stretch
from blyan.model.weights import ModelWeights
from random_models import RandomWeights, small_config, vector_config

FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3_moe, a dense layer": {},
    "qwen2_moe, a shared expert": {"family": "qwen2_moe", "attention_bias": True, "shared_intermediate": 24},
    "tied, windows": {"tied_embeddings": True, "window": 9, "window_layers": (0, 2)},
}
Make = Callable[[KVPages, range], LayerStepper]


def drawn_runs(config: ModelConfig) -> list[list[Run]]:
    """Steps: two prompts, then a token of one beside a draft of the other; on pages out of order."""
    source = random.Random(5)
    one, other = ([source.randrange(config.vocab_size) for _ in range(80)] for _ in range(2))
    return [
        [Run(tuple(one[:70]), 0, (4, 1, 3), 1), Run(tuple(other[:20]), 0, (2,), 0)],
        [Run((one[70],), 70, (4, 1, 3), 1), Run(tuple(other[20:24]), 20, (2,), 4)],
    ]


def in_stages(
    weights: RandomWeights, config: ModelConfig, cuts: Sequence[int], make: Make, head: Head, steps: list[list[Run]]
) -> list[list[tuple[Any, Any]]]:
    """Scores and chosen experts of each run of each step, by stages between the cuts."""
    dtype = weights.embed().dtype
    spans = [range(begin, end) for begin, end in itertools.pairwise(cuts)]
    stages = [make(KVPages(config, dtype, 6, span), span) for span in spans]
    found: list[list[tuple[Any, Any]]] = []
    for runs in steps:
        hidden = weights.embed()[torch.tensor([token for run in runs for token in run.tokens])]
        stretches = [Stretch(len(run.tokens), run.start, run.pages, run.reach) for run in runs]
        chosen: list[Any] = []
        for stage in stages:
            hidden, experts = stage.through(hidden, stretches)
            chosen.append(experts)
        experts, first = np.concatenate(chosen), 0
        found.append([])
        for run in runs:
            end = first + len(run.tokens)
            scores = head.scores(hidden[end - run.scored : end]) if run.scored else None
            found[-1].append((scores, experts[:, first:end]))
            first = end
    for stage in stages:
        stage.close()
    head.close()
    return found


def assert_equal(stepper: Stepper, steps: list[list[Run]], found: list[list[tuple[Any, Any]]]) -> None:
    for runs, given in zip(steps, found, strict=True):
        for run, result, (scores, chosen) in zip(runs, stepper.step(runs), given, strict=True):
            assert isinstance(result, RunResult)
            assert (result.chosen == chosen).all()
            if run.scored:
                assert (result.scores == scores).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_plain_way_in_stages_changes_no_bit(family: str, dtype: torch.dtype) -> None:
    config = small_config(**FAMILIES[family])
    weights = RandomWeights(config, dtype)
    steps = drawn_runs(config)
    for cuts in ((0, 3), (0, 1, 3), (0, 1, 2, 3)):
        found = in_stages(
            weights,
            config,
            cuts,
            lambda kv, span: EagerLayers(weights, config, kv, span),
            EagerHead(weights, config),
            steps,
        )
        assert_equal(EagerStepper(weights, config, KVPages(config, dtype, 6)), steps, found)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_jitted_way_in_stages_changes_no_bit(family: str, dtype: torch.dtype) -> None:
    config = vector_config(**FAMILIES[family])
    drawn = RandomWeights(config, dtype)
    weights = cast("ModelWeights", drawn)
    steps = drawn_runs(config)

    def make(kv: KVPages, span: range) -> LayerStepper:
        return FusedLayers(weights, config, kv, 1, time.monotonic, span)

    found = in_stages(drawn, config, (0, 1, 3), make, FusedHead(weights, config, dtype, 1, time.monotonic), steps)
    whole = FusedStepper(weights, config, KVPages(config, dtype, 6), 1, time.monotonic)
    assert_equal(whole, steps, found)
    whole.close()
