"""A step whose experts are elsewhere gives the plain stepper's numbers, bit for bit; one run's fault is its own."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import pytest
import torch
from torch import Tensor

from blyan.inference.network_step import NetworkStepper
from blyan.model.config import ModelConfig
from blyan.model.eager_step import EagerStepper
from blyan.model.experts import ExpertCall
from blyan.model.stepping import KVPages, Patience, Run, RunFault, RunResult, Waits
from blyan.primitives.clock import system_monotonic
from blyan.primitives.errors import BlockCorrupt, ExpertUnavailable, Fault
from random_models import RandomWeights, small_config

FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3_moe, a dense layer": {},
    "qwen2_moe, a shared expert": {"family": "qwen2_moe", "attention_bias": True},
    "mixtral": {"family": "mixtral", "moe_layers": (0, 1, 2)},
    "olmoe": {"family": "olmoe"},
}


class Others:
    """A fake of the nodes elsewhere: computes with weights of its own, one call at a time, and counts its messages."""

    def __init__(self, weights: RandomWeights, here: frozenset[tuple[int, int]], lost: int | None = None) -> None:
        self._weights, self._here, self._lost = weights, here, lost
        self.messages: list[list[ExpertCall]] = []
        self.until: list[float] = []
        self.asked_first = False

    def holds(self, layer: int, expert: int) -> bool:
        return (layer, expert) in self._here

    def first_here(self, layer: int, expert: int) -> bool:
        return self.holds(layer, expert) and not self.asked_first

    def open(self) -> None: ...

    def close(self) -> None: ...

    def begin(self, calls: Sequence[ExpertCall], until: float) -> Future[list[Tensor | Fault]]:
        self.messages.append(list(calls))
        self.until.append(until)
        given: Future[list[Tensor | Fault]] = Future()
        given.set_result([self._answer(call) for call in calls])
        return given

    def _answer(self, call: ExpertCall) -> Tensor | Fault:
        if call.expert == self._lost:
            return ExpertUnavailable("expert: expected a node that holds it, found none")
        return self._weights.answer(call)


def runs_of(config: ModelConfig, scored: int = 1) -> list[Run]:
    """A prompt, a single token of another sequence, and a piece that goes on; pages apart."""
    draw = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, config.vocab_size, (64,), generator=draw).tolist()
    return [
        Run(tuple(tokens[:40]), 0, (0, 1), scored, hidden=True),
        Run((tokens[41],), 0, (2,), scored),
        Run(tuple(tokens[42:45]), 0, (3,), scored),
    ]


def pages(config: ModelConfig, dtype: torch.dtype) -> KVPages:
    kv = KVPages(config, dtype, 6)
    kv.keys.fill_(torch.nan)
    kv.values.fill_(torch.nan)
    return kv


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("here", ["none", "some", "all"])
def test_remote_experts_change_no_bit(family: str, dtype: torch.dtype, here: str) -> None:
    config = small_config(**FAMILIES[family])
    weights = RandomWeights(config, dtype=dtype)
    every = frozenset((layer, expert) for layer in config.moe_layers for expert in range(config.experts))
    held = {"none": frozenset[tuple[int, int]](), "some": frozenset(sorted(every)[::2]), "all": every}[here]
    others = Others(RandomWeights(config, dtype=dtype), held)
    plain_kv, kv = pages(config, dtype), pages(config, dtype)
    plain, stepper = (
        EagerStepper(weights, config, plain_kv),
        NetworkStepper(weights, config, kv, others, system_monotonic),
    )
    first = runs_of(config)
    second = [Run((7,), len(run.tokens), run.pages, 1) for run in first]
    for runs in (first, second):
        for expected, found in zip(plain.step(runs), stepper.step(runs), strict=True):
            assert isinstance(found, RunResult)
            assert (expected.scores == found.scores).all()
            assert (expected.chosen == found.chosen).all()
            assert (expected.hidden is None) == (found.hidden is None)
            if expected.hidden is not None and found.hidden is not None:
                assert torch.equal(expected.hidden, found.hidden)
    asked = {(call.layer, call.expert) for calls in others.messages for call in calls}
    assert not asked & held, "what is here is computed here"
    if here != "all":
        assert len(others.messages) <= 2 * len(config.moe_layers), "one question a layer for all runs together"


@pytest.mark.parametrize("here", ["none", "all"])
def test_it_says_how_long_it_waited_for_others(here: str) -> None:
    """A second for each layer's question, by a clock that ticks when it is read; nothing where nobody is asked."""
    config = small_config()
    every = frozenset((layer, expert) for layer in config.moe_layers for expert in range(config.experts))
    others = Others(RandomWeights(config), every if here == "all" else frozenset())
    ticks = itertools.count()
    stepper = NetworkStepper(
        RandomWeights(config), config, pages(config, torch.float32), others, lambda: float(next(ticks))
    )
    stepper.step(runs_of(config))
    assert isinstance(stepper, Waits) and stepper.plan == "dynamic"
    assert stepper.waited_s == len(others.messages) == (0 if here == "all" else len(config.moe_layers))


