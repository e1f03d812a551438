"""What the routes of sign-in take and answer, as JSON Schema for `/openapi.json`."""

from __future__ import annotations

from typing import Final

from blyan.auth import api_keys
from blyan.primitives import limits
from blyan.wire.schema import Schema, fields, flag, integer, listing, one_of, optional, text

_address: Final[Schema] = {"type": "string", "pattern": "^0x[0-9a-fA-F]{40}$"}
_chain_id: Final = integer(1, limits.canonical_integer_max)
_seconds: Final = integer(0, limits.canonical_integer_max)
_scopes: Final = listing(one_of(*api_keys.scopes), 1, len(api_keys.scopes))
_name: Final = text(1, limits.api_key_name_chars_max)
key_id: Final[Schema] = {"type": "string", "pattern": "^[0-9a-f]{16}$"}

nonce_request: Final = fields({"address": _address, "chain_id": _chain_id}, required=("address", "chain_id"))
nonce_answer: Final = fields({"message": text(1), "expires_at": _seconds}, required=("message", "expires_at"))
verify_request: Final = fields(
    {"message": text(1), "signature": {"type": "string", "pattern": "^0x([0-9a-fA-F]{2})*$"}},
    required=("message", "signature"),
)
logout_request: Final = fields({"everywhere": flag})
session: Final = fields(
    {
        "accounts": flag,
        "signed_in": flag,
        "origin": text(1),
        "chain_ids": listing(_chain_id, 1),
        "account": text(1),
        "address": _address,
        "chain_id": _chain_id,
        "role": one_of("user", "operator"),
        "key": {"type": "object"},
        "idle_until": _seconds,
        "ends_at": _seconds,
    },
    required=("accounts", "signed_in"),
)
key_request: Final = fields(
    {"name": _name, "scopes": {**_scopes, "uniqueItems": True}, "expires_at": optional(_seconds)}, required=("name",)
)
_kept: Final = {
    "id": key_id,
    "name": _name,
    "scopes": _scopes,
    "created_at": _seconds,
    "expires_at": optional(_seconds),
    "used_on": optional(text(1)),
}
keys: Final = fields({"keys": listing(fields(_kept, required=tuple(_kept)))}, required=("keys",))
made_key: Final = fields({**_kept, "key": text(1)}, required=(*_kept, "key"))
deleted_key: Final = fields({"deleted": key_id}, required=("deleted",))
