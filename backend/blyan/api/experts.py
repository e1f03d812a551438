"""`GET /network/experts`: which blocks a model is made of, and what is known of each block's bytes."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from blyan.api.errors import json_response
from blyan.api.state import node_of
from blyan.model.manifest import BlockReference, read_manifest
from blyan.model.parts import part_position
from blyan.node.catalogue import no_such_model
from blyan.node.node import Node
from blyan.primitives.errors import InvalidInput
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
            "blocks": [_block(node, name, part, block) for part, block in manifest.blocks.items()],
        }
    )


def _block(node: Node, model: str, part: str, block: BlockReference) -> dict[str, Any]:
    layer, expert = (None, None) if part == "tokenizer" else part_position(part)
    state, fault = node.ground.store.state(block.payload)
    return {
        "part": part,
        "layer": layer,
        "expert": expert,
        "payload": block.payload,
        "bytes": block.length,
        "entry": node.ground.chains.state.first_named(model, part, block.payload),
        "state": state,
        "bad_subtiles": fault.detail.get("bad_subtiles", []) if fault else [],
        "file": str(node.ground.store.path(block.payload).relative_to(node.ground.folder)),
    }