def test_a_lost_expert_ends_those_runs_alone_that_need_it() -> None:
    config = small_config()
    weights = RandomWeights(config)
    runs = runs_of(config)
    plain = EagerStepper(weights, config, pages(config, torch.float32)).step(runs)
    needed = [set(result.chosen.flatten().tolist()) for result in plain]
    lost = min(needed[0] - needed[1])
    others = Others(RandomWeights(config), frozenset(), lost)
    found = NetworkStepper(weights, config, pages(config, torch.float32), others, system_monotonic).step(runs)
    for expert_set, expected, result in zip(needed, plain, found, strict=True):
        if lost in expert_set:
            assert isinstance(result, RunFault)
            assert isinstance(result.reason, ExpertUnavailable)
        else:
            assert isinstance(result, RunResult)
            assert (expected.scores == result.scores).all()


def test_a_damaged_expert_here_is_asked_for_elsewhere() -> None:
    class Damaged(RandomWeights):
        def answer(self, call: ExpertCall) -> Tensor:
            if call.expert == 0:
                raise BlockCorrupt("block: expected its digest, found another")
            return super().answer(call)

    config = small_config()
    every = frozenset((layer, expert) for layer in config.moe_layers for expert in range(config.experts))
    others = Others(RandomWeights(config), every)
    runs = runs_of(config)
    expected = EagerStepper(RandomWeights(config), config, pages(config, torch.float32)).step(runs)
    stepper = NetworkStepper(Damaged(config), config, pages(config, torch.float32), others, system_monotonic)
    for right, found in zip(expected, stepper.step(runs), strict=True):
        assert isinstance(found, RunResult)
        assert (right.scores == found.scores).all()
    assert {call.expert for calls in others.messages for call in calls} == {0}


def test_what_is_here_stands_in_for_a_node_that_was_to_be_asked() -> None:
    config = small_config()
    every = frozenset((layer, expert) for layer in config.moe_layers for expert in range(config.experts))
    others = Others(RandomWeights(config), every, lost=3)
    others.asked_first = True
    runs = runs_of(config)
    expected = EagerStepper(RandomWeights(config), config, pages(config, torch.float32)).step(runs)
    stepper = NetworkStepper(RandomWeights(config), config, pages(config, torch.float32), others, system_monotonic)
    for right, found in zip(expected, stepper.step(runs), strict=True):
        assert isinstance(found, RunResult)
        assert (right.scores == found.scores).all()
    assert len(others.messages) == len(config.moe_layers), "others are asked first"


def test_calls_are_of_use_until_the_last_of_those_who_wait_for_them_waits_no_more() -> None:
    """One with little time left does not cut short the others of its step."""
    config = small_config()
    others = Others(RandomWeights(config), frozenset())
    stepper = NetworkStepper(RandomWeights(config), config, pages(config, torch.float32), others, system_monotonic)
    first, second, _ = runs_of(config)
    stepper.step([first._replace(patience=Patience(5.0)), second._replace(patience=Patience(7.0))])
    assert set(others.until) == {7.0}


def test_calls_for_which_nobody_waits_any_more_are_called_off() -> None:
    """Not as long as one does."""

    class Silent(Others):
        def begin(self, calls: Sequence[ExpertCall], until: float) -> Future[list[Tensor | Fault]]:
            self.given: Future[list[Tensor | Fault]] = Future()
            patiences[0].end()
            threading.Timer(0.2, patiences[1].end).start()
            return self.given

    config, patiences = small_config(), (Patience(), Patience())
    others = Silent(RandomWeights(config), frozenset())
    stepper = NetworkStepper(RandomWeights(config), config, pages(config, torch.float32), others, system_monotonic)
    runs = [run._replace(patience=each) for run, each in zip(runs_of(config), patiences, strict=False)]
    assert all(isinstance(each, RunFault) for each in stepper.step(runs))
    assert others.given.cancelled()
    assert patiences[1].gone
