"""The chains as static files and proofs: a CDN, a mirror or curl is a client.

`GET /chain/{name}/checkpoint`, `/chain/{name}/tile/{path}` (C2SP tlog-tiles), `/chain/{name}/entries?from=&to=`,
`/chain/{name}/proof?index=&size=`, `/chain/{name}/consistency?from=&to=`; and of all three together `GET /chain/joint`.
Nothing beyond the checkpoint is served.
"""

from __future__ import annotations

import asyncio
from typing import Final

import orjson
from aiohttp import web

from blyan.api.errors import json_response
from blyan.api.state import node_of
from blyan.chain.entries import chain_names
from blyan.chain.log import Log
from blyan.chain.merkle import leaf_hash
from blyan.chain.proofs import consistency_path, inclusion_path
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, NotFound

_immutable: Final = "public, max-age=31536000, immutable"


async def joint(request: web.Request) -> web.Response:
    """The joint checkpoint: the canonical bytes that its author signed, as they stand on disk."""
    chains = node_of(request).ground.chains
    if not chains.created:
        raise NotFound(f"chains of {chains.network}: expected a joint checkpoint, found chains that nobody began")
    raw = chains.joint.encode()
    return web.Response(body=raw, content_type="application/json", headers={"Cache-Control": "no-cache"})


async def checkpoint(request: web.Request) -> web.Response:
    """The signed note as it stands on disk."""
    log = _log(request)
    if not log.created:
        raise NotFound(f"chain {log.origin}: expected a checkpoint, found a chain that nobody began")
    raw = await asyncio.to_thread(log.checkpoint_note)
    return web.Response(body=raw, content_type="text/plain", charset="utf-8", headers={"Cache-Control": "no-cache"})


async def tile(request: web.Request) -> web.FileResponse:
    """One tile or entry bundle; its bytes never change."""
    log, name = _log(request), request.match_info["path"]
    path = log.tile_file(name)
    if path is None:
        raise NotFound(f"chain {log.origin}: expected a tile below size {log.checkpoint.size}, found {name[:80]!r}")
    return web.FileResponse(path, headers={"Content-Type": "application/octet-stream", "Cache-Control": _immutable})


async def entries(request: web.Request) -> web.Response:
    """Entries from … to as a JSON list, at most a bundle's worth."""
    log = _log(request)
    begin = _number(request, "from", 0, log.checkpoint.size)
    end = _number(request, "to", min(begin + limits.log_tile_width, log.checkpoint.size), log.checkpoint.size)
    if not begin <= end <= begin + limits.log_tile_width:
        raise InvalidInput(f"to: expected {begin} to {begin + limits.log_tile_width}, found {end}")
    found = await asyncio.to_thread(lambda: [orjson.Fragment(raw) for raw in log.entries(begin, end)])
    return json_response({"from": begin, "to": end, "size": log.checkpoint.size, "entries": found})


async def proof(request: web.Request) -> web.Response:
    """One entry, the path from its leaf to the root over `size` entries, and the checkpoint that promises the root."""
    log = _log(request)
    promised, note = log.promised  # of one moment, though a commit may come between
    size = _number(request, "size", promised.size, promised.size)
    index = _number(request, "index", None, promised.size - 1)
    path = await asyncio.to_thread(inclusion_path, log.node, index, size)
    raw = next(iter(log.entries(index, index + 1)))
    assert note is not None, "a log with entries has a note"
    return json_response(
        {
            "origin": log.origin,
            "index": index,
            "size": size,
            "entry": orjson.Fragment(raw),
            "leaf": leaf_hash(raw).hex(),
            "path": [beside.hex() for beside in path],
            "checkpoint": note.decode("utf-8"),
        }
    )


async def consistency(request: web.Request) -> web.Response:
    """What shows that the first `from` entries are the beginning of the first `to`; unchanging if `to` is given."""
    log = _log(request)
    size = log.checkpoint.size
    end = _number(request, "to", size, size)
    begin = _number(request, "from", None, end)
    path = await asyncio.to_thread(consistency_path, log.node, begin, end)
    roots = [log.edge_at(each).root().hex() for each in (begin, end)]
    return json_response(
        {
            "origin": log.origin,
            "from": begin,
            "to": end,
            "from_root": roots[0],
            "to_root": roots[1],
            "path": [beside.hex() for beside in path],
        },
        # without `to` the same address answers otherwise after the next commit
        headers={"Cache-Control": _immutable if "to" in request.query else "no-cache"},
    )


def _log(request: web.Request) -> Log:
    name = request.match_info["name"]
    logs = node_of(request).ground.chains.logs
    for chain in chain_names:
        if chain == name:
            return logs[chain]
    raise NotFound(f"chain: expected one of {', '.join(chain_names)}, found {name[:80]!r}")


def _number(request: web.Request, name: str, default: int | None, most: int) -> int:
    text = request.query.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isascii() or not text.isdecimal() or len(text) > 16 or int(text) > most:
        raise InvalidInput(f"{name}: expected an integer from 0 to {most}, found {str(text)[:40]!r}")
    return int(text)
