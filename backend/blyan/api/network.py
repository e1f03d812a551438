"""`GET /network/nodes|plan|moves`, `POST /network/drain`: this node among others, as it measured them itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from aiohttp import web

from blyan.api.body import json_object
from blyan.api.caller import caller_key
from blyan.api.errors import json_response
from blyan.api.operators import node_to_change
from blyan.api.plan_fields import plan_fields
from blyan.api.state import node_of
from blyan.inference.moves import Move, whys
from blyan.inference.plan import CallSpec, ExpertPlan
from blyan.model.manifest import read_manifest
from blyan.node.catalogue import no_such_model
from blyan.node.node import Node
from blyan.node.peering import Peering
from blyan.node.swarm_state import ModelState, PeerState, StreamState, SwarmState, UnderWay, plan_now, swarm_state
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, NotFound
from blyan.primitives.ids import PayloadId
from blyan.primitives.model_name import canonical_name
from blyan.wire.fields import brief, naming_parameter
from blyan.wire.peer import Summary

_alone: Mapping[str, Any] = {
    "swarm": None,
    "self": None,
    "known": 0,
    "linked": 0,
    "peers": [],
    "models": [],
    "unreached": [],
    "redis": None,
}


async def nodes(request: web.Request) -> web.Response:
    """This node and those it knows. Addresses are for its operators."""
    node = node_of(request)
    if node.peering is None:
        return json_response(_alone)
    peering = node.peering
    state = await asyncio.wrap_future(peering.ask(lambda: swarm_state(peering, reasons=True)))
    names, open_to = _names(node), request[caller_key].may("models")
    return json_response(
        {
            "swarm": state.own.swarm,
            "self": _own(state, names, open_to),
            "known": state.known,
            "linked": state.linked,
            "peers": [_peer(each, names, open_to) for each in state.peers],
            "models": [_model(each, names) for each in state.models],
            "unreached": [{"url": url, "why": why} for url, why in state.unreached] if open_to else [],
            "redis": _redis(state.redis),
        }
    )


async def drain(request: web.Request) -> web.Response:
    """Stop being asked by peers where they have others to ask, or be asked as before."""
    node = node_to_change(request)
    body = await json_object(request, bytes_max=limits.small_body_bytes_max)
    with naming_parameter():
        if body.keys() != {"draining"} or not isinstance(body["draining"], bool):
            raise InvalidInput(f"draining: expected true or false and nothing else, found {brief(body)}")
    if node.peering is None:
        raise NotFound("network: expected a node with a peer port, found one without", hint="set network.listen")
    peering, wanted = node.peering, body["draining"]
    await asyncio.wrap_future(peering.drain(wanted))
    state = await asyncio.wrap_future(peering.ask(lambda: swarm_state(peering, reasons=False)))
    return json_response(
        {"draining": wanted, **_under_way(state.under_way), "alone": sum(m.alone for m in state.models)}
    )


async def plan(request: web.Request) -> web.Response:
    """Who would compute each routed expert of a model, if a token asked for it now."""
    node = node_of(request)
    name = request.query.get("model")
    if name is None:
        raise InvalidInput("model: expected a name in the query, found none")
    prompt, answer = _count(request, "prompt_tokens", 128), _count(request, "tokens", 128)
    version = node.ground.chains.state.current(canonical_name(name))
    if version is None:
        raise no_such_model(name, node.models)
    calls, made = await _planned(node, version.manifest)
    shape = node.planning.shape(prompt, answer, sum(node.scheduler.depth()))
    config = read_manifest(node.ground.store, version.manifest).config
    expected = await node.planning.look(version.manifest, config, shape)
    asked = {at: each.node for each in made.assignments for at in each.calls}
    known = sorted({*asked.values(), *(key for each in made.fallbacks for key in each)})
    places = {key: place for place, key in enumerate(known)}
    missing = frozenset(made.missing)
    return json_response(
        {
            "model": name,
            "manifest": version.manifest,
            "type": made.type,
            "nodes": known,
            "experts": [
                {
                    "layer": call.layer,
                    "expert": call.expert,
                    "by": "nobody" if at in missing else "peer" if at in asked else "here",
                    "node": places[asked[at]] if at in asked else None,
                    "then": [places[key] for key in made.fallbacks[at]],
                }
                for at, call in enumerate(calls)
            ],
            **plan_fields(expected, node.planning.errors),
        }
    )


async def moves(request: web.Request) -> web.Response:
    """Which experts this node fetched and gave up lately, and why."""
    node, name = node_of(request), request.query.get("model")
    most = _count(request, "latest", limits.moves_shown, limits.moves_kept_max)
    wanted = None if name is None else node.ground.chains.state.current(canonical_name(name))
    if name is not None and wanted is None:
        raise no_such_model(name, node.models)
    if node.peering is None:
        return json_response({"node": None, "role": False, "moves": [], "since_start": []})
    peering = node.peering
    log, names = peering.demand.moves, _names(node)
    found, counts = await asyncio.wrap_future(
        peering.ask(lambda: (log.latest(most, None if wanted is None else wanted.manifest), dict(log.counts)))
    )
    return json_response(
        {
            "node": peering.identity.key.public,
            "role": "expert" in peering.config.network.roles,
            "moves": [_move(peering, each, names) for each in found],
            "since_start": [
                {"move": direction, "why": why, "experts": count} for (direction, why), count in sorted(counts.items())
            ],
        }
    )


def _move(peering: Peering, move: Move, names: Mapping[PayloadId, str]) -> dict[str, Any]:
    hosted = peering.holdings.find(move.manifest)
    layer, expert = (None, None) if hosted is None else hosted.place(move.number)
    return {
        "at": move.at,
        "move": move.direction,
        "model": names.get(move.manifest),
        "manifest": move.manifest,
        "number": move.number,
        "layer": layer,
        "expert": expert,
        "why": move.why,
        "text": whys[move.why],
        "others": move.others,
        "rows_per_s": round(move.rate, 6),
    }


def _count(request: web.Request, name: str, default: int, most: int = limits.plan_tokens_max) -> int:
    """A number in the query."""
    said = request.query.get(name, str(default))
    if not (said.isascii() and said.isdigit() and len(said) < 10 and 1 <= int(said) <= most):
        raise InvalidInput(f"{name}: expected 1 to {most}, found {brief(said)}")
    return int(said)


async def _planned(node: Node, manifest: PayloadId) -> tuple[list[CallSpec], ExpertPlan]:
    """A call for every routed expert; all are local on a node without peers."""
    if node.peering is not None:
        peering = node.peering
        return await asyncio.wrap_future(peering.ask(lambda: plan_now(peering, manifest)))
    config = read_manifest(node.ground.store, manifest).config
    calls = [CallSpec(layer, expert, 1) for layer in config.moe_layers for expert in range(config.experts)]
    return calls, ExpertPlan("local", tuple(range(len(calls))), (), ((),) * len(calls), {}, ())


def _redis(stream: StreamState | None) -> dict[str, Any] | None:
    """The Redis by which nodes hear of each other; while it is not up, gossip alone is how."""
    if stream is None:
        return None
    counts = stream.counters
    return {
        "up": stream.up,
        "why_not": stream.why_not,
        "sent": counts.sent,
        "read": counts.read,
        "refused": counts.refused,
    }


def _names(node: Node) -> dict[PayloadId, str]:
    """The models of the chain by their current manifests."""
    state = node.ground.chains.state
    found = {name: state.current(name) for name in state.models}
    return {version.manifest: name for name, version in found.items() if version is not None}


def _under_way(left: UnderWay) -> dict[str, Any]:
    """For peers: all together, and what it is."""
    return {"under_way": left.total, "left": asdict(left)}


def _own(state: SwarmState, names: Mapping[PayloadId, str], open_to: bool) -> dict[str, Any]:
    host, asked = state.host, state.asked
    return {
        **_said(state.own, names, open_to),
        **_under_way(state.under_way),
        "answered": {
            "messages": host.messages,
            "rows": host.rows,
            "seconds": round(host.seconds, 6),
            "refused": host.refused,
        },
        "asked": {
            "messages": asked.messages,
            "hedges": asked.hedges,
            "failovers": asked.failovers,
            "rejected": asked.rejected,
        },
        "turned_away": state.turned_away,
    }


def _peer(peer: PeerState, names: Mapping[PayloadId, str], open_to: bool) -> dict[str, Any]:
    measured, view = peer.measured, None if peer.standing is None else peer.standing.view
    link = None if peer.link is None else {"seconds": round(peer.link.seconds, 3), "dialled": peer.link.dialled}
    return {
        **_said(peer.summary, names, open_to),
        "link": link,
        "why_not": peer.why_not if open_to else "",
        "rtt_seconds": measured.rtt_s,
        "rtt_p95_seconds": measured.rtt_p95_s,
        "calls": measured.calls,
        "rows": measured.rows,
        "rows_waiting": measured.rows_waiting,
        "seconds": round(peer.seconds, 6),
        "call_p95_seconds": measured.call_p95_s,
        "rows_per_s": measured.rows_per_s,
        "bytes_per_s": measured.bytes_per_s,
        "expert_bytes": measured.expert_bytes,
        "share": round(peer.share, 6),
        "failures": dict(measured.failures),
        "reputation": None if view is None else round(view.reputation, 4),
        "breaker": None if view is None else view.breaker,
        "reason": None if peer.reason is None else {"code": peer.reason.code, "text": peer.reason.text},
    }


def _said(summary: Summary, names: Mapping[PayloadId, str], open_to: bool) -> dict[str, Any]:
    """What a node says of itself; bits beyond a model's experts count for nothing that is done with them."""
    return {
        "node": summary.node,
        "boot": summary.boot,
        "roles": list(summary.roles),
        "draining": summary.draining,
        "queue": summary.queue,
        "urls": list(summary.peer_urls) if open_to else [],
        "holds": [
            {
                "model": names.get(manifest),
                "manifest": manifest,
                "trunk": held.trunk,
                "experts": int.from_bytes(held.experts, "little").bit_count(),
            }
            for manifest, held in summary.holdings.items()
        ],
    }


def _model(model: ModelState, names: Mapping[PayloadId, str]) -> dict[str, Any]:
    return {
        "model": names.get(model.manifest),
        "manifest": model.manifest,
        "trunk": model.trunk,
        "here": model.here,
        "experts": model.count,
        "alone": model.alone,
        "nobody": len(model.nobody),
        "missing": [list(each) for each in model.nobody[: limits.missing_shown_max]],
    }
