"""The stepper of a model whose experts are not all here, in jitted code: the trunk and the experts that are here.

A step is computed in stretches: up to the choice of experts of a layer, and on from their outputs. In between, what is
not here is asked for in one question for all runs, and what is here is computed. The numbers are those of the jitted
step with all experts, bit for bit, where the others compute in jitted code too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from blyan.inference.network_step import Asked, Elsewhere
from blyan.model import fused_layout as at
from blyan.model.config import ModelConfig
from blyan.model.experts import ExpertCall
from blyan.model.fused_mixture import lay_ranges
from blyan.model.fused_room import Angles
from blyan.model.fused_step import want_finite
from blyan.model.fused_team import FusedTeam
from blyan.model.pace import Pace
from blyan.model.parts import part_position
from blyan.model.stepping import KVPages, Patience, PlanName, Ready, Run, RunFault, RunResult, nothing
from blyan.model.weights import ModelWeights
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import BlockCorrupt, Fault, NotFound

_patience: Final = 2_000  # looks for a next stretch before a thread sleeps: others need the cores meanwhile


class _Part(NamedTuple):
    """One expert's work in a layer: a row of `ranges`."""

    expert: int
    first: int  # slot
    slots: int


@dataclass(slots=True)
class _Step:
    """What came of a step so far."""

    rows: int
    waits: Sequence[Patience]
    faults: dict[int, Fault] = field(default_factory=dict[int, Fault])  # by row
    used: set[tuple[int, int]] = field(default_factory=set[tuple[int, int]])  # experts that were computed here


