"""What this node's planner knows and says: facts of a model gathered, a plan chosen for each request, errors noted.

Steps come from the compute thread, numbers of peers from the network's loop; everything else happens in the event
loop that answers people. What is gathered of a model is kept for a moment, so that many requests cost one look.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

import numpy as np

from blyan.inference.planner import (
    CallTimes,
    Correction,
    Decision,
    Shape,
    Situation,
    Spread,
    choose,
    predict,
)
from blyan.inference.planner_error import Came, PlannerError
from blyan.inference.policy import Rules
from blyan.inference.snapshot import Holders, RegistrySnapshot
from blyan.inference.step_times import StepTimes
from blyan.model.config import ModelConfig
from blyan.model.stepping import PlanName
from blyan.network.measurements import Measured
from blyan.node.holdings import Hosted
from blyan.node.peering import Peering
from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.primitives.ids import PayloadId, PublicKey

_kept_s: Final = 0.25  # what is gathered of a model
_tokens_min: Final = 4  # of an answer that tells of a rate


class Planned(NamedTuple):
    """What was expected of one answer."""

    model: PayloadId
    situation: Situation
    shape: Shape
    corrections: tuple[tuple[PlanName, Correction], ...]
    decision: Decision


@dataclass(slots=True, eq=False)
class Planning:
    """One node's. For its event loop, but for `steps`."""

    peering: Peering | None
    rules: Rules
    monotonic: Monotonic
    draw: Callable[[], float]  # in [0, 1)
    steps: StepTimes = field(default_factory=StepTimes)
    errors: PlannerError = field(default_factory=PlannerError)
    chosen: Counter[PlanName] = field(default_factory=Counter["PlanName"])
    _seen: dict[PayloadId, tuple[float, Situation]] = field(
        default_factory=dict["PayloadId", "tuple[float, Situation]"]
    )

    def shape(self, prompt: int, answer: int, beside: int) -> Shape:
        """A request as this node computes it, beside so many generations."""
        rules = self.rules
        return Shape(
            max(1, prompt), max(1, answer), beside, rules.step_tokens, min(rules.prompt_tokens, rules.step_tokens)
        )

    async def situation(self, model: PayloadId, config: ModelConfig) -> Situation:
        """What is known of a model now, or was a moment ago."""
        now = self.monotonic()
        until, found = self._seen.get(model, (0.0, None))
        if found is None or now >= until:
            found = await self._gathered(model, config)
            self._seen.pop(model, None)
            self._seen[model] = now + _kept_s, found
            if len(self._seen) > limits.models_timed_max:
                del self._seen[next(iter(self._seen))]
        return found

    async def choose(self, model: PayloadId, config: ModelConfig, shape: Shape) -> Planned:
        """The plan for one request, with what all of them should give. Counted; `ended` tells what came of it."""
        situation, corrections = await self.situation(model, config), self.errors.corrections(model)
        decision = choose(situation, shape, corrections, self.draw)
        if decision.plan is not None:
            self.chosen[decision.plan] += 1
        return Planned(model, situation, shape, corrections, decision)

    async def look(self, model: PayloadId, config: ModelConfig, shape: Shape) -> Planned:
        """The same for people: nothing is tried, nothing counted."""
        situation, corrections = await self.situation(model, config), self.errors.corrections(model)
        return Planned(model, situation, shape, corrections, choose(situation, shape, corrections))

    def ended(self, planned: Planned, tokens: int, first_s: float, rest_s: float) -> None:
        """An answer of so many tokens ended well: seconds until the first, and until the last after it.

        What was predicted is taken for an answer of that length: nobody knew it before.
        """
        plan = planned.decision.plan
        if plan is None or tokens < _tokens_min or rest_s <= 0:
            return
        shape = Shape(
            planned.shape.prompt, tokens, planned.shape.beside, planned.shape.chunk, planned.shape.chunk_beside
        )
        predicted = predict(planned.situation, shape, planned.corrections)
        used = dict(planned.corrections).get(plan, Correction())
        came = Came((tokens - 1) / rest_s, first_s)
        self.errors.note(planned.model, next(each for each in predicted if each.plan == plan), used, came)

    async def _gathered(self, model: PayloadId, config: ModelConfig) -> Situation:
        local, dynamic = self.steps.curve(model, "local"), self.steps.curve(model, "dynamic")
        why_not: tuple[tuple[PlanName, str], ...] = (
            ("static_delegate", "not predicted yet: network.plan = static_delegate answers so"),
            ("pipeline", "not predicted yet: network.plan = pipeline answers so"),
        )
        hosted = None if self.peering is None else self.peering.holdings.find(model)
        if self.peering is None or hosted is None:
            return Situation(config.experts_per_token, 0, 0, local, dynamic, why_not=why_not, offered=_only_local)
        peering, configured = self.peering, self.peering.config.network.plan
        if hosted.complete and configured == "auto" and not local.points:
            local = dynamic  # all is here, of a model that may be given up in part: nobody is asked
        here = np.zeros(hosted.grid.count, dtype=np.bool_)
        here[list(hosted.here)] = True
        snapshot = await asyncio.wrap_future(peering.ask(lambda: peering.registry.snapshot(peering.monotonic())))
        spreads, keys, nobody = _spread(snapshot, model, hosted, here)
        measured = await asyncio.wrap_future(peering.ask(partial(_measured, peering, keys)))
        return Situation(
            config.experts_per_token,
            int((~here).sum()),
            nobody,
            local,
            dynamic,
            tuple(CallTimes(key, measured[key].fixed_s, measured[key].row_s, measured[key].rtt_s) for key in keys),
            spreads,
            why_not=why_not,
            offered=_offered(configured, hosted.complete),
        )


