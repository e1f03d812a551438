"""What this node knows of its swarm, as values for people: for routes, the command line and metrics.

Read in the network's loop (`Peering.ask`). What a peer says of itself is in its summary; every number beside it was
measured here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from blyan.inference.executor import ExecutorCounters
from blyan.inference.expert_host import HostCounters
from blyan.inference.moves import Direction, Why
from blyan.inference.plan import CallSpec, ExpertPlan, plan_experts
from blyan.inference.reasons import Reason, explain
from blyan.inference.registry import Standing
from blyan.inference.snapshot import NodeView, Rank
from blyan.inference.stage_calls import LeadCounters, PeerCounters
from blyan.inference.stage_host import StageCounters
from blyan.network.measurements import Measured
from blyan.network.redis_gossip import StreamCounters
from blyan.node.holdings import Hosted
from blyan.node.peering import Peering
from blyan.primitives import limits
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.wire.peer import Summary

_used_seconds: Final = 5.0  # after a call a pipeline may be in the middle of an answer
_no_chance: Final = 0.999  # a draw at which nothing is tried that is left to chance


@dataclass(frozen=True, slots=True)
class LinkState:
    """A link that is up."""

    seconds: float  # since it came up
    dialled: bool  # by this node


@dataclass(frozen=True, slots=True)
class PeerState:
    """One node that was heard of lately."""

    summary: Summary  # what it says
    link: LinkState | None
    why_not: str  # why there is no link, as far as is known
    measured: Measured
    seconds: float  # that its answers took
    share: float  # of the rows that peers computed for this node
    standing: Standing | None
    reason: Reason | None  # why it gets the traffic that it gets; None where it was not asked for


@dataclass(frozen=True, slots=True)
class ModelState:
    """One model of which experts are here or asked for."""

    manifest: PayloadId
    trunk: bool  # whether all but its routed experts is here
    here: int  # routed experts
    count: int
    alone: int  # of those here: nobody else who could be asked holds them
    nobody: tuple[tuple[int, int], ...]  # (layer, expert), neither here nor at anybody who can be asked


@dataclass(frozen=True, slots=True)
class StreamState:
    """The Redis by which nodes hear of each other."""

    up: bool  # it answers, and gossip is rare
    why_not: str
    counters: StreamCounters


@dataclass(frozen=True, slots=True)
class StagesState:
    """Layers that are computed for leads, and those that stages compute for this one."""

    host: StageCounters
    leases: int
    pages: int
    bytes: int
    refused: int  # leases
    expired: int
    led: LeadCounters
    peers: tuple[tuple[PublicKey, PeerCounters], ...]  # of those that are shown


@dataclass(frozen=True, slots=True)
class UnderWay:
    """What this node does for peers now, and what would be lost if it ended."""

    calls: int  # expert messages
    answers: int  # whole ones, which it leads
    stage_calls: int
    pipelines: int  # of leads that had layers computed here in the last seconds
    blobs: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.calls + self.answers + self.stage_calls + self.pipelines + self.blobs


@dataclass(frozen=True, slots=True)
class SwarmState:
    """All of it, as of a moment."""

    own: Summary
    under_way: UnderWay
    host: HostCounters
    asked: ExecutorCounters
    turned_away: int  # callers of the peer port
    jitted: int  # models whose experts are computed for peers by jitted code
    tunnels: int  # through relays, that end here
    relayed: int  # tunnels between others, through this node
    relayed_bytes: int  # since the start
    known: int  # nodes, of which `peers` are those shown
    linked: int
    peers: tuple[PeerState, ...]
    models: tuple[ModelState, ...]
    unreached: tuple[tuple[str, str], ...]  # addresses that were configured: URL and why there is no link
    moves: Mapping[tuple[Direction, Why], int]  # experts that came and went since the start
    redis: StreamState | None  # None where none is configured: news comes by gossip
    stages: StagesState


def swarm_state(peering: Peering, *, reasons: bool, most: int = limits.nodes_shown_max) -> SwarmState:
    """See the module; at most so many peers, those with a link first. For the network's loop."""
    now, links = peering.monotonic(), peering.links
    own, redis = peering.summary(), peering.redis
    others = [summary for summary in links.table.live(now) if summary.node != own.node]
    rows = {each.node: peering.registry.measurements.of(each.node).rows for each in others}
    others.sort(key=lambda each: (links.link(each.node) is None, -rows[each.node], each.node))
    total, relay = sum(rows.values()), peering.reach.host
    return SwarmState(
        own,
        _under_way(peering, now),
        replace(peering.host.counters),
        replace(peering.executor.counters),
        peering.door.refused,
        sum(each.jitted for each in list(peering.hosted.values())),
        peering.reach.tunnels.count,
        0 if relay is None else relay.tunnels,
        0 if relay is None else relay.carried_bytes,
        len(others),
        sum(links.link(each.node) is not None for each in others),
        tuple(_peer(peering, each, total, now, reasons) for each in others[:most]),
        tuple(_model(peering, each, now) for each in peering.holdings.models()),
        tuple((url, why) for url, _ in peering.config.network.joins if (why := links.targets.why_not(url))),
        dict(peering.demand.moves.counts),
        None if redis is None else StreamState(redis.up, redis.why_not, replace(redis.counters)),
        _stages(peering, {each.node for each in others[:most]}),
    )


