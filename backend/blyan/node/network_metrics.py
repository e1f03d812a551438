"""What a node counts of its swarm, for Prometheus: of each peer, and of itself towards all of them.

Read from the network's loop when somebody asks, so that who is gone has no series any more. The label `peer` is the
beginning of a member's key; at most `peer_labels_max` of them, those with a link and the most rows first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import TimeoutError as NotInTime
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from blyan.node.answering import Answering
from blyan.node.peering import Peering
from blyan.node.swarm_state import PeerState, StagesState, SwarmState, swarm_state
from blyan.primitives import limits

_seconds_max: Final = 2.0  # a loop that does not answer in that time leaves the rest of the metrics alone
_key_digits: Final = 12
_log = logging.getLogger(__name__)


def network_families(peering: Peering | None) -> Iterator[Metric]:
    """The present state; nothing on a node without peers. From any thread but the network's."""
    if peering is None:
        return
    try:
        state = peering.ask(lambda: swarm_state(peering, reasons=False, most=limits.peer_labels_max)).result(
            _seconds_max
        )
    except NotInTime:
        _log.warning("metrics of the network: expected its loop to answer in %s s, found it busy", _seconds_max)
        return
    yield from _of_this_node(state)
    yield from _of_peers(state.peers)
    yield from _of_stages(state.stages)


def delegation_families(answering: Answering) -> Iterator[Metric]:
    """Whole answers that peers were asked for, and those led for them; nothing on a node without peers."""
    asked, host = answering.delegating, answering.host
    if asked is None or host is None:
        return
    counted = asked.counters
    yield CounterMetricFamily("blyan_delegated_total", "Whole answers asked of peers.", value=counted.asked)
    yield CounterMetricFamily("blyan_delegated_tokens_total", "Tokens that came of them.", value=counted.steps)
    yield CounterMetricFamily("blyan_delegated_failovers_total", "Another went on.", value=counted.failovers)
    yield CounterMetricFamily("blyan_delegated_rejected_total", "Steps that were none.", value=counted.rejected)
    yield CounterMetricFamily("blyan_delegated_own_total", "Ended here: nobody was left to ask.", value=counted.own)
    led = CounterMetricFamily("blyan_led_total", "Whole answers led for peers.", labels=("outcome",))
    for outcome in ("answered", "left", "refused", "failed"):
        led.add_metric((outcome,), getattr(host.counters, outcome))
    yield led
    yield CounterMetricFamily("blyan_led_tokens_total", "Tokens led for peers.", value=host.counters.tokens)
    yield GaugeMetricFamily("blyan_led_under_way", "Whole answers led for peers now.", value=host.under_way)


def _of_this_node(state: SwarmState) -> Iterator[Metric]:
    peers = GaugeMetricFamily("blyan_peers", "Other nodes heard of lately.", labels=("state",))
    peers.add_metric(("linked",), state.linked)
    peers.add_metric(("unlinked",), state.known - state.linked)
    yield peers
    yield GaugeMetricFamily("blyan_draining", "Whether peers are told to ask others first.", value=state.own.draining)
    yield GaugeMetricFamily(
        "blyan_experts_without_holder",
        "Experts of models here that no live node holds.",
        value=sum(len(model.nobody) for model in state.models),
    )
    yield CounterMetricFamily(
        "blyan_peer_port_refused_total", "Callers of the peer port that proved nothing.", value=state.turned_away
    )
    moves = CounterMetricFamily("blyan_expert_moves_total", "Experts that came and went.", labels=("move", "why"))
    for (direction, why), count in sorted(state.moves.items()):
        moves.add_metric((direction, why), count)
    yield moves
    tunnels = GaugeMetricFamily("blyan_tunnels", "Ways through relays.", labels=("side",))
    tunnels.add_metric(("end",), state.tunnels)
    tunnels.add_metric(("relay",), state.relayed)
    yield tunnels
    yield CounterMetricFamily("blyan_relayed_bytes_total", "Carried between others.", value=state.relayed_bytes)
    if state.redis is not None:
        counts = state.redis.counters
        yield GaugeMetricFamily("blyan_redis_news_up", "Whether news of nodes comes by Redis.", value=state.redis.up)
        entries = CounterMetricFamily("blyan_redis_summaries_total", "Summaries in Redis.", labels=("outcome",))
        entries.add_metric(("sent",), counts.sent)
        entries.add_metric(("read",), counts.read)
        entries.add_metric(("refused",), counts.refused)
        yield entries
    host = state.host
    waiting = state.under_way.calls
    yield GaugeMetricFamily("blyan_hosted_calls_waiting", "Peers' expert messages under way.", value=waiting)
    messages = CounterMetricFamily("blyan_hosted_calls_total", "Peers' expert messages.", labels=("outcome",))
    messages.add_metric(("answered",), host.messages)
    messages.add_metric(("refused",), host.refused)
    messages.add_metric(("called_off",), host.called_off)
    yield messages
    yield GaugeMetricFamily("blyan_hosted_models_jitted", "Whose experts jitted code computes.", value=state.jitted)
    yield CounterMetricFamily("blyan_hosted_rows_total", "Rows computed for peers.", value=host.rows)
    yield CounterMetricFamily("blyan_hosted_seconds_total", "In which rows of peers were computed.", value=host.seconds)
    asked = state.asked
    yield CounterMetricFamily("blyan_remote_calls_total", "Expert messages sent to peers.", value=asked.messages)
    yield CounterMetricFamily("blyan_remote_hedges_total", "Sent again because late.", value=asked.hedges)
    yield CounterMetricFamily("blyan_remote_failovers_total", "Sent to another node.", value=asked.failovers)
    yield CounterMetricFamily("blyan_remote_rejected_total", "Answers that were none.", value=asked.rejected)


