"""Which nodes take which layers of a model, by what they hold: an even split. Pure.

The fewest stages that cover all layers, but two where there are two nodes; of those who can take the next layers,
whoever takes most of an even share, then who holds least else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from blyan.primitives.ids import PublicKey
from blyan.wire.stage_call import Hop


class Candidate(NamedTuple):
    """A node, and the layers that it could compute."""

    node: PublicKey
    layers: frozenset[int]


def even_split(layers: int, nodes: Sequence[Candidate]) -> tuple[Hop, ...] | None:
    """Stages that cover all layers in order; None where that cannot be."""
    for count in [*range(2, len(nodes) + 1), 1]:
        found = _covered(layers, nodes, count)
        if found is not None:
            return found
    return None


def _covered(layers: int, nodes: Sequence[Candidate], count: int) -> tuple[Hop, ...] | None:
    left = list(nodes)
    hops: list[Hop] = []
    begin = 0
    while begin < layers and len(hops) < count and left:
        share = -(-(layers - begin) // (count - len(hops)))
        lengths = {each.node: _reach(each.layers, begin, begin + share) - begin for each in left}
        best = min(left, key=lambda each: (-lengths[each.node], len(each.layers), each.node))
        if not lengths[best.node]:
            return None
        left.remove(best)
        hops.append(Hop(best.node, begin, begin + lengths[best.node]))
        begin = hops[-1].end
    return tuple(hops) if begin == layers else None


def _reach(held: frozenset[int], begin: int, end: int) -> int:
    """Up to where layers from `begin` on are held without a gap, no further than `end`."""
    while begin < end and begin in held:
        begin += 1
    return begin
