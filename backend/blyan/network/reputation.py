"""How far a peer's work has held: Beta(good, bad) over events that this node verified itself, with decay. Pure.

Jøsang and Ismail 2002 (The Beta Reputation System). Routing uses a lower bound, so that little evidence counts for
little. Evidence halves with time, and is bounded: a long good past excuses no more than a short one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Event: TypeAlias = Literal["good", "timeout", "lost", "refused", "not_held", "corrupt"]

# What counts how much. A slow network is nobody's lie; wrong bytes are.
weights: Final[dict[Event, float]] = {
    "good": 1.0,
    "timeout": 1.0,
    "lost": 0.5,
    "refused": 0.25,
    "not_held": 2.0,
    "corrupt": 40.0,
}
_prior_good: Final = 4.0
_prior_bad: Final = 1.0
_good_max: Final = 30.0
_bad_max: Final = 80.0
_quantile: Final = 1.6449  # of the standard normal distribution, 5 % below


@dataclass(frozen=True, slots=True)
class Rules:
    """How reputations are made and used."""

    half_life_s: float = 300.0
    gate: float = 0.25  # below it a peer is asked only when nobody else can be
    proven: int = 8  # good answers since the last wrong one, from which a peer is no newcomer

    def __post_init__(self) -> None:
        assert self.half_life_s > 0 and 0 < self.gate < 0.5, "a newcomer is above the gate"


@dataclass(frozen=True, slots=True)
class Reputation:
    """Evidence beyond the prior, as of a moment."""

    good: float = 0.0
    bad: float = 0.0
    at: float = 0.0  # seconds
    streak: int = 0  # good answers since wrong bytes or an untrue claim; no decay

    def after(self, event: Event, now: float, rules: Rules) -> Reputation:
        """The reputation once this is known too."""
        good, bad = self.evidence(now, rules)
        if event == "good":
            return Reputation(min(good + weights[event], _good_max), bad, now, self.streak + 1)
        streak = 0 if event in ("corrupt", "not_held") else self.streak
        return Reputation(good, min(bad + weights[event], _bad_max), now, streak)

    def evidence(self, now: float, rules: Rules) -> tuple[float, float]:
        """Good and bad as they weigh now."""
        kept = 0.5 ** (max(0.0, now - self.at) / rules.half_life_s)
        return self.good * kept, self.bad * kept

    def lower_bound(self, now: float, rules: Rules) -> float:
        """Where the 5 % quantile of the Beta distribution lies, in [0, 1], by its normal approximation.

        The approximation is off by some hundredths for a few events; a gate needs no more.
        """
        good, bad = self.evidence(now, rules)
        alpha, beta = _prior_good + good, _prior_bad + bad
        total = alpha + beta
        mean = alpha / total
        deviation = math.sqrt(mean * (1 - mean) / (total + 1))
        return min(1.0, max(0.0, mean - _quantile * deviation))

    def newcomer(self, rules: Rules) -> bool:
        """Whether too little good is known for a full share."""
        return self.streak < rules.proven
