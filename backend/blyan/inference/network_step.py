"""The stepper of a model whose experts are not all here: the trunk is computed in this process, experts where they are.

All runs of a step go through their layers together, so that each layer asks each node once for all of them. Every
call is computed by itself wherever that is: the plain stepper's numbers, bit for bit, on the same kind of machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from blyan.model.config import ModelConfig
from blyan.model.eager_step import PagedCache, result_of
from blyan.model.experts import ExpertCall
from blyan.model.gate import Routing
from blyan.model.stage import Forward
from blyan.model.stepping import KVPages, Ready, Run, RunFault, RunResult, nothing, page_positions
from blyan.model.transformer import TrunkWeights, forward
from blyan.primitives.errors import BlockCorrupt, Fault, NotFound


class PartialWeights(TrunkWeights, Protocol):
    """The trunk, and some of the routed experts."""

    def answer(self, call: ExpertCall) -> Tensor:
        """What an expert that is here gives [n, hidden]."""
        ...


class Elsewhere(Protocol):
    """Who computes what is not here."""

    def holds(self, layer: int, expert: int) -> bool:
        """Whether an expert is here."""
        ...

    def first_here(self, layer: int, expert: int) -> bool:
        """Whether an expert is computed here rather than asked for: it is here, and the plan does not say otherwise."""
        ...

    def begin(self, calls: Sequence[ExpertCall]) -> Future[list[Tensor | Fault]]:
        """Ask other nodes for the outputs of calls of one layer."""
        ...


@dataclass(slots=True, eq=False)
class _Pass:
    """One run on its way through the layers."""

    run: Run
    steps: Forward
    chosen: list[Tensor]
    calls: list[ExpertCall] = field(default_factory=list[ExpertCall])
    ended: RunResult | RunFault | None = None


class NetworkStepper:
    """Implements `stepping.Stepper`. The compute thread waits for the slowest node of each layer."""

    def __init__(self, weights: PartialWeights, config: ModelConfig, kv: KVPages, elsewhere: Elsewhere) -> None:
        self._weights, self._config, self._kv, self._elsewhere = weights, config, kv, elsewhere

    @torch.inference_mode()
    def step(self, runs: Sequence[Run], ready: Ready = nothing) -> list[RunResult | RunFault]:
        """One result per run, in order, or why there is none. Raises what the trunk's blocks raise."""
        ready()
        passes = [self._begun(run) for run in runs]
        for each in passes:
            self._advance(each, None)
        while under_way := [each for each in passes if each.ended is None]:
            outputs = self._computed([call for each in under_way for call in each.calls])
            at = 0
            for each in under_way:
                end = at + len(each.calls)
                self._advance(each, outputs[at:end])
                at = end
        return [each.ended for each in passes if each.ended is not None]

    def close(self) -> None:
        """Nothing is held."""

    def _begun(self, run: Run) -> _Pass:
        assert run.tokens and len(run.pages) * page_positions >= run.start + len(run.tokens), "a run that fits"
        chosen: list[Tensor] = []

        def observe(_layer: int, routing: Routing) -> None:
            chosen.append(routing.chosen)

        cache = PagedCache(self._kv, run.pages, run.start, run.reach)
        tokens = torch.tensor([run.tokens], dtype=torch.int64)
        return _Pass(run, forward(self._weights, self._config, tokens, cache, observe), chosen)

    def _advance(self, each: _Pass, outputs: Sequence[Tensor | Fault] | None) -> None:
        """On to its next calls, or its end."""
        given: list[Tensor] = []
        for output in outputs or ():
            if isinstance(output, Fault):
                each.steps.close()
                each.ended = RunFault(output)
                return
            given.append(output)
        try:
            each.calls = next(each.steps) if outputs is None else each.steps.send(given)
        except StopIteration as end:
            each.ended = self._result(each, end.value[0])

    def _result(self, each: _Pass, hidden: Tensor) -> RunResult | RunFault:
        try:
            return result_of(self._weights, self._config, each.run, hidden, each.chosen)
        except Fault as reason:
            return RunFault(reason)

    def _computed(self, calls: list[ExpertCall]) -> list[Tensor | Fault]:
        """All calls of one layer: what is not here is asked for first, and computed elsewhere meanwhile."""
        here = [self._elsewhere.first_here(call.layer, call.expert) for call in calls]
        away = [place for place, held in enumerate(here) if not held]
        waiting = self._elsewhere.begin([calls[place] for place in away]) if away else None
        outputs: dict[int, Tensor | Fault] = {}
        damaged: list[int] = []
        for place, held in enumerate(here):
            if held:
                try:
                    outputs[place] = self._weights.answer(calls[place])
                except (BlockCorrupt, NotFound):  # said in the log by the store; others may have it whole
                    damaged.append(place)
        if waiting is not None:
            outputs.update(zip(away, waiting.result(), strict=True))
        for place in away:
            if isinstance(outputs[place], Fault) and self._elsewhere.holds(calls[place].layer, calls[place].expert):
                outputs[place] = self._weights.answer(calls[place])
        if damaged:
            outputs.update(
                zip(damaged, self._elsewhere.begin([calls[place] for place in damaged]).result(), strict=True)
            )
        return [outputs[place] for place in range(len(calls))]
