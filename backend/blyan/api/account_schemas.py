"""What the routes of an account in the books answer, as JSON Schema for `/openapi.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from blyan.ledger.records import kinds
from blyan.primitives import limits
from blyan.primitives.amount import assets
from blyan.wire.schema import Schema, fields, integer, listing, one_of, optional, text

amount: Final[Schema] = {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?$"}
_number: Final = integer(0, limits.canonical_integer_max)

_hold: Final = {"record": _number, "amount": amount, "since": _number, "until": _number, "note": text()}
_balance: Final = {
    "account": text(1),
    "role": one_of("user", "operator"),
    "asset": one_of(*assets),
    "scale": integer(0, 18),
    "balance": amount,
    "held": amount,
    "available": amount,
    "holds": listing(fields(_hold, required=tuple(_hold)), 0, limits.holds_shown_max),
}
balance: Final = fields(_balance, required=tuple(_balance))

_entry: Final = {
    "record": _number,
    "time": _number,
    "kind": one_of(*kinds),
    "key": text(1),
    "note": text(),
    "amount": amount,
    "held": amount,
    "balance": amount,
}
statement: Final = fields(
    {
        "entries": listing(fields(_entry, required=tuple(_entry)), 0, limits.statement_lines_max),
        "next": optional(_number),
    },
    required=("entries", "next"),
)
statement_query: Final[Mapping[str, Schema]] = {
    "before": _number,
    "limit": integer(1, limits.statement_lines_max),
    "format": one_of("json", "csv"),
}
