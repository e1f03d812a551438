"""The nodes of a registry: each with an index that stays while it is alive, and the conduct of some that are gone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from blyan.inference.claims import Claims
from blyan.inference.scoring import Rules, Usual, hedge_after, score, steady
from blyan.inference.snapshot import NodeView, Rank
from blyan.network.breaker import Breaker
from blyan.network.measurements import Measured
from blyan.network.reputation import Reputation
from blyan.primitives.ids import PublicKey
from blyan.wire.peer import Summary

_past_min: Final = 64  # that are gone and remembered at least; else as many as are alive


@dataclass(slots=True)
class KnownNode:
    """What is known of one node, measurements aside."""

    summary: Summary
    index: int
    breaker: Breaker = field(default_factory=Breaker)
    reputation: Reputation = field(default_factory=Reputation)
    claims: Claims = field(default_factory=Claims)
    view: NodeView | None = None
    viewed: float = float("-inf")  # when `view` was made

    def look(self, measured: Measured, linked: bool, usual: Usual, age: float, now: float, rules: Rules) -> bool:
        """Make `view` anew; whether plans could come out differently."""
        before = self.view
        bound = self.reputation.lower_bound(now, rules.reputation)
        state = self.breaker.state(now, rules.breaker)
        self.viewed = now
        self.view = NodeView(
            self.summary.node,
            self.summary.boot,
            self._rank(bound, linked, now, rules),
            steady(before and before.score, score(measured, usual, age, now, rules)),
            steady(before and before.hedge_after, hedge_after(measured, usual, rules)),
            self.summary.draining,
            state,
            bound,
            measured,
        )
        return before is None or _planned(before) != _planned(self.view)

    def _rank(self, bound: float, linked: bool, now: float, rules: Rules) -> Rank:
        state = self.breaker.state(now, rules.breaker)
        if not linked:
            return Rank.unreachable
        if state != "closed":
            return Rank.probe if state == "half-open" else Rank.broken
        if bound < rules.reputation.gate:
            return Rank.doubtful
        if self.summary.draining:
            return Rank.draining
        return Rank.newcomer if self.reputation.newcomer(rules.reputation) else Rank.proven


def _planned(view: NodeView) -> tuple[object, ...]:
    return view.boot, view.rank, view.score, view.hedge_after


class KnownNodes:
    """By key. Indices are small numbers, those of nodes that went are given again."""

    def __init__(self, forgotten: Callable[[PublicKey], None]) -> None:
        self._forgotten = forgotten  # called with each node of which nothing is kept any more
        self._nodes: dict[PublicKey, KnownNode] = {}
        self._past: dict[PublicKey, KnownNode] = {}

    def __iter__(self) -> Iterator[KnownNode]:
        return iter(self._nodes.values())

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, node: PublicKey) -> KnownNode | None:
        """A node that is alive."""
        return self._nodes.get(node)

    def take(self, summaries: Iterable[Summary]) -> tuple[list[KnownNode], list[KnownNode]]:
        """The live ones now, all of them: those with another summary than before, and those that went."""
        live = {summary.node: summary for summary in summaries}
        gone = [known for node, known in self._nodes.items() if node not in live]
        for known in gone:
            del self._nodes[known.summary.node]
            self._past[known.summary.node] = known
        changed: list[KnownNode] = []
        free = iter(sorted(set(range(len(live))) - {known.index for known in self}))
        for node, summary in live.items():
            known = self._nodes.get(node)
            if known is None:
                known = self._nodes[node] = self._back(summary, next(free))
            elif known.summary is summary:
                continue
            known.summary = summary
            changed.append(known)
        while len(self._past) > max(_past_min, len(live)):
            forgotten = next(iter(self._past))
            del self._past[forgotten]
            self._forgotten(forgotten)
        return changed, gone

    def views(self) -> tuple[NodeView | None, ...]:
        """By index."""
        views: list[NodeView | None] = [None] * (max((known.index for known in self), default=-1) + 1)
        for known in self:
            views[known.index] = known.view
        return tuple(views)

    def _back(self, summary: Summary, index: int) -> KnownNode:
        """A node that came, with its conduct if it was here before."""
        past = self._past.pop(summary.node, None)
        if past is None:
            return KnownNode(summary, index)
        past.claims.held.clear()
        return KnownNode(summary, index, past.breaker, past.reputation, past.claims)
