"""What this node's planner knows and says: facts of a model gathered, a plan chosen for each request, errors noted.

Steps come from the compute thread, numbers of peers from the network's loop; everything else happens in the event
loop that answers people. What is gathered of a model is kept for a moment, so that many requests cost one look.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blyan.inference.call_times import CallTimes, Spread
from blyan.inference.planner import Decision, choose
from blyan.inference.planner_error import Came, PlannerError
from blyan.inference.policy import Rules
from blyan.inference.prediction import Correction, Delegate, Shape, Situation, plans, predict
from blyan.inference.snapshot import Holders, RegistrySnapshot
from blyan.inference.stage_speeds import Route
from blyan.inference.step_times import StepTimes
from blyan.inference.trying import Doubt, doubt
from blyan.model.config import ModelConfig
from blyan.model.stepping import PlanName
from blyan.network.measurements import Measured
from blyan.node.holdings import Hosted
from blyan.node.machine import memory
from blyan.node.peering import Peering
from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.primitives.ids import PayloadId, PublicKey

_kept_s: Final = 0.25  # what is gathered of a model
_tokens_min: Final = 4  # of an answer that tells of a rate
_settled: Final = 8  # answers that were measured, before another plan is tried
_turned_s: Final = 5.0  # for which a plan that turned out impossible is not chosen
_turned_max_s: Final = 300.0  # each time twice as long, for a pipeline


def _nobody(_model: PayloadId, _config: ModelConfig) -> None:
    """No other node leads."""


class Planned(NamedTuple):
    """What was expected of one answer."""

    model: PayloadId
    situation: Situation
    shape: Shape
    corrections: tuple[tuple[PlanName, Correction], ...]
    decision: Decision


class _Turned(NamedTuple):
    """A plan turned out impossible: until when it is not chosen, and for how long that is."""

    until: float
    seconds: float


class _Seen(NamedTuple):
    """What was gathered of a model, whatever is asked of it."""

    until: float
    situation: Situation
    route: Route | None = None


@dataclass(slots=True, eq=False)
class Planning:
    """One node's. For its event loop, but for `steps`."""

    peering: Peering | None
    rules: Rules
    monotonic: Monotonic
    draw: Callable[[], float]  # in [0, 1)
    delegate: Callable[[PayloadId, ModelConfig], Delegate | None] = _nobody  # the best one, in the network's loop
    steps: StepTimes = field(default_factory=StepTimes)
    errors: PlannerError = field(default_factory=PlannerError)
    chosen: Counter[PlanName] = field(default_factory=Counter["PlanName"])
    _seen: dict[PayloadId, _Seen] = field(default_factory=dict["PayloadId", "_Seen"])
    _sizes: dict[PayloadId, NDArray[np.int64]] = field(default_factory=dict["PayloadId", "NDArray[np.int64]"])
    _used: dict[tuple[PayloadId, PlanName], float] = field(default_factory=dict["tuple[PayloadId, PlanName]", float])
    _turned: dict[tuple[PayloadId, PlanName], _Turned] = field(
        default_factory=dict["tuple[PayloadId, PlanName]", "_Turned"]
    )

    def shape(self, prompt: int, answer: int, beside: int, standing: tuple[int, int] = (0, 0)) -> Shape:
        """A request as this node computes it, beside so many generations; of its prompt so much stands already."""
        rules = self.rules
        chunks = rules.step_tokens, min(rules.prompt_tokens, rules.step_tokens)
        return Shape(max(1, prompt), max(1, answer), beside, *chunks, *standing)

    async def situation(self, model: PayloadId, config: ModelConfig, shape: Shape) -> Situation:
        """What is known of a model now, or was a moment ago, for one request."""
        now = self.monotonic()
        seen = self._seen.get(model)
        if seen is None or now >= seen.until:
            seen = await self._gathered(model, config)
            self._seen.pop(model, None)
            self._seen[model] = seen
            if len(self._seen) > limits.models_timed_max:
                del self._seen[next(iter(self._seen))]
        stages = None if seen.route is None else seen.route.takes(shape.prompt, shape.answer, shape.chunk)
        turned = [plan for plan in plans if (each := self._turned.get((model, plan))) and now < each.until]
        return replace(
            seen.situation,
            stages=stages,
            doubts=self._doubts(model, seen.situation, now),
            why_not=(*seen.situation.why_not, *((plan, "it was impossible a moment ago") for plan in turned)),
        )

    def _doubts(self, model: PayloadId, situation: Situation, now: float) -> tuple[tuple[PlanName, Doubt], ...]:
        """Plans that may be quicker than they were measured to be. What code stages compute with is theirs."""
        delegate = situation.delegate
        jitted: dict[PlanName, bool] = {
            "local": situation.local.jitted,
            "dynamic": situation.dynamic.jitted,
            "static_delegate": delegate is not None and delegate.curve.jitted,
        }
        answers = {plan: by.answers for plan, by in self.errors.corrections(model)}
        found = list[tuple[PlanName, Doubt]]()
        for plan in plans:
            idle_s = now - self._used.setdefault((model, plan), now)
            why = doubt(idle_s, jitted=jitted.get(plan, True), answers=answers.get(plan, 0))
            if why is not None:
                found.append((plan, why))
        return tuple(found)

    async def choose(
        self, model: PayloadId, config: ModelConfig, shape: Shape, without: frozenset[PlanName] = frozenset()
    ) -> Planned:
        """The plan for one request, with what all of them should give. Counted; `ended` tells what came of it.

        `without`: plans that the request excludes.
        """
        found, corrections = await self.situation(model, config, shape), self.errors.corrections(model)
        situation = replace(found, offered=found.offered - without)
        settled = any(by.answers >= _settled for _, by in corrections)  # before that nothing could be compared
        decision = choose(situation, shape, corrections, self.draw if settled else None)
        if decision.plan is not None:
            self.chosen[decision.plan] += 1
        return Planned(model, situation, shape, corrections, decision)

    async def look(self, model: PayloadId, config: ModelConfig, shape: Shape) -> Planned:
        """The same for people: nothing is tried, nothing counted."""
        situation, corrections = await self.situation(model, config, shape), self.errors.corrections(model)
        return Planned(model, situation, shape, corrections, choose(situation, shape, corrections))

    def turned(self, planned: Planned, used: PlanName) -> None:
        """An answer went another way than was decided, for what was decided turned out impossible.

        A pipeline is left alone longer each time, until an answer goes by it: who is to be answered by it waits while
        stages are looked for.
        """
        decided = planned.decision.plan
        if decided is None or decided == used:
            return
        now, seconds = self.monotonic(), _turned_s
        before = self._turned.get((planned.model, decided))
        if before is not None and decided == "pipeline":
            if now < before.until:
                return  # it was under way with the one that is counted
            seconds = min(2 * before.seconds, _turned_max_s)
        self._turned[planned.model, decided] = _Turned(now + seconds, seconds)

    def ended(self, planned: Planned, tokens: int, first_s: float, rest_s: float) -> None:
        """An answer of so many tokens ended well: seconds until the first, and until the last after it.

        What was predicted is taken for an answer of that length: nobody knew it before.
        """
        plan = planned.decision.plan
        if plan is None:
            return
        self._used[planned.model, plan] = self.monotonic()
        self._turned.pop((planned.model, plan), None)
        for kept in (self._used, self._turned):
            while len(kept) > len(plans) * limits.models_timed_max:
                del kept[next(iter(kept))]
        if tokens < _tokens_min or rest_s <= 0:
            return
        predicted = predict(planned.situation, replace(planned.shape, answer=tokens), planned.corrections)
        used = dict(planned.corrections).get(plan, Correction())
        came = Came((tokens - 1) / rest_s, first_s)
        self.errors.note(planned.model, next(each for each in predicted if each.plan == plan), used, came)

    def _missing(self, hosted: Hosted, here: NDArray[np.bool_]) -> int:
        """Bytes of the experts that are not here."""
        sizes = self._sizes.pop(hosted.manifest_id, None)
        if sizes is None:
            sizes = np.array([hosted.block(number).length for number in range(hosted.grid.count)], np.int64)
        self._sizes[hosted.manifest_id] = sizes
        if len(self._sizes) > limits.models_timed_max:
            del self._sizes[next(iter(self._sizes))]
        return int(sizes[~here].sum())

    async def _gathered(self, model: PayloadId, config: ModelConfig) -> _Seen:
        until = self.monotonic() + _kept_s
        local, dynamic = self.steps.curve(model, "local"), self.steps.curve(model, "dynamic")
        hosted = None if self.peering is None else self.peering.holdings.find(model)
        if self.peering is None or hosted is None:
            return _Seen(until, Situation(config.experts_per_token, 0, 0, local, dynamic, offered=_only_local))
        peering, configured = self.peering, self.peering.config.network.plan
        if hosted.complete and configured == "auto" and not local.points:
            local = dynamic  # all is here, of a model that may be given up in part: nobody is asked
        here = np.zeros(hosted.grid.count, dtype=np.bool_)
        here[list(hosted.here)] = True
        around = await asyncio.wrap_future(peering.ask(partial(_around, peering, hosted, self.delegate)))
        spreads, keys, nobody = _spread(around.snapshot, model, hosted, here)
        measured = await asyncio.wrap_future(peering.ask(partial(_measured, peering, keys)))
        delegate = around.delegate
        if delegate is not None:
            delegate = replace(delegate, curve=self.steps.curve(model, "static_delegate", delegate.node))
        situation = Situation(
            config.experts_per_token,
            int((~here).sum()),
            nobody,
            local,
            dynamic,
            tuple(CallTimes(key, measured[key].fixed_s, measured[key].row_s, measured[key].rtt_s) for key in keys),
            spreads,
            delegate,
            hosted.trunk,
            () if around.route is None else around.route.stages,
            piped=self.steps.curve(model, "pipeline"),
            offered=_offered(configured, hosted.complete),
            missing_bytes=(missing := self._missing(hosted, here)),
            fits=missing == 0 or missing <= memory()[1],
            here=_share(here, around.used),
        )
        return _Seen(until, situation, around.route)


