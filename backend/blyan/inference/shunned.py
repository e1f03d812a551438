"""Stages that are not taken for a while, because they were lost or would not: who is left out first, who last. Pure.

Ways between two stages too, where one of them says that the other is not to be reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

from blyan.primitives.ids import PublicKey

_seconds: Final = 5.0
_nobody: Final = frozenset[PublicKey]()


class _Shunned(NamedTuple):
    since: float
    lost: bool  # else it answered that it would not


@dataclass(slots=True)
class Shunned:
    """Of one lead. `now` is the monotonic clock's."""

    _nodes: dict[PublicKey, _Shunned] = field(default_factory=dict[PublicKey, _Shunned])
    _ways: dict[tuple[PublicKey, PublicKey], float] = field(
        default_factory=dict["tuple[PublicKey, PublicKey]", float]
    )  # since when

    def add(self, node: PublicKey, now: float, *, lost: bool) -> None:
        """Leave a node out for a while."""
        self._nodes.pop(node, None)
        self._nodes[node] = _Shunned(now, lost)

    def add_way(self, begin: PublicKey, end: PublicKey, now: float) -> None:
        """Take no route on which one passes on to the other, for a while. Neither is left out for it."""
        self._ways[begin, end] = now

    def goes(self, nodes: Sequence[PublicKey], now: float) -> bool:
        """Whether no way of a route is left out."""
        self._ways = {way: since for way, since in self._ways.items() if since + _seconds > now}
        return not any(way in self._ways for way in pairwise(nodes))

    def linked(self, node: PublicKey, since: float) -> None:
        """The link to a node came up then: what was before is over."""
        if node in self._nodes and since > self._nodes[node].since:
            del self._nodes[node]

    def nodes(self, now: float) -> tuple[PublicKey, ...]:
        """Those that are left out now."""
        self._nodes = {node: each for node, each in self._nodes.items() if each.since + _seconds > now}
        return tuple(self._nodes)

    def sets(self, now: float) -> list[frozenset[PublicKey]]:
        """Whom to do without, as far as that goes: all of them, those that were lost, fewer of these, nobody.

        Who was lost long ago is taken again before who was lost just now. Where a way is left out, each also without
        one of its ends, for there may be a route that has the other.
        """
        everybody = self.nodes(now)
        lost = [node for node in everybody if self._nodes[node].lost]
        left = [frozenset(everybody), *(frozenset(lost[at:]) for at in range(len(lost) + 1))]
        ends = [node for way, since in self._ways.items() if since + _seconds > now for node in way]
        return list(dict.fromkeys(each | other for each in left for other in (_nobody, *({end} for end in ends))))
