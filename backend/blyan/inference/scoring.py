"""What was measured of a node as one number to compare: latency, load, staleness. Pure.

A score is in seconds: what a usual call takes there, rows that wait there already included. See docs/adr/0031.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from blyan.network import breaker as breakers
from blyan.network import reputation as reputations
from blyan.network.measurements import Measured, forget_s

unmeasured_s: Final = 0.02  # of a call, before anybody was measured
_noise: Final = 0.25  # a number that moved by less is published as it was
_stale_s: Final = 60.0  # a summary of that age counts as stale
_refused_s: Final = 1.0  # after its queue was full a node counts as slower for so long
_refused_cost: Final = 4.0


@dataclass(frozen=True, slots=True)
class Rules:
    """How what was seen becomes ranks and scores; seconds throughout."""

    breaker: breakers.Rules = field(default_factory=breakers.Rules)
    reputation: reputations.Rules = field(default_factory=reputations.Rules)
    load_weight: float = 1.0  # of rows that wait there, each at what a row takes
    stale_weight: float = 0.5  # of a summary's age, at most this share of what is usual
    refresh_s: float = 0.1  # numbers are taken over so often
    unsaid_s: float = 5e-6  # what turned out untrue is taken over after so long for each node: liars cost little time
    review_s: float = 2.0  # and those of nodes of which nothing is new so often
    doubt_s: float = 5.0  # a claim that turned out untrue is not believed again for so long, doubled each time
    doubt_max_s: float = 300.0
    hedge_min_s: float = 0.03
    hedge_max_s: float = 0.25  # and for a node that was not measured


class Usual(NamedTuple):
    """A call as they come."""

    seconds: float  # on the middle one of all nodes
    rows: int


def score(measured: Measured, usual: Usual, age: float, now: float, rules: Rules) -> float:
    """Seconds; `age` is that of the node's summary. An old measurement gives way to what is usual."""
    own = measured.expected_s(usual.rows)
    if own is None:
        own = usual.seconds if measured.rtt_s is None else max(usual.seconds, measured.rtt_s)
    elif measured.last_call is not None:
        kept = 0.5 ** (max(0.0, now - measured.last_call) / forget_s)
        own = usual.seconds + (own - usual.seconds) * kept
    row = measured.row_s if measured.row_s else own / max(usual.rows, 1)
    stale = usual.seconds * min(1.0, age / _stale_s)
    total = own + rules.load_weight * row * measured.rows_waiting + rules.stale_weight * stale
    if measured.last_refused is not None and now - measured.last_refused < _refused_s:
        total *= _refused_cost
    return max(total, 1e-6)


def hedge_after(measured: Measured, usual: Usual, rules: Rules) -> float:
    """Seconds after which a usual call is late there: what 95 % of calls took, between the bounds.

    Where a usual call itself takes longer than the upper bound, half as much again.
    """
    own = measured.expected_s(usual.rows)
    if own is None or measured.spread is None:
        return rules.hedge_max_s
    late = own * max(1.0, measured.spread)
    return min(max(late, rules.hedge_min_s), max(rules.hedge_max_s, 1.5 * own))


def steady(before: float | None, value: float) -> float:
    """A number as it was published, until it has moved by more than noise."""
    return before if before is not None and abs(value - before) <= _noise * before else value
