"""What the routes of chains, entries, blobs, experts and health answer, as JSON Schema for `/openapi.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from blyan.primitives import limits
from blyan.wire.schema import Schema, anything, fields, flag, hex64, integer, listing, one_of, optional, table, text

count: Final = integer(0, limits.canonical_integer_max)
_entry: Final[Schema] = {"type": "object"}
_found: Final = fields(
    {"id": hex64, "chain": text(1), "index": integer(0), "entry": _entry}, required=("id", "chain", "index", "entry")
)

found: Final = _found
found_list: Final = fields({"entries": listing(_found, 0, limits.found_entries_max)}, required=("entries",))
joint: Final[Schema] = {"type": "object"}
entries: Final = fields(
    {"from": integer(0), "to": integer(0), "size": integer(0), "entries": listing(_entry, 0, limits.log_tile_width)},
    required=("from", "to", "size", "entries"),
)
proof: Final = fields(
    {
        "origin": text(1),
        "index": integer(0),
        "size": integer(1),
        "entry": _entry,
        "leaf": hex64,
        "path": listing(hex64),
        "checkpoint": text(1),
    },
    required=("origin", "index", "size", "entry", "leaf", "path", "checkpoint"),
)
consistency: Final = fields(
    {
        "origin": text(1),
        "from": integer(0),
        "to": integer(0),
        "from_root": hex64,
        "to_root": hex64,
        "path": listing(hex64),
    },
    required=("origin", "from", "to", "from_root", "to_root", "path"),
)
experts: Final = fields(
    {
        "model": text(1),
        "manifest": hex64,
        "checkpoint": {"type": "object"},
        "moe_layers": listing(integer(0)),
        "experts": integer(0),
        "expert_memory": {"type": ["object", "null"]},
        "nodes": optional(
            listing(
                fields({"node": hex64, "reachable": flag, "draining": flag}, required=("node", "reachable", "draining"))
            )
        ),
        "blocks": listing(
            fields(
                {
                    "part": text(1),
                    "payload": hex64,
                    "bytes": integer(0),
                    "here": flag,
                    "state": one_of("verified", "unverified", "corrupt", "elsewhere"),
                    "tier": one_of("hot", "warm", "cold", None),
                    "nodes": listing(integer(0)),
                },
                required=("part", "payload", "bytes", "here", "state", "nodes"),
                closed=False,
            )
        ),
    },
    required=("model", "manifest", "checkpoint", "moe_layers", "experts", "nodes", "blocks"),
)
ready: Final = fields(
    {"ready": flag, "checks": table(text(1)), "found_at_start": listing(text())},
    required=("ready", "checks", "found_at_start"),
)
openapi: Final = fields({"openapi": text(1), "paths": {"type": "object"}}, required=("openapi", "paths"), closed=False)

find_query: Final[Mapping[str, Schema]] = {
    "model": text(),
    "layer": count,
    "expert": count,
    "author": hex64,
    "limit": integer(1, limits.found_entries_max),
}
ready_query: Final[Mapping[str, Schema]] = {
    "verbose": anything,
    "exclude": listing(one_of("models", "shutdown")),
}