def _under_way(peering: Peering, now: float) -> UnderWay:
    leases = list(peering.staging.host.leases)
    used = {each.asked.session for each in leases if each.number and now - each.passed_at < _used_seconds}
    calls = sum(each.under_way for each in leases)
    return UnderWay(peering.host.queue, peering.led(), calls, len(used), peering.door.sending)


def _stages(peering: Peering, shown: Collection[PublicKey]) -> StagesState:
    host, led = peering.staging.host, peering.staging.lead.counters
    held = host.leases
    return StagesState(
        replace(host.counters),
        len(held),
        held.pages,
        held.bytes,
        held.refused,
        held.expired,
        replace(led, peers={}),
        tuple((node, replace(each)) for node, each in led.peers.items() if node in shown),
    )


def _peer(peering: Peering, summary: Summary, total: int, now: float, reasons: bool) -> PeerState:
    node, registry, links = summary.node, peering.registry, peering.links
    link, measured = links.link(node), registry.measurements.of(node)
    tried = (why for url in summary.peer_urls if (why := links.targets.why_not(url)))
    return PeerState(
        summary,
        None if link is None else LinkState(max(0.0, now - link.since), link.dialled),
        "" if link is not None else next(tried, ""),
        measured,
        peering.roster.seconds.get(node, 0.0),
        measured.rows / total if total else 0.0,
        registry.standing(node, now),
        explain(registry, node, now) if reasons else None,
    )


def _model(peering: Peering, hosted: Hosted, now: float) -> ModelState:
    views = peering.registry.snapshot(now).nodes
    answering = [view is not None and view.rank != Rank.unreachable for view in views]
    staying = [view is not None and view.rank != Rank.unreachable and not view.draining for view in views]
    here = np.zeros(hosted.grid.count, dtype=np.bool_)
    here[list(hosted.here)] = True
    nobody = np.flatnonzero(~here & ~_held(peering, hosted, answering, now))
    places = [divmod(int(number), hosted.grid.experts) for number in nobody]
    return ModelState(
        hosted.manifest_id,
        hosted.trunk,
        len(hosted.here),
        hosted.grid.count,
        int((here & ~_held(peering, hosted, staying, now)).sum()),
        tuple((hosted.grid.layers[place], expert) for place, expert in places),
    )


def _held(peering: Peering, hosted: Hosted, among: Sequence[bool], now: float) -> NDArray[np.bool_]:
    """Which routed experts some of these nodes hold [experts]."""
    model = peering.registry.snapshot(now).models.get(hosted.manifest_id)
    if model is None:
        return np.zeros(hosted.grid.count, dtype=np.bool_)
    mask = np.packbits(np.array(among, dtype=np.bool_), bitorder="little")[: model.bits.shape[1]]
    return np.asarray((model.bits[:, : len(mask)] & mask).any(axis=1), dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class Holding:
    """Who holds the routed experts of one model."""

    nodes: tuple[NodeView, ...]
    by_part: Mapping[str, tuple[int, ...]]  # part of a routed expert → places in `nodes`


def holding(peering: Peering, manifest: PayloadId) -> Holding:
    """Who says that it holds which expert, less what turned out untrue. For the network's loop."""
    snapshot = peering.registry.snapshot(peering.monotonic())
    hosted, model = peering.holdings.find(manifest), snapshot.models.get(manifest)
    if hosted is None or model is None:
        return Holding((), {})
    places: dict[int, int] = {}
    found: dict[str, tuple[int, ...]] = {}
    for number, part in hosted.experts():
        indices = [at for at in model.of(number) if at < len(snapshot.nodes) and snapshot.nodes[at] is not None]
        found[part] = tuple(places.setdefault(at, len(places)) for at in indices)
    return Holding(tuple(snapshot.view(at) for at in places), found)


def plan_now(peering: Peering, manifest: PayloadId) -> tuple[list[CallSpec], ExpertPlan]:
    """One row for every routed expert, and who would compute it now; newcomers' small share left out.

    For the network's loop.
    """
    hosted = peering.holdings.find(manifest)
    if hosted is None:
        return [], ExpertPlan("local", (), (), (), {}, ())
    grid, holds = hosted.grid, peering.holdings.holds
    calls = [CallSpec(layer, expert, 1) for layer in grid.layers for expert in range(grid.experts)]
    local = frozenset(call[:2] for call in calls if holds(manifest, call.layer, call.expert))
    snapshot = peering.registry.snapshot(peering.monotonic())
    return calls, plan_experts(calls, manifest, local, snapshot, peering.roster.policy, lambda: _no_chance)
