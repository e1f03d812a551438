"""How long steps took here, by model and plan, for as many tokens at such lengths: what predictions rest on.

The compute thread adds each step, the events that it gave included; others read a `Curve`, a value. A step's time
depends on how many tokens it computes, for one generation or several, and on how many positions lie before them. Each
region of these numbers (by powers of two) keeps its last steps; what lies between two regions is interpolated, what
lies beyond is taken as proportional, and a curve says so.

Plain code takes several times as long as the jitted code that takes over from it (`steppers`), so steps of one say
nothing of the other's: the first step by other code takes the place of all steps of as many tokens. For other sizes the
old ones stand until such a step comes, for to take a prompt as so many single tokens would be further off.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock
from typing import Final, NamedTuple, Protocol, TypeAlias

from blyan.model.stepping import PlanName
from blyan.primitives import limits
from blyan.primitives.ids import PayloadId, PublicKey

_Region: TypeAlias = tuple[bool, int, int]  # several generations, powers of two of tokens and of positions
_Key: TypeAlias = tuple[PayloadId, PlanName, PublicKey | None]  # the node that led, if it was another

_kept: Final = 32  # steps of a region
_kept_of_others: Final = 8  # of a node that leads: it may be another's turn before long
_reads: Final = 4.0
_odd_share: Final = 8  # of so many steps one at either end is left out of the mean


class StepSeen(NamedTuple):
    """One step."""

    plan: PlanName
    seconds: float  # until the next could begin
    waited_s: float  # of these, in which other nodes were waited for
    generations: int
    tokens: int  # of all of them
    positions: float  # before these tokens, on average


class Timed(Protocol):
    """Who is told of steps, in the compute thread."""

    def __call__(
        self, model: PayloadId, step: StepSeen, *, jitted: bool = False, node: PublicKey | None = None
    ) -> None:
        """A step of a model, by jitted code or not; of which node, if it was led by another."""
        ...


def untimed(model: PayloadId, step: StepSeen, *, jitted: bool = False, node: PublicKey | None = None) -> None:
    """Nobody is."""


class Reading(NamedTuple):
    """What a curve says of a step."""

    seconds: float
    waited_s: float
    beyond: bool  # steps of such a size were not measured: it is taken as proportional to tokens

    @property
    def own_s(self) -> float:
        """In which this node computed."""
        return self.seconds - self.waited_s


class _Point(NamedTuple):
    """The steps of one region."""

    several: bool
    tokens: float
    positions: float
    seconds: float
    waited_s: float


@dataclass(frozen=True, slots=True)
class Curve:
    """The steps of one model by one plan, as of a moment."""

    points: tuple[_Point, ...] = ()
    jitted: bool = False  # whether jitted code computed all of them

    def step(self, generations: int, tokens: int, positions: float) -> Reading | None:
        """A step of so many tokens of so many generations after so many positions; None where nothing tells of it."""
        assert tokens >= generations >= 1, "each computes something"
        alike = [point for point in self.points if point.several == (generations > 1)]
        by_tokens: dict[int, _Point] = {}
        for point in sorted(alike, key=lambda each: -_apart(each.positions, positions)):
            by_tokens[_power(point.tokens)] = point  # the nearest in length is the last
        points = sorted(by_tokens.values(), key=lambda each: each.tokens)
        above = next((at for at, point in enumerate(points) if point.tokens >= tokens), len(points))
        if above < len(points) and (above > 0 or _power(points[0].tokens) == _power(tokens)):
            return _between(points[max(0, above - 1)], points[above], tokens)
        if above == len(points) and points:
            last = points[-1]
            stretched = max(1.0, tokens / last.tokens)
            return Reading(last.seconds * stretched, last.waited_s, _power(tokens) > _power(last.tokens))
        return None


def _between(low: _Point, high: _Point, tokens: int) -> Reading:
    """On the curve through two points on which steps lie (see `_work`)."""
    span = _work(high.tokens) - _work(low.tokens)
    share = min(1.0, max(0.0, (_work(tokens) - _work(low.tokens)) / span)) if span > 0 else 1.0
    seconds = (1 - share) * low.seconds + share * high.seconds
    waited = (1 - share) * low.waited_s / low.seconds + share * high.waited_s / high.seconds
    return Reading(seconds, waited * seconds, False)


def _work(tokens: float) -> float:
    """What a step of so many tokens takes, but for a scale and what every step takes.

    Each token is computed with, and the first ones have the more experts read. Of steps of the tiny model and of that
    of 200 M parameters, between any two sizes from 1 to 512 tokens, this is off by a twentieth in the median and a
    fifth at most; a line through logarithms of both by up to nine tenths.
    """
    return tokens + _reads * math.sqrt(tokens)


def _apart(one: float, other: float) -> float:
    return abs(math.log((one + 32) / (other + 32)))


def _power(number: float) -> int:
    return round(number).bit_length()


@dataclass(slots=True)
class _Steps:
    """The last of one region, by one code."""

    jitted: bool
    seen: deque[StepSeen]


_Model: TypeAlias = dict[_Region, _Steps]


class StepTimes:
    """Of all models. Any thread adds and reads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._models: dict[_Key, _Model] = {}

    def add(self, model: PayloadId, step: StepSeen, *, jitted: bool = False, node: PublicKey | None = None) -> None:
        """One more step. What other code took for as many tokens counts no more."""
        region = step.generations > 1, _power(step.tokens), _power(step.positions)
        with self._lock:
            found = self._models.pop((model, step.plan, node), {})
            for each in [each for each in found if each[:2] == region[:2] and found[each].jitted != jitted]:
                del found[each]
            self._models[model, step.plan, node] = found  # the last that computed is last
            if len(self._models) > limits.models_timed_max:
                del self._models[next(iter(self._models))]
            kept = _kept if node is None else _kept_of_others
            found.setdefault(region, _Steps(jitted, deque(maxlen=kept))).seen.append(step)

    def curve(self, model: PayloadId, plan: PlanName, node: PublicKey | None = None) -> Curve:
        """What is known of the steps of a model by a plan, or of those that a node led; perhaps nothing."""
        with self._lock:
            found = self._models.get((model, plan, node), {})
            regions = [(key[0], list(steps.seen)) for key, steps in found.items()]
            jitted = all(steps.jitted for steps in found.values())
        return Curve(tuple(_point(several, steps) for several, steps in regions), jitted and bool(regions))


def _point(several: bool, steps: list[StepSeen]) -> _Point:
    return _Point(
        several,
        sum(step.tokens for step in steps) / len(steps),
        sum(step.positions for step in steps) / len(steps),
        max(1e-9, _usual(step.seconds for step in steps)),
        _usual(step.waited_s for step in steps),
    )


def _usual(values: Iterable[float]) -> float:
    """The mean without the odd ones at either end; of a few the middle, for the first of a kind is often late."""
    ordered = sorted(values)
    cut = len(ordered) // _odd_share if len(ordered) >= _odd_share else (len(ordered) - 1) // 2
    kept = ordered[cut : len(ordered) - cut]
    return sum(kept) / len(kept)
