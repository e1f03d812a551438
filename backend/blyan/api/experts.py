"""`GET /network/experts`: which blocks a model is made of, what is known of each block's bytes, who else holds it."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from blyan.api.errors import json_response
from blyan.api.state import node_of
from blyan.inference.snapshot import Rank
from blyan.model.expert_tiers import Tier
from blyan.model.manifest import BlockReference, read_manifest
from blyan.model.parts import part_position
from blyan.node.catalogue import no_such_model
from blyan.node.holdings import HeldModel, read_held
from blyan.node.node import Node
from blyan.node.swarm_state import Holding, holding
from blyan.primitives.errors import InvalidInput
from blyan.primitives.ids import PayloadId
from blyan.primitives.model_name import canonical_name


async def experts(request: web.Request) -> web.Response:
    """The layers × experts grid of one model with the verification state of every block."""
    node = node_of(request)
    name = request.query.get("model")
    if name is None:
        raise InvalidInput("model: expected a name in the query, found none")
    version = node.ground.chains.state.current(canonical_name(name))
    if version is None:
        raise no_such_model(name, node.models)
    manifest = read_manifest(node.ground.store, version.manifest)
    held = read_held(node.ground.folder).get(version.manifest)
    where = await _holding(node, version.manifest)
    return json_response(
        {
            "model": name,
            "manifest": version.manifest,
            "checkpoint": {
                "chain": "parameter",
                "size": version.parameter_size,
                "root": version.parameter_root,
            },
            "moe_layers": list(manifest.config.moe_layers),
            "experts": manifest.config.experts,
            "expert_memory": _memory(node),
            "nodes": None
            if node.peering is None
            else [
                {"node": view.node, "reachable": view.rank != Rank.unreachable, "draining": view.draining}
                for view in where.nodes
            ],
            "blocks": [
                {**_block(node, name, part, block, held), "nodes": list(where.by_part.get(part, ()))}
                for part, block in manifest.blocks.items()
            ],
        }
    )


def _memory(node: Node) -> dict[str, Any] | None:
    """How the node's budget for experts of all models is used; None where all are mapped."""
    if node.expert_memory is None or node.expert_memory.everything_fits:
        return None
    usage = node.expert_memory.usage()
    return {
        "budget": usage.budget,
        "hot": {"experts": usage.hot_experts, "bytes": usage.hot_bytes, "calls": usage.calls["hot"]},
        "warm": {"experts": usage.warm_experts, "bytes": usage.warm_bytes, "calls": usage.calls["warm"]},
        "cold": {"calls": usage.calls["cold"]},
        "evictions": usage.left["hot"] + usage.left["warm"],
        "bytes_read": usage.bytes_read,
        "wait_seconds": round(usage.wait_seconds, 6),
    }


def _tier(node: Node, block: BlockReference) -> Tier | None:
    """Where a routed expert is, if the budget does not hold all."""
    memory = node.expert_memory
    return None if memory is None or memory.everything_fits else memory.tier(block.payload)


async def _holding(node: Node, manifest: PayloadId) -> Holding:
    """Which other nodes hold its routed experts."""
    if node.peering is None:
        return Holding((), {})
    peering = node.peering
    return await asyncio.wrap_future(peering.ask(lambda: holding(peering, manifest)))


def _block(node: Node, model: str, part: str, block: BlockReference, held: HeldModel | None) -> dict[str, Any]:
    layer, expert = (None, None) if part == "tokenizer" else part_position(part)
    store = node.ground.store
    here = store.path(block.payload).exists()
    state, fault = store.state(block.payload)
    elsewhere = not here and held is not None and (expert is not None or not held.trunk)  # on purpose
    return {
        "part": part,
        "layer": layer,
        "expert": expert,
        "payload": block.payload,
        "bytes": block.length,
        "entry": node.ground.chains.state.first_named(model, part, block.payload),
        "here": here,
        "state": "elsewhere" if elsewhere else state,
        "tier": None if expert is None or elsewhere else _tier(node, block),
        "bad_subtiles": fault.detail.get("bad_subtiles", []) if fault and not elsewhere else [],
        "file": str(store.path(block.payload).relative_to(node.ground.folder)),
    }
