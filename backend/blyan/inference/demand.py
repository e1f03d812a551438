"""What the parts of a swarm's models are used for, and how fast each node would compute them, as far as is known. Pure.

A node keeps in its fastest memory what it is asked for most, and is asked for most what it computes fastest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from blyan.inference.spread import Spread, spread
from blyan.primitives.ids import PublicKey

Part = TypeVar("Part", int, str)

rate_heat: Final = 0.01  # what a part is used elsewhere, beside the calls that come


@dataclass(frozen=True, slots=True)
class Tier:
    """Room of one kind of memory of a node."""

    name: str  # GPU, memory, disk
    bytes: int
    speed: float  # rows computed a second with experts from there, in any one unit


@dataclass(frozen=True, slots=True, eq=False)
class Demand(Generic[Part]):
    """What parts are used for, as far as is known, and who could compute it how fast."""

    index: Mapping[Part, int]  # of each part in the arrays
    traffic: NDArray[np.float64]  # [parts] rows a second
    partners: NDArray[np.int64]  # [parts, few] used by the same tokens
    company: NDArray[np.float64]  # [parts, few] how often a token that uses the part uses that one too, 0 to 1
    nodes: Mapping[PublicKey, int]  # all that are known, the one that asks included
    spread: Spread

    rows: Mapping[PublicKey, Mapping[Part, float]]  # a second, that each is expected to compute of what it holds

    def rate(self, part: Part) -> float:
        """Rows a second of one part."""
        at = self.index.get(part)
        return 0.0 if at is None else float(self.traffic[at])

    def heat(self, node: PublicKey, part: Part) -> float:
        """By which it finds its tier there: calls that come to that node. All of them for a part that is new there."""
        rate = self.rate(part)
        return self.rows.get(node, {}).get(part, rate) + rate_heat * rate


def demand_for(
    index: Mapping[Part, int],
    traffic: NDArray[np.float64],
    together: tuple[NDArray[np.int64], NDArray[np.float64]],
    nodes: Mapping[PublicKey, tuple[Sequence[Tier], Mapping[Part, int]]],
    before: Demand[Part] | None = None,
) -> Demand[Part] | None:
    """From the memory of all nodes and the bytes of each part that they are known to hold; None without traffic.

    `before`: what was found a while ago. A node keeps in its fastest memory what is called there most, which is what
    then goes there: so it comes to rest over some looks, as the nodes themselves do.
    """
    if not traffic.any():
        return None
    places = {node: at for at, node in enumerate(nodes)}
    pairs: list[tuple[Part, PublicKey, float]] = []
    rate: list[float] = traffic.tolist()
    for node, (tiers, sizes) in nodes.items():
        came: Mapping[Part, float] = (
            dict[Part, float]() if before is None else before.rows.get(node, dict[Part, float]())
        )
        rates = {part: rate[index[part]] for part in sizes}
        heat = {part: came.get(part, each) + rate_heat * each for part, each in rates.items()}
        pairs.extend((part, node, speed) for part, speed in speeds(tiers, sizes, heat).items())
    found = spread(
        np.array([index[part] for part, _, _ in pairs], np.int64),
        np.array([places[node] for _, node, _ in pairs], np.int64),
        np.array([speed for _, _, speed in pairs], np.float64),
        traffic,
        len(nodes),
    )
    rows: dict[PublicKey, dict[Part, float]] = {node: {} for node in nodes}
    for (part, node, _), each in zip(pairs, found.rows.tolist(), strict=True):
        rows[node][part] = each
    return Demand(index, traffic, *together, places, found, rows)


def in_tiers(tiers: Sequence[Tier], sizes: Mapping[Part, int], traffic: Mapping[Part, float]) -> dict[Part, Tier]:
    """Where each of a node's parts belongs: those most used for each byte in the fastest tier that has room.

    Parts for which there is no room are left out.
    """
    left = [tier.bytes for tier in tiers]
    found: dict[Part, Tier] = {}
    for part in sorted(sizes, key=lambda part: -traffic.get(part, 0.0) / sizes[part]):
        for place, tier in enumerate(tiers):
            if sizes[part] <= left[place]:
                left[place] -= sizes[part]
                found[part] = tier
                break
    return found


def speeds(tiers: Sequence[Tier], sizes: Mapping[Part, int], traffic: Mapping[Part, float]) -> dict[Part, float]:
    """Rows a second that a node computes of each of its parts; a part without room counts as in the last tier."""
    placed = in_tiers(tiers, sizes, traffic)
    return {part: placed.get(part, tiers[-1]).speed for part in sizes}
