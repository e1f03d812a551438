"""How calls would best spread over the nodes that hold what they need, and what each node's time is worth then. Pure.

What a swarm can carry is bound by its busiest node. The prices here are the gradient of a smooth form of that bound
(the `_power`-norm of the loads, whose duals are the shadow prices of a minimal greatest load): a part is dear where
its cheapest holder is busy or slow, and a node that lies idle costs nothing. Found by multiplicative best responses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_power: Final = 4.0
_idle: Final = 1e-3  # price of a node without load
_quick, _slow = 20, 20  # rounds with large steps, and with small ones


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """Over pairs of a part and a node that holds it."""

    nodes: NDArray[np.int64]  # [pairs]
    seconds: NDArray[np.float64]  # [pairs] that a row takes there
    rows: NDArray[np.float64]  # [pairs] a second that go there
    order: NDArray[np.int64]  # [pairs] by part
    starts: NDArray[np.int64]  # [parts + 1] where in `order` the pairs of each part begin
    loads: NDArray[np.float64]  # [nodes] seconds of work a second
    prices: NDArray[np.float64]  # [nodes] of a second of each
    costs: NDArray[np.float64]  # [parts] of a row, on average
    mean: float  # of the loads

    def gain(self, node: int, traffic: NDArray[np.float64], speeds: NDArray[np.float64]) -> NDArray[np.float64]:
        """What it would save to have each part at a node too [parts]; `speeds`: rows a second that it would compute.

        Rows come to it until its own time is as dear as elsewhere, so the mean of the first and the last counts.
        """
        fair = self.mean * np.maximum(self.costs * speeds, 1e-12) ** (1 / _power)  # the load at which they are even
        share = np.clip((fair - self.loads[node]) * speeds / np.maximum(traffic, 1e-12), 0.0, 1.0)
        return traffic * share * np.maximum(0.0, self.costs - self.prices[node] / speeds) / 2

    def loss(self, node: int, part: int) -> float:
        """What it would cost to have a part at a node no more, of which another one has it."""
        pairs = self.order[int(self.starts[part]) : int(self.starts[part + 1])]
        own = self.nodes[pairs] == node
        rows = float(self.rows[pairs][own].sum())
        if not rows:
            return 0.0
        others = ~own
        if not others.any():
            return np.inf
        seconds, where = self.seconds[pairs][others], self.nodes[pairs][others]
        dearer = max(0.0, float((self.prices[where] * seconds).min()) - float(self.costs[part]))
        # how many rows others take as their price rises by its own size
        room = float(((self.loads[where] + 0.05 * self.mean) / seconds).sum()) / _power
        return rows * (dearer + float(self.costs[part]) * min(5.0, rows / max(room, 1e-12)) / 2)


def spread(
    parts: NDArray[np.int64],
    nodes: NDArray[np.int64],
    speeds: NDArray[np.float64],
    traffic: NDArray[np.float64],
    count: int,
) -> Spread:
    """Pairs of a part and a node that holds it, with rows a second; `traffic` [parts] rows a second; so many nodes."""
    order = np.argsort(parts, kind="stable")
    starts = np.searchsorted(parts[order], np.arange(len(traffic) + 1))
    seconds, shares, asked = 1.0 / speeds, speeds.astype(np.float64), traffic[parts]
    price = loads = np.zeros(count)
    mean = 1.0
    for step in (*(0.5,) * _quick, *(0.25,) * _slow, 0.0):
        shares = np.maximum(shares / np.maximum(_sums(parts, shares, len(traffic)), 1e-300)[parts], 1e-9)
        loads = _sums(nodes, asked * shares * seconds, count)
        mean = max(float(loads.mean()), 1e-12)
        price = (loads / mean) ** _power + _idle
        if step:
            shares = shares * (price[nodes] * seconds) ** -step
    costs = _sums(parts, shares * price[nodes] * seconds, len(traffic))
    return Spread(nodes, seconds, asked * shares, order, starts, loads, price, costs, mean)


def _sums(at: NDArray[np.int64], values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """[count] the values at each place, together."""
    return np.asarray(np.bincount(at, values, count), np.float64)
