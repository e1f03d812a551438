"""Situations that tests plan in: what was measured of a model, as values."""

from __future__ import annotations

from blyan.inference.call_times import CallTimes, Spread
from blyan.inference.prediction import Shape, Situation
from blyan.inference.step_times import Curve, StepSeen, StepTimes
from blyan.primitives.ids import PayloadId, PublicKey

MODEL = PayloadId("a" * 64)
NEAR, FAR = PublicKey("1" * 64), PublicKey("2" * 64)
SHAPE = Shape(prompt=64, answer=101)


def curve(token_s: float, prompt_s: float, waited: float = 0.0) -> Curve:
    """Steps of one token, and of 64."""
    times = StepTimes()
    times.add(MODEL, StepSeen("local", token_s, waited, 1, 1, 100))
    times.add(MODEL, StepSeen("local", prompt_s, waited, 1, 64, 0))
    return times.curve(MODEL, "local")


def alone(**more: object) -> Situation:
    """All here, ten milliseconds a token."""
    return Situation(
        **{"experts_per_token": 2, "missing": 0, "nobody": 0, "local": curve(0.01, 0.1), "dynamic": Curve()} | more
    )  # type: ignore[arg-type]


def parted(call_s: float, **more: object) -> Situation:
    """Half of the experts on another node, two layers, four milliseconds of each step are this node's own."""
    call = CallTimes(NEAR, call_s, 0.0, call_s)
    given = {"missing": 8, "local": Curve(), "dynamic": curve(0.01, 0.1, 0.006), "callees": (call,)}
    given |= {"spreads": (Spread(2, ((0, 1.0),)),), "offered": frozenset({"dynamic"})}
    return alone(**given | more)
