"""Seconds that a step waits for experts on other nodes: in each layer for the slowest that is asked. Pure.

The same for this node's own steps and for those of a node that generates alone and lacks some experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from blyan.inference.step_times import Curve
from blyan.primitives.ids import PublicKey

_changed: Final = 2.0  # calls that take so many times as long, or as short, are others than before


@dataclass(frozen=True, slots=True)
class CallTimes:
    """Expert calls of one node, by this node's clock."""

    node: PublicKey
    fixed_s: float | None  # None: it was never asked
    row_s: float | None
    round_trip_s: float | None

    def seconds(self, rows: float) -> tuple[float, bool] | None:
        """A call of so many rows, and whether it was measured; None where nothing tells of it."""
        if self.fixed_s is not None and self.row_s is not None:
            return self.fixed_s + self.row_s * rows, True
        return None if self.round_trip_s is None else (self.round_trip_s, False)

    def over(self, way_s: float) -> CallTimes:
        """The same for a node to which the way takes so long from here: between two nodes the longer of their ways.

        None has measured that way but they themselves.
        """
        there = self.round_trip_s
        longer = max(0.0, way_s - (there or 0.0))
        fixed = None if self.fixed_s is None else self.fixed_s + longer
        return CallTimes(self.node, fixed, self.row_s, None if there is None else there + longer)


@dataclass(frozen=True, slots=True)
class Spread:
    """Layers whose experts lie alike: how many layers, and what share of each layer's experts each node is asked."""

    layers: int
    shares: tuple[tuple[int, float], ...]  # place in `Calls.callees`, share of the experts


@dataclass(frozen=True, slots=True)
class Calls:
    """Who is asked for what of a model, by whoever computes the rest of it."""

    experts_per_token: int
    callees: tuple[CallTimes, ...] = ()
    spreads: tuple[Spread, ...] = ()
    stretch: float = 1.0  # so many times as long as expected such calls took that node lately

    def seconds(self, tokens: int) -> float:
        """Of a step of so many tokens."""
        rows = tokens * self.experts_per_token
        total = 0.0
        for spread in self.spreads:
            asked: list[tuple[float, float]] = []  # seconds, with what chance
            for place, share in spread.shares:
                chance = 1 - (1 - min(1.0, share)) ** rows
                taken = self.callees[place].seconds(rows * share / chance) if chance else None
                if taken is not None:
                    asked.append((taken[0], chance))
            total += spread.layers * _slowest(asked)
        return self.stretch * total

    def waited(self, curve: Curve, generations: int, tokens: int, positions: float) -> float:
        """Of a step among those of `curve`: what such steps waited lately, if that is what calls take now.

        Calls of late were mostly of single tokens and tell little of long ones; steps do, but not of nodes that came,
        went or changed since, nor of experts that came or went.
        """
        called = self.seconds(tokens)
        small, now = curve.step(1, 1, positions), self.seconds(1)
        seen = curve.step(generations, tokens, positions)
        if seen is None or small is None:
            return called
        if small.waited_s / _changed <= now <= small.waited_s * _changed:
            return seen.waited_s
        return max(called, seen.waited_s + now - small.waited_s)


alone: Final = Calls(1)  # who has all asks nobody


def _slowest(asked: Sequence[tuple[float, float]]) -> float:
    """Seconds, on average, until the slowest has answered of those that are asked, each with its chance."""
    total, slower = 0.0, 1.0  # the chance that none of the slower ones is asked
    for seconds, chance in sorted(asked, reverse=True):
        total += seconds * chance * slower
        slower *= 1 - chance
    return total