def _of_stages(state: StagesState) -> Iterator[Metric]:
    """Layers that are computed for leads, and those that stages compute for this one."""
    host, led = state.host, state.led
    calls = CounterMetricFamily("blyan_stage_calls_total", "Calls of leads.", labels=("outcome",))
    calls.add_metric(("computed",), host.calls)
    calls.add_metric(("refused",), host.refused)
    yield calls
    yield CounterMetricFamily("blyan_stage_rows_total", "Positions computed for leads.", value=host.rows)
    yield CounterMetricFamily("blyan_stage_drawn_total", "Tokens drawn for leads.", value=host.drawn)
    yield CounterMetricFamily("blyan_stage_seconds_total", "In which they were computed.", value=host.seconds)
    yield GaugeMetricFamily("blyan_stage_leases", "Sessions of leads.", value=state.leases)
    yield GaugeMetricFamily("blyan_stage_pages", "Pages that they may write.", value=state.pages)
    yield GaugeMetricFamily("blyan_stage_bytes", "Bytes that these may take.", value=state.bytes)
    yield CounterMetricFamily("blyan_stage_leases_refused_total", "Leases not given.", value=state.refused)
    yield CounterMetricFamily("blyan_stage_leases_expired_total", "Leads fell silent.", value=state.expired)
    yield CounterMetricFamily("blyan_pipeline_calls_total", "Calls that came through stages.", value=led.calls)
    yield CounterMetricFamily("blyan_pipeline_sessions_total", "Leases over all layers.", value=led.sessions)
    yield CounterMetricFamily("blyan_pipeline_lost_total", "Sessions that lost a stage.", value=led.lost)
    yield CounterMetricFamily("blyan_pipeline_rejected_total", "Ends of calls that were none.", value=led.rejected)
    peers = CounterMetricFamily("blyan_peer_stage_calls_total", "Calls that came through it.", labels=("peer",))
    rows = CounterMetricFamily("blyan_peer_stage_rows_total", "Positions of them.", labels=("peer",))
    lost = CounterMetricFamily("blyan_peer_stage_lost_total", "Sessions that it ended.", labels=("peer",))
    for node, each in state.peers:
        key = node[:_key_digits]
        peers.add_metric((key,), each.calls)
        rows.add_metric((key,), each.rows)
        lost.add_metric((key,), each.lost)
    yield from (peers, rows, lost)


def _of_peers(peers: tuple[PeerState, ...]) -> Iterator[Metric]:
    up = GaugeMetricFamily("blyan_peer_link_up", "Whether a link is up.", labels=("peer",))
    rtt = GaugeMetricFamily(
        "blyan_peer_rtt_seconds", "Round trip of a ping, the middle one of the last fifteen.", labels=("peer",)
    )
    reputation = GaugeMetricFamily("blyan_peer_reputation", "Lower bound, 0 to 1.", labels=("peer",))
    calls = CounterMetricFamily("blyan_peer_calls_total", "Expert messages that it answered.", labels=("peer",))
    rows = CounterMetricFamily("blyan_peer_rows_total", "Rows that it computed.", labels=("peer",))
    seconds = CounterMetricFamily("blyan_peer_call_seconds_total", "That its answers took.", labels=("peer",))
    speeds = (
        (
            "rows_per_s",
            GaugeMetricFamily("blyan_peer_rows_per_second", "Rows over seconds of calls.", labels=("peer",)),
        ),
        ("bytes_per_s", GaugeMetricFamily("blyan_peer_bytes_per_second", "Of large transfers.", labels=("peer",))),
        ("expert_bytes", GaugeMetricFamily("blyan_peer_expert_bytes", "Experts it computed with.", labels=("peer",))),
    )
    failures = CounterMetricFamily("blyan_peer_failures_total", "What it failed in.", labels=("peer", "kind"))
    for each in peers:
        key = each.summary.node[:_key_digits]
        up.add_metric((key,), each.link is not None)
        if each.measured.rtt_s is not None:
            rtt.add_metric((key,), each.measured.rtt_s)
        if each.standing is not None:
            reputation.add_metric((key,), each.standing.view.reputation)
        calls.add_metric((key,), each.measured.calls)
        rows.add_metric((key,), each.measured.rows)
        seconds.add_metric((key,), each.seconds)
        for name, family in speeds:
            if (value := getattr(each.measured, name)) is not None:
                family.add_metric((key,), value)
        for kind, count in each.measured.failures:
            failures.add_metric((key, kind), count)
    yield from (up, rtt, reputation, calls, rows, seconds, *(family for _, family in speeds), failures)