class _Around(NamedTuple):
    """What the network's loop knows."""

    snapshot: RegistrySnapshot
    delegate: Delegate | None
    route: Route | None
    used: NDArray[np.float64]  # uses of each expert


def _around(peering: Peering, hosted: Hosted, delegate: Callable[[PayloadId, ModelConfig], Delegate | None]) -> _Around:
    staging, manifest = peering.staging, hosted.manifest
    return _Around(
        peering.registry.snapshot(peering.monotonic()),
        delegate(hosted.manifest_id, manifest.config),
        staging.roster.now(hosted, staging.lead.sessions),
        peering.demand.of(hosted.manifest_id, manifest.config).shares(peering.monotonic()),
    )


def _share(here: NDArray[np.bool_], used: NDArray[np.float64]) -> float:
    """Of what answers use, how much is here; of all experts, where nothing was seen."""
    total = float(used.sum())
    return float(used[here].sum()) / total if total > 0 else float(here.mean())


_only_local: Final[frozenset[PlanName]] = frozenset({"local"})


def _offered(configured: str, complete: bool) -> frozenset[PlanName]:
    """What may answer: the configured plan alone, else all; by itself this node computes with what is here."""
    if configured != "auto":
        return frozenset(plan for plan in plans if plan == configured)
    return frozenset({"local" if complete else "dynamic", "static_delegate", "pipeline"})


def _measured(peering: Peering, nodes: Sequence[PublicKey]) -> Mapping[PublicKey, Measured]:
    return {node: peering.registry.measurements.of(node) for node in nodes}


def _spread(
    snapshot: RegistrySnapshot, model: PayloadId, hosted: Hosted, here: NDArray[np.bool_]
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
