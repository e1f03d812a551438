"""Which node holds which expert, and how each does: everything that a gateway knows of its peers.

Claims come from live summaries, everything else from what the caller saw. Only one thread uses a registry; a snapshot
may be read anywhere. Scores are published with hysteresis, so that noise does not make a new snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from statistics import median

from blyan.inference.known_nodes import KnownNode, KnownNodes
from blyan.inference.scoring import Rules, Usual, unmeasured_s
from blyan.inference.snapshot import ExpertGrid, Holders, NodeView, RegistrySnapshot
from blyan.network import reputation as reputations
from blyan.network.breaker import Breaker
from blyan.network.gossip import SummaryTable
from blyan.network.measurements import Failure, Measurements, forget_s
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.wire.peer import Summary


@dataclass(frozen=True, slots=True)
class Standing:
    """What bears on the traffic of one node (see `inference/reasons`)."""

    view: NodeView
    breaker: Breaker
    holds: Mapping[PayloadId, int]  # how many experts of each model that is served
    doubted: frozenset[PayloadId]  # models of which it has not what it said
    elsewhere: bool  # a link is up, to another process of the same key


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
        self._nodes = KnownNodes(self.measurements.forget)
        self._links: dict[PublicKey, dict[str, int]] = {}  # boots and how many links each has
        self._holders: dict[PayloadId, Holders] = {}
        self._dirty: set[PublicKey] = set()
        self._urgent = True  # plans would ask whom they cannot, or not whom they can
        self._unsaid = False  # plans would ask somebody who answers at once that he has it not
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
            for known in self._nodes:
                known.claims.held.pop(manifest, None)
                known.viewed = float("-inf")
            self._urgent = True

    def drop(self, manifest: PayloadId) -> None:
        """No more plans for this model."""
        if self._holders.pop(manifest, None) is not None:
            self._urgent = True

    def snapshot(self, now: float) -> RegistrySnapshot:
        """What plans read. The same object while nothing changed that matters to them."""
        soon = len(self._nodes) * self._rules.unsaid_s if self._unsaid else self._rules.refresh_s
        if self._snapshot is None or self._urgent or now - self._refreshed >= min(soon, self._rules.refresh_s):
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

    def answered(self, node: PublicKey, rows: int, seconds: float, sent: int, now: float, opened: bool = False) -> None:
        """It answered, verified; `sent` bytes both ways. 0 rows: no call. `opened`: see `Measurements.call_ended`."""
        known = self._nodes.get(node)
        if known is not None:
            opened |= rows > 0 and _came_back(known, self.measurements, now)
            self._set_breaker(known, known.breaker.succeeded(now))
        if rows:
            self.measurements.call_ended(node, rows, seconds, sent, now, opened=opened)
            self._rows += 0.05 * (rows - self._rows)
        self._judge(node, "good", now)

    def outrun(self, node: PublicKey, rows: int, seconds: float, now: float) -> None:
        """Another answered first, after this one had so many seconds; once it is not waited for: `dropped` too."""
        self.measurements.outrun(node, rows, seconds, now)
        self._dirty.add(node)

    def dropped(self, node: PublicKey, rows: int) -> None:
        """A message that was sent is not waited for any more, for no fault of the node."""
        self.measurements.call_dropped(node, rows)
        known = self._nodes.get(node)
        if known is not None and known.breaker.probing is not None:
            self._set_breaker(known, known.breaker.unprobed())
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
        """It answered that it has not what its summary says (see `claims`)."""
        known, model = self._nodes.get(node), self._holders.get(manifest)
        first = None if model is None else model.first.get(layer)
        if known is None or model is None or first is None or not 0 <= expert < model.grid.experts:
            return
        number, rules = first + expert, self._rules
        if not known.claims.has(manifest, number):
            return  # it does not say so, or not any more
        if known.claims.contradict(known.summary, manifest, number, now, rules.doubt_s, rules.doubt_max_s):
            self._judge(node, "not_held", now)
        self._dirty.add(node)
        self._unsaid = True

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
        return _standing(known, known.view, self._links.get(node, {}))

    def is_proven(self, node: PublicKey) -> bool:
        """Whether it is alive, and enough of its answers held for it to be no newcomer."""
        return (known := self._nodes.get(node)) is not None and not known.reputation.newcomer(self._rules.reputation)

    # How it is kept

    def _judge(self, node: PublicKey, event: reputations.Event, now: float) -> None:
        known = self._nodes.get(node)
        if known is not None:
            known.reputation = known.reputation.after(event, now, self._rules.reputation)
            self._dirty.add(node)

    def _set_breaker(self, known: KnownNode, breaker: Breaker) -> None:
        if breaker is not known.breaker:
            self._urgent |= (breaker.since, breaker.probing) != (known.breaker.since, known.breaker.probing)
            known.breaker = breaker
            self._dirty.add(known.summary.node)

    def _refresh(self, now: float) -> None:
        self._refreshed, self._urgent, self._unsaid = now, False, False
        said: dict[PayloadId, dict[int, bytes]] = {}
        news, gone = self._nodes.take(each for each in self.table.live(now) if each.node != self._own)
        for known in gone:
            for manifest in known.claims.held:
                said.setdefault(manifest, {})[known.index] = b""
        self._dirty.update(known.summary.node for known in news)
        self._typical = _typical(self._nodes, round(self._rows), now)
        changed = bool(gone)
        counts = {manifest: model.grid.count for manifest, model in self._holders.items()}
        for known in self._nodes:
            node, recent = known.summary.node, now - known.viewed < self._rules.review_s
            if recent and node not in self._dirty and known.breaker.since is None:
                continue
            for manifest, bits in known.claims.believe(known.summary, counts, now).items():
                said.setdefault(manifest, {})[known.index] = bits
            linked = known.summary.boot in self._links.get(node, ())
            usual = Usual(self._typical, round(self._rows))
            age = self.table.age(node, now) or 0.0
            changed |= known.look(self.measurements.of(node), linked, usual, age, now, self._rules)
        self._dirty.clear()
        for manifest in said.keys() & self._holders.keys():
            self._holders[manifest] = self._holders[manifest].with_nodes(said[manifest])
        if changed or said or self._snapshot is None or self._snapshot.models.keys() != self._holders.keys():
            self._version += 1
            self._snapshot = RegistrySnapshot(self._version, now, self._nodes.views(), dict(self._holders))


def _typical(nodes: KnownNodes, rows: int, now: float) -> float:
    """Seconds of a usual call at the middle one of the nodes that were called lately, or of all if that is less.

    What nodes took while they began, and were not asked again for, would else stand for what is usual.
    """
    measured = [known.view.measured for known in nodes if known.view is not None]
    expected = [(each.expected_s(rows), each.last_call) for each in measured]
    every = [seconds for seconds, _ in expected if seconds is not None]
    lately = [seconds for seconds, last in expected if seconds is not None and now - (last or -inf) < forget_s]
    return min(median(every), median(lately or every)) if every else unmeasured_s


def _standing(known: KnownNode, view: NodeView, boots: Mapping[str, int]) -> Standing:
    elsewhere = view.boot not in boots and bool(boots)
    return Standing(view, known.breaker, known.claims.counts(), known.claims.doubted(), elsewhere)


def _came_back(known: KnownNode, measurements: Measurements, now: float) -> bool:
    """Whether it was away, and this answer ends that: it counts by what its calls take from now on."""
    if known.breaker.since is None or known.breaker.succeeded(now).since is not None:
        return False
    measurements.anew(known.summary.node)
    return True
