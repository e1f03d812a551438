"""Which nodes take which layers of a model, by what they hold, and which layers a node should hold. Pure.

An even split: the fewest stages that cover all layers, but two where there are two nodes; of those who can take the
next layers, whoever takes most of an even share, then who holds least else.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from blyan.primitives.ids import PublicKey
from blyan.wire.stage_shapes import Hop


class Candidate(NamedTuple):
    """A node, and the layers that it could compute."""

    node: PublicKey
    layers: frozenset[int]


def even_split(layers: int, nodes: Sequence[Candidate], lead: Candidate | None = None) -> tuple[Hop, ...] | None:
    """Stages that cover all layers in order; None where that cannot be.

    What the lead holds of the first layers it computes itself, an even share of them if others take the rest.
    """
    held = 0 if lead is None else _reach(lead.layers, 0, layers)
    even = min(held, -(-layers // 2)) if nodes else held
    for own in [*range(even, held + 1), *range(even - 1, -1, -1)]:
        rest = _split(own, layers, nodes)
        if rest is not None:
            return (*((Hop(lead.node, 0, own),) if lead is not None and own else ()), *rest)
    return None


def _split(begin: int, layers: int, nodes: Sequence[Candidate]) -> tuple[Hop, ...] | None:
    """Stages from a layer on: the fewest, but two where nobody has computed before."""
    if begin == layers:
        return () if begin else None
    least = 1 if begin else 2
    for count in [*range(least, len(nodes) + 1), *range(1, least)]:
        for most in ((layers - begin) // max(1, count) + 1, layers):  # an even share, else as much as is held
            found = _covered(begin, layers, nodes, count, most)
            if found is not None:
                return found
    return None


def _covered(begin: int, layers: int, nodes: Sequence[Candidate], count: int, most: int) -> tuple[Hop, ...] | None:
    left = list(nodes)
    hops: list[Hop] = []
    while begin < layers and len(hops) < count and left:
        share = max(-(-(layers - begin) // (count - len(hops))), 0 if most < layers else most)
        lengths = {each.node: _reach(each.layers, begin, min(layers, begin + share)) - begin for each in left}
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


def layers_to_hold(sizes: Sequence[int], others: Sequence[int], held: Collection[int], room: int, draw: float) -> range:
    """The layers without a gap that a stage should hold: as many as fit `room` bytes.

    `sizes` are bytes of each layer, `others` how many other nodes hold it, `draw` in [0, 1) decides between equals.
    What is held already stays while others lack it, or nothing is lacked by all.
    """
    spans = [_fitting(sizes, begin, room) for begin in range(len(sizes))]
    spans = [span for span in spans if len(span)]
    if not spans:
        return range(0)
    lacked = {layer for layer, count in enumerate(others) if not count and layer not in held}
    needed = {layer for layer in held if not others[layer]}
    kept = needed if lacked else set(held)
    able = [span for span in spans if kept <= set(span)] or spans
    best = max(_worth(span, others, kept) for span in able)
    equal = [span for span in able if _worth(span, others, kept) == best]
    return equal[int(draw * len(equal))]


def _fitting(sizes: Sequence[int], begin: int, room: int) -> range:
    end = begin
    while end < len(sizes) and sizes[end] <= room:
        room -= sizes[end]
        end += 1
    return range(begin, end)


def _worth(span: range, others: Sequence[int], kept: Collection[int]) -> tuple[int, int, int, int]:
    """What is kept first, then what nobody else has, then ends that leave no hole, then many."""
    joined = (span.start == 0 or bool(others[span.start - 1])) + (span.stop == len(others) or bool(others[span.stop]))
    return sum(layer in kept for layer in span), sum(not others[layer] for layer in span), joined, len(span)