_only_local: Final[frozenset[PlanName]] = frozenset({"local"})
_only_dynamic: Final[frozenset[PlanName]] = frozenset({"dynamic"})


def _offered(configured: str, complete: bool) -> frozenset[PlanName]:
    """What may answer: the configured plan alone, else the one that `Peering.stepper` computes with what is here."""
    if configured in ("local", "dynamic"):
        return _only_local if configured == "local" else _only_dynamic
    return _only_local if complete else _only_dynamic


def _measured(peering: Peering, nodes: Sequence[PublicKey]) -> Mapping[PublicKey, Measured]:
    return {node: peering.registry.measurements.of(node) for node in nodes}


def _spread(
    snapshot: RegistrySnapshot, model: PayloadId, hosted: Hosted, here: np.ndarray[tuple[int], np.dtype[np.bool_]]
) -> tuple[tuple[Spread, ...], tuple[PublicKey, ...], int]:
    """Who would be asked for which share of each layer, the nodes by place, and how many experts nobody has.

    For a model that is here as a whole: who would be asked if all experts were asked for.
    """
    holders, grid, complete = snapshot.models.get(model), hosted.grid, bool(here.all())
    places: dict[PublicKey, int] = {}
    alike: Counter[tuple[tuple[int, float], ...]] = Counter()
    nobody = 0
    for number, layer in enumerate(grid.layers):
        first = number * grid.experts
        wanted = [at for at in range(first, first + grid.experts) if complete or not here[at]]
        shares: dict[int, float] = {}
        for example, count in _sets(holders, wanted):
            choice = snapshot.choice(model, layer, example - first)
            if choice is None:
                nobody += 0 if complete else count
                continue
            for at in choice.settled:
                place = places.setdefault(snapshot.view(at).node, len(places))
                shares[place] = shares.get(place, 0.0) + count / grid.experts / len(choice.settled)
        alike[tuple(sorted(shares.items()))] += 1
    spreads = tuple(Spread(count, shares) for shares, count in alike.items() if shares)
    return spreads, tuple(places), nobody


def _sets(holders: Holders | None, numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Experts that lie on the same nodes: one of each kind, and how many there are."""
    if not numbers:
        return []
    if holders is None or not holders.bits.shape[1]:
        return [(numbers[0], len(numbers))]
    rows = holders.bits[list(numbers)]
    _, first, counts = np.unique(rows, axis=0, return_index=True, return_counts=True)
    return [(numbers[int(at)], int(count)) for at, count in zip(first, counts, strict=True)]
