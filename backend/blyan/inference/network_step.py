"""The stepper of a model whose experts are not all here: the trunk is computed in this process, experts where they are.

All runs of a step go through their layers together, so that each layer asks each node once for all of them. Every
call is computed by itself wherever that is: the plain stepper's numbers, bit for bit, on the same kind of machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, Protocol

import torch
from torch import Tensor

from blyan.model.config import ModelConfig
from blyan.model.eager_step import PagedCache, result_of
from blyan.model.experts import ExpertCall, by_expert
from blyan.model.gate import Routing
from blyan.model.stage import Forward
from blyan.model.stepping import (
    KVPages,
    Patience,
    PlanName,
    Ready,
    Run,
    RunFault,
    RunResult,
    nothing,
    page_positions,
)
from blyan.model.transformer import TrunkWeights, forward
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import BlockCorrupt, Fault, NotFound, Unavailable

_look_seconds: Final = 0.05  # between two looks whether anybody waits


class PartialWeights(TrunkWeights, Protocol):
    """The trunk, and some of the routed experts."""

    def answer(self, call: ExpertCall) -> Tensor:
        """What an expert that is here gives [n, hidden]."""
        ...

    def answer_together(self, calls: Sequence[ExpertCall]) -> list[Tensor]:
        """The same for each of several calls of one expert by itself."""
        ...


class Elsewhere(Protocol):
    """Who computes what is not here."""

    def holds(self, layer: int, expert: int) -> bool:
        """Whether an expert is here."""
        ...

    def first_here(self, layer: int, expert: int) -> bool:
        """Whether an expert is computed here rather than asked for: it is here, and the plan does not say otherwise."""
        ...

    def begin(self, calls: Sequence[ExpertCall], until: float) -> Future[list[Tensor | Fault]]:
        """Ask other nodes for the outputs of calls of one layer, of use until then; who cancels it wants none."""
        ...

    def open(self) -> None:
        """One more stepper asks."""
        ...

    def close(self) -> None:
        """One asks no more."""
        ...


@dataclass(slots=True, eq=False)
class _Pass:
    """One run on its way through the layers."""

    run: Run
    steps: Forward
    chosen: list[Tensor]
    calls: list[ExpertCall] = field(default_factory=list[ExpertCall])
    ended: RunResult | RunFault | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """Calls that others compute, and who waits for them."""

    outputs: Future[list[Tensor | Fault]]
    count: int
    waits: Sequence[Patience]

    @classmethod
    def of(cls, elsewhere: Elsewhere, calls: Sequence[ExpertCall], waits: Sequence[Patience]) -> Asked:
        """Ask for all calls of a layer, which are of use as long as anybody waits who takes part."""
        return cls(elsewhere.begin(calls, max(each.until for each in waits)), len(calls), waits)

    def given(self) -> list[Tensor | Fault]:
        """The outputs; faults, and the calls are called off, once everybody left who waited."""
        while True:
            try:
                return self.outputs.result(_look_seconds)
            except TimeoutError:
                if self.outputs.done():
                    return self.outputs.result()
            if all(each.gone for each in self.waits):
                self.outputs.cancel()
                return [Unavailable("expert call: expected somebody who waits for it, found nobody")] * self.count


class NetworkStepper:
    """Implements `stepping.Stepper` and `Waits`. The compute thread waits for the slowest node of each layer."""

    plan: PlanName = "dynamic"

    def __init__(
        self, weights: PartialWeights, config: ModelConfig, kv: KVPages, elsewhere: Elsewhere, monotonic: Monotonic
    ) -> None:
        self._weights, self._config, self._kv, self._elsewhere = weights, config, kv, elsewhere
        elsewhere.open()
        self._monotonic = monotonic
        self.waited_s = 0.0

    @torch.inference_mode()
    def step(self, runs: Sequence[Run], ready: Ready = nothing) -> list[RunResult | RunFault]:
        """One result per run, in order, or why there is none. Raises what the trunk's blocks raise."""
        ready()
        passes = [self._begun(run) for run in runs]
        for each in passes:
            self._advance(each, None)
        while under_way := [each for each in passes if each.ended is None]:
            waits = [each.run.patience for each in under_way]
            outputs = self._computed([call for each in under_way for call in each.calls], waits)
            at = 0
            for each in under_way:
                end = at + len(each.calls)
                self._advance(each, outputs[at:end])
                at = end
        return [each.ended for each in passes if each.ended is not None]

    def close(self) -> None:
        """Nothing is held here."""
        self._elsewhere.close()

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

    def _computed(self, calls: list[ExpertCall], waits: Sequence[Patience]) -> list[Tensor | Fault]:
        """All calls of one layer: what is not here is asked for first, and computed elsewhere meanwhile."""
        here = [self._elsewhere.first_here(call.layer, call.expert) for call in calls]
        away = [place for place, held in enumerate(here) if not held]
        waiting = Asked.of(self._elsewhere, [calls[place] for place in away], waits) if away else None
        outputs: dict[int, Tensor | Fault] = {}
        damaged: list[int] = []
        for places in by_expert(calls, (place for place, held in enumerate(here) if held)):
            try:
                given = self._weights.answer_together([calls[place] for place in places])
                outputs.update(zip(places, given, strict=True))
            except (BlockCorrupt, NotFound):  # said in the log by the store; others may have it whole
                damaged += places
        if waiting is not None:
            outputs.update(zip(away, self._waited_for(waiting), strict=True))
        for place in away:
            if isinstance(outputs[place], Fault) and self._elsewhere.holds(calls[place].layer, calls[place].expert):
                outputs[place] = self._weights.answer(calls[place])
        if damaged:
            again = Asked.of(self._elsewhere, [calls[place] for place in damaged], waits)
            outputs.update(zip(damaged, self._waited_for(again), strict=True))
        return [outputs[place] for place in range(len(calls))]

    def _waited_for(self, asked: Asked) -> list[Tensor | Fault]:
        began = self._monotonic()
        try:
            return asked.given()
        finally:
            self.waited_s += self._monotonic() - began
