"""What the routes about prices, quotes and receipts take and answer, as JSON Schema for `/openapi.json`."""

from __future__ import annotations

from typing import Final

from blyan.primitives import limits
from blyan.wire.openai_schema import message
from blyan.wire.schema import Schema, fields, flag, integer, listing, optional, text

_amount: Final[Schema] = {"type": "string", "pattern": r"^[0-9]{1,19}(\.[0-9]{1,8})?$"}
_price: Final = {"prompt_per_million": _amount, "completion_per_million": _amount}

price: Final = fields(
    {"model": text(1), "asset": text(1), **_price, "entry": text(64)},
    required=("model", "asset", *_price, "entry"),
)
prices: Final = fields({"prices": listing(price)}, required=("prices",))
price_request: Final = fields({"model": text(1), **_price}, required=("model", *_price))

quote_request: Final = fields(
    {
        "model": text(),
        "messages": optional(listing(message, 1, limits.messages_max)),
        "prompt": optional(text()),
        "prompt_tokens": optional(integer(1, limits.canonical_integer_max)),
        "max_tokens": optional(integer(1, limits.canonical_integer_max)),
    },
    required=("model",),
)
quote: Final = fields(
    {
        "free": flag,  # then `why` says so, and the rest is missing
        "why": text(1),
        "id": text(1),
        "model": text(1),
        "asset": text(1),
        "scale": integer(0),
        "price": fields(_price, required=tuple(_price)),
        "prompt_tokens": integer(1),
        "max_tokens": integer(0),
        "amount_max": _amount,
        "expires": integer(0),
    },
    required=("model",),
)
receipt: Final = fields(
    {
        "receipt": {"type": "object"},
        "signature": text(128),
        "proof": {"type": ["object", "null"]},
        "checkpoint": {"type": "object"},
    },
    required=("receipt", "signature", "proof", "checkpoint"),
)
