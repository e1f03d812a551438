"""Quotes: a price that holds for one account until a time, whatever the meta chain says in between. Pure.

A quote is a text that the node signs and does not keep: whoever shows it again gets its price, after a restart of the
node too. It names the account, so that nobody trades in old prices, and it is no promise to compute.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Final, cast

from blyan.chain.parameters import parse_price
from blyan.payments.prices import Tariff
from blyan.primitives import canonical, limits
from blyan.primitives.errors import Fault, IntegrityFault, InvalidInput, QuoteExpired
from blyan.primitives.ids import PublicKey, entry_id
from blyan.primitives.keys import Key, verify

quote_seconds: Final = 15 * 60
_signature_bytes: Final = 64
_fields: Final = {"v", "account", "model", "price", "entry", "expires"}


@dataclass(frozen=True, slots=True)
class Quote:
    """What was promised to whom, and until when: seconds since the Unix epoch."""

    account: str
    tariff: Tariff
    expires: int

    def encode(self) -> bytes:
        """The canonical bytes that the signature covers."""
        tariff = self.tariff
        return canonical.encode(
            {
                "v": 1,
                "account": self.account,
                "model": tariff.model,
                "price": tariff.price.encode(),
                "entry": tariff.entry,
                "expires": self.expires,
            }
        )

    def signed(self, key: Key) -> str:
        """The quote as a text that `read` takes back."""
        raw = self.encode()
        return base64.urlsafe_b64encode(key.sign("quote", raw) + raw).decode().rstrip("=")


def read(text: str, author: PublicKey) -> Quote:
    """The quote in a text that `author` signed; `InvalidInput` for any other text."""
    try:
        if len(text) > limits.quote_chars_max:
            raise InvalidInput(f"expected at most {limits.quote_chars_max} characters")
        signed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        raw = signed[_signature_bytes:]
        verify(author, "quote", raw, signed[:_signature_bytes])
        given = cast("dict[str, Any]", canonical.decode_object(raw, bytes_max=limits.quote_chars_max))
    except (IntegrityFault, InvalidInput, ValueError, binascii.Error) as reason:
        why = reason.message if isinstance(reason, Fault) else "other characters"
        raise InvalidInput(
            f"quote: expected one that this node gave, found another text ({why})", hint="ask POST /quotes for one"
        ) from None
    assert given.keys() == _fields, "nothing else is signed in this domain"
    tariff = Tariff(given["model"], parse_price(given["price"]), entry_id(given["entry"]))
    return Quote(given["account"], tariff, given["expires"])


def honoured(quote: Quote, account: str, model: str, now: int) -> Tariff:
    """The price of a quote for this request; `InvalidInput` where it is for another, `QuoteExpired` after its time."""
    for what, expected, found in (("account", quote.account, account), ("model", quote.tariff.model, model)):
        if expected != found:
            raise InvalidInput(f"quote: expected to be asked for {what} {expected}, found {found}")
    if now >= quote.expires:
        raise QuoteExpired(
            f"quote: expected it before {quote.expires}, found {now}", hint="ask POST /quotes for a new one"
        )
    return quote.tariff
