"""A jitted step whose experts are elsewhere gives the jitted step's bits; one run's fault is its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from blyan.inference.jitted_network_step import JittedNetworkStepper
from blyan.model.config import ModelConfig
from blyan.model.experts import ExpertCall
from blyan.model.fused_mixture import FusedMixture
from blyan.model.fused_step import FusedStepper
from blyan.model.quantization import Quantization
from blyan.model.stepping import KVPages, Run, RunFault, RunResult
from blyan.model.weights import ModelWeights
from blyan.primitives.errors import BlockCorrupt, ExpertUnavailable, Fault, NotFound
from random_models import RandomWeights, vector_config

pytestmark = pytest.mark.slow  # the first of each type compiles it

FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3_moe, a dense layer": {},
    "qwen2_moe, a shared expert": {"family": "qwen2_moe", "shared_intermediate": 32, "attention_bias": True},
    "mixtral, every layer": {"family": "mixtral", "moe_layers": (0, 1, 2)},
}
TYPES = {
    "fp32": (torch.float32, None),
    "bf16": (torch.bfloat16, None),
    "fp32, int8": (torch.float32, Quantization("int8")),
}


class Others:
    """A fake of the nodes elsewhere: computes in jitted code with weights of its own."""

    def __init__(self, weights: RandomWeights, here: frozenset[tuple[int, int]], lost: int | None = None) -> None:
        self._here, self._lost = here, lost
        config, weight = weights.config, cast(ModelWeights, weights)
        sample = (config.moe_layers[0], 0)
        self.mixture = FusedMixture(weight, config, weights.embed().dtype, sample, 2, time.monotonic)
        self.messages: list[list[ExpertCall]] = []

    def holds(self, layer: int, expert: int) -> bool:
        return (layer, expert) in self._here

    def first_here(self, layer: int, expert: int) -> bool:
        return self.holds(layer, expert)

    def open(self) -> None: ...

    def close(self) -> None: ...

    def begin(self, calls: Sequence[ExpertCall], until: float) -> Future[list[Tensor | Fault]]:
        self.messages.append(list(calls))
        given: Future[list[Tensor | Fault]] = Future()
        given.set_result([self._answer(call) for call in calls])
        return given

    def _answer(self, call: ExpertCall) -> Tensor | Fault:
        if call.expert == self._lost:
            return ExpertUnavailable("expert: expected a node that holds it, found none")
        return self.mixture.answer(call.layer, [call.expert], [len(call.hidden)], call.hidden)


def runs_of(config: ModelConfig) -> list[Run]:
    """A prompt, a single token of another sequence, and a piece that goes on; pages apart."""
    draw = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, config.vocab_size, (120,), generator=draw).tolist()
    return [
        Run(tuple(tokens[:90]), 0, (0, 1, 4), 1, hidden=True),
        Run((tokens[91],), 0, (2,), 1),
        Run(tuple(tokens[92:95]), 0, (3,), 2),
    ]


def every(config: ModelConfig) -> frozenset[tuple[int, int]]:
    return frozenset((layer, expert) for layer in config.moe_layers for expert in range(config.experts))


def whole_of(weights: RandomWeights) -> FusedStepper:
    kv = KVPages(weights.config, weights.embed().dtype, 6)
    return FusedStepper(cast(ModelWeights, weights), weights.config, kv, 2, time.monotonic)


def stepper_of(weights: RandomWeights, others: Others) -> JittedNetworkStepper:
    kv = KVPages(weights.config, weights.embed().dtype, 6)
    return JittedNetworkStepper(cast(ModelWeights, weights), weights.config, kv, others, 2, time.monotonic)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("here", ["none", "some", "all"])
def test_remote_experts_change_no_bit(family: str, name: str, here: str) -> None:
    config = vector_config(**FAMILIES[family])
    dtype, scheme = TYPES[name]
    weights = RandomWeights(config, dtype, scheme=scheme)
    held = {"none": frozenset[tuple[int, int]](), "some": frozenset(sorted(every(config))[::2]), "all": every(config)}
    others = Others(RandomWeights(config, dtype, scheme=scheme), held[here])
    whole, stepper = whole_of(weights), stepper_of(weights, others)
    first = runs_of(config)
    second = [Run((7,), len(run.tokens), run.pages, 1) for run in first]
    for runs in (first, second):
        for expected, found in zip(whole.step(runs), stepper.step(runs), strict=True):
            assert isinstance(found, RunResult)
            assert (expected.scores == found.scores).all()
            assert (expected.chosen == found.chosen).all()
            assert (expected.hidden is None) == (found.hidden is None)
            if expected.hidden is not None and found.hidden is not None:
                assert torch.equal(expected.hidden, found.hidden)
    asked = {(call.layer, call.expert) for calls in others.messages for call in calls}
    assert not asked & held[here], "what is here is computed here"
    if here != "all":
        assert len(others.messages) <= 2 * len(config.moe_layers), "one question a layer for all runs together"
    for each in (whole, stepper, others.mixture):
        each.close()


def test_a_lost_expert_ends_those_runs_alone_that_need_it() -> None:
    config = vector_config()
    weights = RandomWeights(config)
    runs = runs_of(config)
    plain = whole_of(weights).step(runs)
    needed = [set(result.chosen.flatten().tolist()) for result in plain]
    lost = min(needed[0] - needed[1])
    stepper = stepper_of(weights, Others(RandomWeights(config), frozenset(), lost))
    for expert_set, expected, result in zip(needed, plain, stepper.step(runs), strict=True):
        if lost in expert_set:
            assert isinstance(result, RunFault)
            assert isinstance(result.reason, ExpertUnavailable)
        else:
            assert isinstance(result, RunResult)
            assert (expected.scores == result.scores).all()


class Damaged(RandomWeights):
    """One expert is not what it was."""

    broken = ""

    def part(self, name: str) -> Any:
        if name == self.broken:
            raise BlockCorrupt("block: expected its bytes, found others")
        return super().part(name)


def test_a_damaged_expert_here_is_asked_for_elsewhere() -> None:
    config = vector_config()
    weights = Damaged(config)
    expected = whole_of(weights).step(runs_of(config))
    weights.broken = f"layer.{config.moe_layers[0]}.expert.{int(expected[0].chosen[0, 0, 0])}"
    others = Others(RandomWeights(config), every(config))
    found = stepper_of(weights, others).step(runs_of(config))
    assert all(
        isinstance(each, RunResult) and (each.scores == other.scores).all()
        for each, other in zip(found, expected, strict=True)
    )
    assert len(others.messages) == 1


def test_weights_that_were_mapped_anew_are_computed_with_anew() -> None:
    config = vector_config()
    weights, later = RandomWeights(config), RandomWeights(config, seed=1)
    stepper = stepper_of(weights, Others(later, every(config)))
    stepper.step(runs_of(config))
    weights.parts = later.parts
    for expected, found in zip(whole_of(later).step(runs_of(config)), stepper.step(runs_of(config)), strict=True):
        assert isinstance(found, RunResult)
        assert (expected.scores == found.scores).all()


def test_an_expert_that_is_not_there_any_more_is_said_so() -> None:
    config = vector_config()
    weights = Damaged(config)
    mixture = Others(weights, frozenset()).mixture
    hidden = torch.randn(100, config.hidden)
    layer = config.moe_layers[0]
    together = mixture.answer(layer, [1, 3], [70, 30], hidden)
    assert torch.equal(together[70:], mixture.answer(layer, [3], [30], hidden[70:])), "the same in any company"
    weights.broken = f"layer.{layer}.expert.1"
    weights.parts = dict(weights.parts) | {weights.broken: dict(weights.parts[weights.broken])}
    with pytest.raises((BlockCorrupt, NotFound)):
        mixture.answer(layer, [1], [1], hidden[:1])


def test_experts_that_were_given_back_compute_no_more() -> None:
    """Their threads are told to stop: a stretch would leave the numbers of the one before."""
    config = vector_config()
    mixture = Others(RandomWeights(config), frozenset()).mixture
    hidden, layer = torch.randn(2, config.hidden), config.moe_layers[0]
    mixture.answer(layer, [1], [2], hidden)
    mixture.close()
    with pytest.raises(NotFound, match="hosted"):
        mixture.answer(layer, [1], [2], -hidden)
    mixture.close()
