"""Looking entries up: `GET /entries/{id}` and `GET /chain/{name}/find?model=&layer=&expert=&author=&limit=`."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson
from aiohttp import web

from blyan.api.errors import json_response
from blyan.api.state import node_of
from blyan.chain.entries import ChainName, chain_names
from blyan.node.indexing import Finder, Found, Query
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, NotFound
from blyan.primitives.ids import entry_id, public_key

_default_count: Final = 100


async def entry(request: web.Request) -> web.Response:
    """One entry by its id, with the chain and number where it stands."""
    identity = entry_id(request.match_info["id"])
    found = await asyncio.to_thread(_finder(request).by_id, identity)
    return json_response(_described(found))


async def find(request: web.Request) -> web.Response:
    """The entries of a chain that say everything the query says."""
    asked = request.query
    unknown = sorted(set(asked) - {"model", "layer", "expert", "author", "limit"})
    if unknown:
        raise InvalidInput(f"query: expected model, layer, expert, author or limit, found {unknown[0][:80]!r}")
    query = Query(
        chain=_chain(request.match_info["name"]),
        model=asked.get("model"),
        layer=_number(asked.get("layer"), "layer"),
        expert=_number(asked.get("expert"), "expert"),
        author=public_key(asked["author"]) if "author" in asked else None,
    )
    count = _number(asked.get("limit"), "limit")
    found = await asyncio.to_thread(_finder(request).find, query, _default_count if count is None else count)
    return json_response({"entries": [_described(each) for each in found]})


def _finder(request: web.Request) -> Finder:
    node = node_of(request)
    return Finder(node.ground.chains, node.index)


def _described(found: Found) -> dict[str, Any]:
    return {
        "id": found.identity,
        "chain": found.chain,
        "index": found.position,
        "entry": orjson.Fragment(found.raw),
    }


def _chain(name: str) -> ChainName:
    for chain in chain_names:
        if chain == name:
            return chain
    raise NotFound(f"chain: expected one of {', '.join(chain_names)}, found {name[:80]!r}")


def _number(text: str | None, what: str) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > 16 or int(text) > limits.canonical_integer_max:
        raise InvalidInput(f"{what}: expected an integer from 0, found {text[:40]!r}")
    return int(text)
