"""Stages that are not taken for a while, because they were lost or would not: who is left out first, who last. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from blyan.primitives.ids import PublicKey

_seconds: Final = 5.0


class _Shunned(NamedTuple):
    since: float
    lost: bool  # else it answered that it would not


@dataclass(slots=True)
class Shunned:
    """Of one lead. `now` is the monotonic clock's."""

    _nodes: dict[PublicKey, _Shunned] = field(default_factory=dict[PublicKey, _Shunned])

    def add(self, node: PublicKey, now: float, *, lost: bool) -> None:
        """Leave a node out for a while."""
        self._nodes.pop(node, None)
        self._nodes[node] = _Shunned(now, lost)

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

        Who was lost long ago is taken again before who was lost just now.
        """
        everybody = self.nodes(now)
        lost = [node for node in everybody if self._nodes[node].lost]
        left = [frozenset(lost[at:]) for at in range(len(lost) + 1)]
        return list(dict.fromkeys([frozenset(everybody), *left]))
