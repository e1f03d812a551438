"""Which node holds which expert, and how each does: everything that a gateway knows of its peers.

Claims come from live summaries, everything else from what the caller saw. Only one thread uses a registry; a snapshot
may be read anywhere. Scores are published with hysteresis, so that noise does not make a new snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray

from blyan.inference.scoring import Rules, Usual, hedge_after, score, steady, unmeasured_s
from blyan.inference.snapshot import ExpertGrid, Holders, NodeView, Rank, RegistrySnapshot
from blyan.network import reputation as reputations
from blyan.network.breaker import Breaker
from blyan.network.gossip import SummaryTable
from blyan.network.measurements import Failure, Measurements
from blyan.network.reputation import Reputation
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.wire.peer import Summary

_doubtings_max: Final = 8  # after so many contradicted summaries the wait doubles no more
_past_min: Final = 64  # nodes that are gone whose conduct is remembered at least, else as many as are here


@dataclass(frozen=True, slots=True)
class Standing:
    """What bears on the traffic of one node (see `inference/reasons`)."""

    view: NodeView
    breaker: Breaker
    holds: Mapping[PayloadId, int]  # how many experts of each model that is served
    doubted: frozenset[PayloadId]  # models of which it has not what it said
    elsewhere: bool  # a link is up, to another process of the same key


@dataclass(slots=True)
class _Doubt:
    """Claims of one node on one model that turned out untrue."""

    bits: int
    boot: str
    sequence: int  # of the newest summary that was contradicted
    until: float
    times: int


@dataclass(slots=True)
class _Node:
    index: int
    summary: Summary
    breaker: Breaker = field(default_factory=Breaker)
    reputation: Reputation = field(default_factory=Reputation)
    view: NodeView | None = None
    viewed: float = float("-inf")
    doubts: dict[PayloadId, _Doubt] = field(default_factory=dict[PayloadId, _Doubt])
    held: dict[PayloadId, bytes] = field(default_factory=dict[PayloadId, bytes])  # as in the snapshot


class Registry:
    """See the module. `now` is a monotonic clock's, `draw` a number in [0, 1)."""

    def __init__(
        self,
        table: SummaryTable,
        own: PublicKey | None = None,
        rules: Rules | None = None,
        measurements: Measurements | None = None,
    ) -> None:
        self.table = table
        self.measurements = measurements or Measurements()
        self._own = own
        self._rules = rules or Rules()
        self._nodes: dict[PublicKey, _Node] = {}
        self._past: dict[PublicKey, _Node] = {}  # of nodes that are gone: what is known of their conduct
        self._links: dict[PublicKey, dict[str, int]] = {}  # boots and how many links each has
        self._holders: dict[PayloadId, Holders] = {}
        self._dirty: set[PublicKey] = set()
        self._urgent = True
        self._refreshed = float("-inf")
        self._version = 0
        self._typical = unmeasured_s
        self._rows = 8.0  # of a usual call
        self._snapshot: RegistrySnapshot | None = None

    # What is asked of it

    def serve(self, manifest: PayloadId, grid: ExpertGrid) -> None:
        """Plans for this model will be asked; holders of other models are not kept."""
        if manifest not in self._holders:
            self._holders[manifest] = Holders.nobody(grid)
            for known in self._nodes.values():
                known.held.pop(manifest, None)
                known.viewed = float("-inf")
            self._urgent = True

    def drop(self, manifest: PayloadId) -> None:
        """No more plans for this model."""
        if self._holders.pop(manifest, None) is not None:
            self._urgent = True

    def snapshot(self, now: float) -> RegistrySnapshot:
        """What plans read. The same object while nothing changed that matters to them."""
        if self._snapshot is None or self._urgent or now - self._refreshed >= self._rules.refresh_s:
            self._refresh(now)
        assert self._snapshot is not None, "a refresh makes one"
        return self._snapshot

    # What its owner saw

    def linked(self, summary: Summary, now: float) -> None:
        """One more link to this process is up: its handshake brought this."""
        self.heard(summary, now)
        if summary.node != self._own:
            boots = self._links.setdefault(summary.node, {})
            boots[summary.boot] = boots.get(summary.boot, 0) + 1
            self._urgent = True

    def heard(self, summary: Summary, now: float) -> bool:
        """The node itself said this over a link that is up, or this node of itself; whether it was news."""
        self._dirty.add(summary.node)
        return self.table.linked(summary, now)

    def unlinked(self, node: PublicKey, boot: str) -> None:
        """One link to it is gone; whether that is a fault is said with `failed(node, "lost", ...)`."""
        boots = self._links.get(node, {})
        if boot not in boots:
            return
        boots[boot] -= 1
        if boots[boot] <= 0:
            del boots[boot]
            self.table.unlinked(node, boot)
            self._dirty.add(node)
            self._urgent = True
        if not boots:
            del self._links[node]

    def began(self, node: PublicKey, rows: int, now: float) -> None:
        """A message with so many rows was sent to it."""
        self.measurements.call_began(node, rows)
        known = self._nodes.get(node)
        if known is not None and known.breaker.since is not None:
            self._set_breaker(known, known.breaker.probed(now))
        self._dirty.add(node)

    def answered(self, node: PublicKey, rows: int, seconds: float, sent: int, now: float) -> None:
        """It answered, and the answer was verified; `sent` bytes there and back."""
        self.measurements.call_ended(node, rows, seconds, sent, now)
        self._rows += 0.05 * (rows - self._rows)
        self._judge(node, "good", now)
        known = self._nodes.get(node)
        if known is not None:
            self._set_breaker(known, known.breaker.succeeded(now))

    def outrun(self, node: PublicKey, rows: int, seconds: float, now: float) -> None:
        """Another answered first, after this one had so many seconds and its answer is not waited for any more."""
        self.measurements.outrun(node, rows, seconds, now)
        self._dirty.add(node)

    def failed(self, node: PublicKey, kind: Failure, rows: int, now: float, draw: float) -> None:
        """A message of so many rows (0: none) failed: see `Failure`."""
        self.measurements.call_dropped(node, rows)
        self.measurements.failed(node, kind, now)
        if kind != "not_held":
            self._judge(node, kind, now)
        known = self._nodes.get(node)
        if known is not None:
            self._set_breaker(known, known.breaker.failed(kind, now, draw, self._rules.breaker))
        self._dirty.add(node)

    def not_held(self, node: PublicKey, manifest: PayloadId, layer: int, expert: int, now: float) -> None:
        """It said that it has not what its summary says: it is not asked for that until a newer one says so again.

        And not before some seconds, which double with each summary that turns out untrue.
        """
        known, model = self._nodes.get(node), self._holders.get(manifest)
        first = None if model is None else model.first.get(layer)
        if known is None or model is None or first is None or not 0 <= expert < model.grid.experts:
            return
        number, summary, rules = first + expert, known.summary, self._rules
        held = known.held.get(manifest, b"")
        if number >> 3 >= len(held) or not held[number >> 3] >> (number & 7) & 1:
            return  # it does not say so, or not any more
        doubt = known.doubts.get(manifest)
        if doubt is None or (doubt.boot, doubt.sequence) != (summary.boot, summary.sequence):
            times = 1 if doubt is None else min(doubt.times + 1, _doubtings_max)
            until = now + min(rules.doubt_max_s, rules.doubt_s * 2.0 ** (times - 1))
            bits = doubt.bits if doubt is not None and now < doubt.until else 0
            known.doubts[manifest] = doubt = _Doubt(bits, summary.boot, summary.sequence, until, times)
            self._judge(node, "not_held", now)
        doubt.bits |= 1 << number
        self._dirty.add(node)
        self._urgent = True

    def pinged(self, node: PublicKey, seconds: float, now: float) -> None:
        """A ping came back."""
        self.measurements.ping(node, seconds, now)
        self._dirty.add(node)

    # What people ask

    def views(self, now: float) -> tuple[NodeView, ...]:
        """All nodes that are alive, for a status page."""
        return tuple(view for view in self.snapshot(now).nodes if view is not None)

    def standing(self, node: PublicKey, now: float) -> Standing | None:
        """All that bears on the traffic of one node; None when nothing was heard of it lately."""
        self.snapshot(now)
        known = self._nodes.get(node)
        if known is None or known.view is None:
            return None
        holds = {manifest: int.from_bytes(raw, "little").bit_count() for manifest, raw in known.held.items()}
        doubted = frozenset(manifest for manifest, doubt in known.doubts.items() if doubt.bits)
        elsewhere = known.view.boot not in self._links.get(node, ()) and bool(self._links.get(node))
        return Standing(known.view, known.breaker, holds, doubted, elsewhere)

    def replicas(self, manifest: PayloadId, now: float) -> NDArray[np.int64] | None:
        """How many live nodes that are not draining say that they hold each expert [experts]; None if not served."""
        snapshot = self.snapshot(now)
        model = snapshot.models.get(manifest)
        alive = np.array([view is not None and not view.draining for view in snapshot.nodes], dtype=np.bool_)
        return None if model is None else model.counts(alive)

    # How it is kept

    def _judge(self, node: PublicKey, event: reputations.Event, now: float) -> None:
        known = self._nodes.get(node)
        if known is not None:
            known.reputation = known.reputation.after(event, now, self._rules.reputation)
            self._dirty.add(node)

    def _set_breaker(self, known: _Node, breaker: Breaker) -> None:
        if breaker is not known.breaker:
            self._urgent |= (breaker.since, breaker.probing) != (known.breaker.since, known.breaker.probing)
            known.breaker = breaker
            self._dirty.add(known.summary.node)

    def _refresh(self, now: float) -> None:
        self._refreshed, self._urgent = now, False
        said: dict[PayloadId, dict[int, bytes]] = {}
        changed = self._take_summaries(now, said)
        self._measure_typical()
        for node, known in self._nodes.items():
            idle = node not in self._dirty and known.breaker.since is None
            if idle and now - known.viewed < self._rules.review_s:
                continue
            for manifest, bits in self._held(known, now).items():
                if known.held.get(manifest) != bits:
                    known.held[manifest] = bits
                    said.setdefault(manifest, {})[known.index] = bits
            view = self._view(known, now)
            changed |= known.view is None or _differs(known.view, view)
            known.view, known.viewed = view, now
        self._dirty.clear()
        for manifest, bitmaps in said.items():
            if manifest in self._holders:
                self._holders[manifest] = self._holders[manifest].with_nodes(bitmaps)
        models = self._snapshot.models if self._snapshot else None
        if changed or said or models is None or models.keys() != self._holders.keys():
            self._publish(now)

    def _measure_typical(self) -> None:
        rows = round(self._rows)
        views = (known.view for known in self._nodes.values() if known.view is not None)
        expected = [seconds for view in views if (seconds := view.measured.expected_s(rows)) is not None]
        self._typical = median(expected) if expected else unmeasured_s

    def _publish(self, now: float) -> None:
        views: list[NodeView | None] = [None] * (max((known.index for known in self._nodes.values()), default=-1) + 1)
        for known in self._nodes.values():
            views[known.index] = known.view
        self._version += 1
        self._snapshot = RegistrySnapshot(self._version, now, tuple(views), dict(self._holders))

    def _take_summaries(self, now: float, said: dict[PayloadId, dict[int, bytes]]) -> bool:
        """Bring the nodes in line with the live summaries; whether one came or went. `said`: holdings that changed."""
        live = {summary.node: summary for summary in self.table.live(now) if summary.node != self._own}
        gone = self._nodes.keys() - live.keys()
        for node in gone:
            known = self._nodes.pop(node)
            for manifest in known.held:
                said.setdefault(manifest, {})[known.index] = b""
            self._past[node] = known
            while len(self._past) > max(_past_min, len(live)):
                forgotten = next(iter(self._past))
                del self._past[forgotten]
                self.measurements.forget(forgotten)
        come = False
        free = iter(sorted(set(range(len(live))) - {known.index for known in self._nodes.values()}))
        for node, summary in live.items():
            known = self._nodes.get(node)
            if known is None:
                come = True
                past = self._past.pop(node, None)
                index = next(free)
                self._nodes[node] = known = replace(past, index=index) if past else _Node(index, summary)
                known.view, known.held = None, {}
            elif known.summary is summary:
                continue
            known.summary = summary
            self._dirty.add(node)
        return come or bool(gone)

    def _held(self, known: _Node, now: float) -> Mapping[PayloadId, bytes]:
        """What is believed of its claims, of the models that are served."""
        found: dict[PayloadId, bytes] = {}
        for manifest, model in self._holders.items():
            holding = known.summary.holdings.get(manifest)
            raw = b"" if holding is None else holding.experts[: (model.grid.count + 7) >> 3]
            doubt = known.doubts.get(manifest)
            if doubt is not None:
                newer = (known.summary.boot, known.summary.sequence) != (doubt.boot, doubt.sequence)
                if newer and now >= doubt.until:
                    doubt.bits = 0
                raw = (int.from_bytes(raw, "little") & ~doubt.bits).to_bytes(len(raw), "little")
            found[manifest] = raw
        return found

    def _view(self, known: _Node, now: float) -> NodeView:
        rules, summary = self._rules, known.summary
        measured = self.measurements.of(summary.node)
        bound = known.reputation.lower_bound(now, rules.reputation)
        state = known.breaker.state(now, rules.breaker)
        if summary.boot not in self._links.get(summary.node, {}):
            rank = Rank.unreachable
        elif state != "closed":
            rank = Rank.probe if state == "half-open" else Rank.broken
        elif bound < rules.reputation.gate:
            rank = Rank.doubtful
        elif summary.draining:
            rank = Rank.draining
        else:
            rank = Rank.newcomer if known.reputation.newcomer(now, rules.reputation) else Rank.proven
        before = known.view
        usual = Usual(self._typical, round(self._rows))
        age = self.table.age(summary.node, now) or 0.0
        return NodeView(
            summary.node,
            summary.boot,
            rank,
            steady(before and before.score, score(measured, usual, age, now, rules)),
            steady(before and before.hedge_after, hedge_after(measured, usual, rules)),
            summary.draining,
            state,
            bound,
            measured,
        )


def _differs(before: NodeView, after: NodeView) -> bool:
    """Whether plans could come out differently."""
    return (before.boot, before.rank, before.score, before.hedge_after) != (
        after.boot,
        after.rank,
        after.score,
        after.hedge_after,
    )
