"""Which plan a request goes by, and why: the shortest answer of those that are predicted, rarely one to be measured.

Pure. What each plan should give is in `prediction`, how often one is tried again in `trying`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from blyan.inference.prediction import Correction, Prediction, Shape, Situation, if_held, plans, predict
from blyan.inference.trying import drawn, share, share_max
from blyan.model.stepping import PlanName
from blyan.primitives.limits import MIB

tie: Final = 0.05  # local wins against what is faster by no more than this share


@dataclass(frozen=True, slots=True)
class Held:
    """What this node alone would give with the experts that it lacks, where that is more than any plan gives now."""

    experts: int  # that it lacks
    size: int  # bytes
    prediction: Prediction  # with assumptions: of the least that it would give
    times: float  # how many times as long an answer takes now


@dataclass(frozen=True, slots=True)
class Decision:
    """Which plan, what it and the others should give."""

    plan: PlanName | None  # None: none is possible
    predictions: tuple[Prediction, ...]  # one for each plan, in the order of `plans`
    said: str
    tried: bool = False  # taken to be measured, not because it is the best
    than: PlanName | None = None  # the best of the others
    times: float | None = None  # how many times as long its answer takes
    order: tuple[PlanName, ...] = ()  # in which plans are to be tried: this one, then what may answer instead
    held: Held | None = None  # what would be better still

    def of(self, plan: PlanName) -> Prediction:
        """What a plan should give."""
        return self.predictions[plans.index(plan)]


def choose(
    situation: Situation,
    shape: Shape,
    corrections: Sequence[tuple[PlanName, Correction]] = (),
    draw: Callable[[], float] | None = None,
) -> Decision:
    """The plan with the shortest answer of those that are offered; local wins ties.

    `draw` gives numbers in [0, 1): below a small share a plan is tried that was never measured, for one try measures
    it, below a smaller one what may have become quicker than it was; None tries none. Without any measured plan the
    first that is possible is taken.
    """
    made = predict(situation, shape, corrections)
    decision = _decided(situation, shape, made, draw)
    possible = [each for each in made if each.possible and each.plan in situation.offered]
    possible.sort(key=lambda each: (each.plan != decision.plan, each.seconds(shape.answer) or math.inf))
    now = [seconds for each in possible if (seconds := each.seconds(shape.answer)) is not None]
    held = _held(situation, shape, corrections, min(now)) if now else None
    said = decision.said if held is None else f"{decision.said}; {_advice(held)}"
    return replace(decision, order=tuple(each.plan for each in possible), said=said, held=held)


def _held(
    situation: Situation, shape: Shape, corrections: Sequence[tuple[PlanName, Correction]], now: float
) -> Held | None:
    alone = if_held(situation, shape, corrections)
    seconds = None if alone is None else alone.seconds(shape.answer)
    if alone is None or not seconds or now < seconds * (1 + tie):
        return None
    return Held(situation.missing, situation.missing_bytes, alone, now / seconds)


def _advice(held: Held) -> str:
    what = f"the {held.experts} experts that are not here" if held.experts > 1 else "the expert that is not here"
    least = "at least " if held.prediction.assumed else ""
    return f"with {what} ({held.size / MIB:.1f} MiB) this node alone would be {least}{_faster(held.times)} any of these"


def _decided(
    situation: Situation, shape: Shape, made: tuple[Prediction, ...], draw: Callable[[], float] | None
) -> Decision:
    possible = [each for each in made if each.possible and each.plan in situation.offered]
    timed = [(seconds, each) for each in possible if (seconds := each.seconds(shape.answer)) is not None]
    untimed = [each for each in possible if each.not_measured]
    if not possible:
        return Decision(None, made, "no plan: " + "; ".join(f"{each.plan}: {each.why}" for each in made))
    if not timed:
        first = possible[0]
        return Decision(first.plan, made, f"{first.plan}: nothing was measured yet", tried=True)
    quickest, best = min(timed, key=lambda each: each[0])
    for seconds, each in timed:
        if each.plan == "local" and seconds <= quickest * (1 + tie):
            quickest, best = seconds, each
    doubts = dict(situation.doubts)
    tries = [(each, share_max / len(untimed)) for each in untimed]
    tries += [(each, share(doubts.get(each.plan), it / quickest)) for it, each in timed if each is not best]
    again = None if draw is None or not any(own for _, own in tries) else drawn(tries, draw())
    if again is not None:
        return Decision(again.plan, made, f"{again.plan}: tried, to be measured", tried=True)
    return _compared(best, quickest, made, shape)


def _compared(best: Prediction, seconds: float, made: tuple[Prediction, ...], shape: Shape) -> Decision:
    """With a sentence: how much sooner than the next, and what cannot be compared."""
    others: list[tuple[float, PlanName]] = [
        (other, each.plan)
        for each in made
        if each.plan != best.plan and (other := each.seconds(shape.answer)) is not None
    ]
    unknown = [each.plan for each in made if each.possible and each.not_measured]
    said = f"{best.plan}: {best.tokens_per_s:.1f} tokens/s"
    later = f"; not measured: {', '.join(unknown)}" if unknown else ""
    if not others:
        return Decision(best.plan, made, f"{said}, nothing else can be compared{later}")
    other, than = min(others, key=lambda each: each[0])
    times = other / seconds
    return Decision(best.plan, made, f"{said}, {_faster(times)} {than}{later}", than=than, times=times)


def _faster(ratio: float) -> str:
    if ratio >= 1 + tie:
        return f"{ratio:.1f} times as fast as" if ratio >= 1.95 else f"{ratio - 1:.0%} faster than"
    return "as fast as" if ratio > 1 - tie else f"{1 - ratio:.0%} slower than"