class JittedNetworkStepper:
    """Implements `stepping.Stepper` and `Waits`. The compute thread waits for the slowest node of each layer."""

    plan: PlanName = "dynamic"

    def __init__(
        self,
        weights: ModelWeights,
        config: ModelConfig,
        kv: KVPages,
        elsewhere: Elsewhere,
        threads: int,
        monotonic: Monotonic,
    ) -> None:
        self._weights, self._config, self._elsewhere = weights, config, elsewhere
        elsewhere.open()
        self._monotonic = monotonic
        self.waited_s = 0.0
        self._dtype = kv.keys.dtype
        self._team = FusedTeam(
            weights, config, kv, threads, monotonic, dtype=self._dtype, held=_of_the_trunk, patience=_patience
        )
        self._angles = Angles(config, self._dtype)
        self._paces = {kind: Pace(threads) for kind in ("attention", "experts", "scores")}

    def step(self, runs: Sequence[Run], ready: Ready = nothing) -> list[RunResult | RunFault]:
        """One result per run, in order, or why there is none. Raises what the trunk's blocks raise."""
        ready()
        rows, scored = sum(len(run.tokens) for run in runs), sum(run.scored for run in runs)
        team = self._team
        team.make_room(rows, sum(len(run.pages) for run in runs))
        scores = np.empty((scored, self._config.vocab_size), np.float32)
        while True:
            angles = team.room.lay_out(runs, self._angles, scores)
            step = self._computed(_Step(rows, [run.patience for run in runs]))
            del angles  # read until here
            if not team.tables.unchanged(team.room.chosen, rows):
                team.map_again()
            elif all(team.tables.is_good(*expert) for expert in step.used):
                break
        want_finite(team.room.bad[:scored])
        return self._results(runs, step, team.room.results(runs, scores))

    def close(self) -> None:
        """End its threads, and ask nobody any more."""
        self._team.close()
        self._elsewhere.close()

    def _results(self, runs: Sequence[Run], step: _Step, given: Sequence[RunResult]) -> list[RunResult | RunFault]:
        if not step.faults:
            return list(given)
        results: list[RunResult | RunFault] = []
        first = 0
        for run, result in zip(runs, given, strict=True):
            end = first + len(run.tokens)
            fault = next((step.faults[row] for row in range(first, end) if row in step.faults), None)
            results.append(result if fault is None else RunFault(fault))
            first = end
        return results

    def _computed(self, step: _Step) -> _Step:
        """Every layer, and the scores."""
        config, rows = self._config, step.rows
        begin = 0
        for layer in config.moe_layers:
            self._team.stretch(begin, at.experts_of(layer), rows, nothing, self._paces["attention"])
            self._mix(layer, step)
            begin = at.mixture_of(layer)
        self._team.stretch(begin, at.scores_of(config.layers) + 1, rows, nothing, self._paces["scores"])
        return step

    def _mix(self, layer: int, step: _Step) -> None:
        """The outputs of all experts of a layer into their slots: what is not here is asked for first."""
        room, config = self._team.room, self._config
        used, slots = room.ranges[config.experts + 1, :2].tolist()
        parts: list[_Part] = [_Part(*part) for part in room.ranges[:used, :3].tolist()]
        away = [part for part in parts if part.expert < config.experts and not self._first_here(layer, part)]
        calls = [self._call(layer, part) for part in away]
        waiting = Asked.of(self._elsewhere, calls, step.waits) if away else None
        here, damaged = self._taken(layer, [part for part in parts if part not in away], step)
        lost = [self._call(layer, part) for part in damaged]  # said in the log by the store; others may have them whole
        if here:
            lay_ranges(room, config.experts, here, slots)
            self._team.stretch(at.experts_of(layer), at.mixture_of(layer), step.rows, nothing, self._paces["experts"])
            lay_ranges(room, config.experts, parts, slots)
        if waiting is not None:
            for part, call, given in zip(away, calls, self._waited_for(waiting), strict=True):
                instead = isinstance(given, Fault) and self._elsewhere.holds(layer, part.expert)
                self._give(part, self._weights.answer(call) if instead else given, step)
        if damaged:
            again = Asked.of(self._elsewhere, lost, step.waits)
            for part, given in zip(damaged, self._waited_for(again), strict=True):
                self._give(part, given, step)

    def _waited_for(self, asked: Asked) -> list[Tensor | Fault]:
        began = self._monotonic()
        try:
            return asked.given()
        finally:
            self.waited_s += self._monotonic() - began

    def _first_here(self, layer: int, part: _Part) -> bool:
        return self._elsewhere.first_here(layer, part.expert)

    def _taken(self, layer: int, parts: Sequence[_Part], step: _Step) -> tuple[list[_Part], list[_Part]]:
        """Of what is here: what is ready to be computed in jitted code, and what turned out to be damaged.

        Experts whose memory is limited are computed at once, from wherever their bytes are.
        """
        ready: list[_Part] = []
        damaged: list[_Part] = []
        for part in parts:
            try:
                if part.expert == self._config.experts:  # the shared one is the trunk's
                    ready.append(part)
                elif self._weights.experts_all_resident:
                    self._team.tables.take(layer, part.expert)
                    step.used.add((layer, part.expert))
                    ready.append(part)
                else:
                    self._give(part, self._weights.answer(self._call(layer, part)), step)
            except (BlockCorrupt, NotFound):
                damaged.append(part)
        return ready, damaged

    def _call(self, layer: int, part: _Part) -> ExpertCall:
        """An expert's rows, copied: the room is written to while others compute."""
        room = self._team.room
        rows = room.rows_at(at.NORMED)[room.listed[part.first : part.first + part.slots]]
        return ExpertCall(layer, part.expert, torch.as_tensor(rows).to(self._dtype))

    def _give(self, part: _Part, given: Tensor | Fault, step: _Step) -> None:
        """An expert's outputs into its slots. Rows without one are computed on, and nobody is given them."""
        room = self._team.room
        slots = slice(part.first, part.first + part.slots)
        if isinstance(given, Fault):
            room.rows_at(at.LOWERED)[slots] = 0.0
            step.faults.update(dict.fromkeys(room.listed[slots].tolist(), given))
        else:
            room.rows_at(at.LOWERED)[slots] = given.float().numpy()


def _of_the_trunk(name: str) -> bool:
    return part_position(name)[1] is None
