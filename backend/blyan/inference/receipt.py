"""Receipts: what a gateway signs about one answer that was paid for. Pure; docs/spec/receipt.md.

A receipt says which model answered, how many tokens, at what price, what was charged and by which record of the books.
Of the request and the answer it has digests alone, each over a salt that only the user holds: whoever sees a receipt,
or guesses what was asked, learns nothing, and the user shows what was asked and answered by showing the salt.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast

from blyan.ledger.accounts import account_name
from blyan.primitives import canonical, limits
from blyan.primitives.amount import asset as asset_of
from blyan.primitives.clock import Entropy
from blyan.primitives.errors import InvalidInput
from blyan.primitives.ids import EntryId, PayloadId, PublicKey, entry_id, parse_hex64, payload_id, public_key
from blyan.primitives.keys import Key, verify
from blyan.primitives.model_name import model_name_pattern

Digested: TypeAlias = Literal["request", "output"]

salt_bytes: Final = 32
_id_bytes: Final = 16
_id: Final = re.compile(r"[0-9a-f]{32}")
_amount: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_plan: Final = re.compile(r"[a-z_]{1,32}")
_signature: Final = re.compile(r"[0-9a-f]{128}")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool as it was delivered; `arguments` is JSON as text, `id` empty where the dialect has none."""

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer as it was delivered, all its pieces joined; what was not there is empty."""

    content: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Price:
    """Smallest units of the asset for a million tokens; `entry` is that of the meta chain that says so."""

    asset: str
    prompt_per_million: int
    completion_per_million: int
    entry: EntryId | None

    def cost(self, prompt_tokens: int, completion_tokens: int) -> int:
        """What so many tokens cost: multiplied first, rounded once, up."""
        parts = prompt_tokens * self.prompt_per_million + completion_tokens * self.completion_per_million
        return -(-parts // 1_000_000)


@dataclass(frozen=True, slots=True)
class Work:
    """What one node computed; `trace` is the digest of its signed trace, None in this version."""

    key: PublicKey
    prompt_tokens: int
    completion_tokens: int
    trace: None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """One answer, paid for. `request` and `output` are salted digests in hex (`digest_of`)."""

    id: str  # 32 hex digits
    gateway: PublicKey  # who signs
    model: str
    manifest: PayloadId  # of the model that answered
    request: str
    output: str
    prompt_tokens: int
    completion_tokens: int
    plan: str
    nodes: tuple[Work, ...]
    price: Price
    charged: int  # smallest units of the price's asset
    account: str  # of the books
    record: int | None  # number of the settlement in the books; None where nothing was charged
    time: int  # seconds since the Unix epoch

    @property
    def key(self) -> str:
        """The idempotency key of the settlement in the books."""
        return f"receipt {self.id}"

    def encode(self) -> bytes:
        """The canonical bytes that the signature covers."""
        return canonical.encode(self.value())

    def value(self) -> dict[str, canonical.Canonical]:
        """The fields as JSON; amounts are decimal strings of smallest units."""
        return {
            "v": 1,
            "id": self.id,
            "gateway": self.gateway,
            "model": self.model,
            "manifest": self.manifest,
            "request": self.request,
            "output": self.output,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "plan": self.plan,
            "nodes": [
                {
                    "key": each.key,
                    "prompt_tokens": each.prompt_tokens,
                    "completion_tokens": each.completion_tokens,
                    "trace": each.trace,
                }
                for each in self.nodes
            ],
            "price": {
                "asset": self.price.asset,
                "prompt_per_million": str(self.price.prompt_per_million),
                "completion_per_million": str(self.price.completion_per_million),
                "entry": self.price.entry,
            },
            "charged": str(self.charged),
            "account": self.account,
            "record": self.record,
            "time": self.time,
        }


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A receipt and the gateway's signature of kind `receipt` over its canonical bytes."""

    receipt: Receipt
    signature: bytes

    def encode(self) -> bytes:
        """Canonical JSON `{receipt, signature}`, as it is kept until the books are sealed."""
        return canonical.encode({"receipt": self.receipt.value(), "signature": self.signature.hex()})

    def verify(self) -> None:
        """`IntegrityFault` unless the gateway that it names signed it."""
        verify(self.receipt.gateway, "receipt", self.receipt.encode(), self.signature)


def make(receipt: Receipt, key: Key) -> SignedReceipt:
    """Sign a receipt; `InvalidInput` where a field is not what a reader takes, so that none is ever kept unreadable."""
    assert key.public == receipt.gateway, "a gateway signs for itself"
    return parse(SignedReceipt(receipt, key.sign("receipt", receipt.encode())).encode())


def parse(raw: bytes) -> SignedReceipt:
    """Read `{receipt, signature}`; the signature is not checked here."""
    return parse_signed(canonical.decode_object(raw, bytes_max=limits.receipt_bytes_max))


def parse_signed(value: Mapping[str, Any]) -> SignedReceipt:
    """The same from its JSON value, which came from canonical bytes."""
    _want_fields(value, {"receipt", "signature"}, "receipt file")
    return SignedReceipt(
        _parse(_object(value["receipt"], "receipt")), bytes.fromhex(_text(value["signature"], _signature, "signature"))
    )


def new_id(entropy: Entropy) -> str:
    """A name that nobody else takes."""
    return entropy(_id_bytes).hex()


def receipt_id(text: object) -> str:
    """Parse the id of a receipt from text."""
    return _text(text, _id, "receipt id")


def output_bytes(choices: Sequence[Choice]) -> bytes:
    """The canonical list of choices, in the order of their index: what the output's digest covers."""
    return canonical.encode(
        [
            {
                "content": each.content,
                "reasoning": each.reasoning,
                "tool_calls": [
                    {"id": call.id, "name": call.name, "arguments": call.arguments} for call in each.tool_calls
                ],
            }
            for each in choices
        ]
    )


def digest_of(what: Digested, salt: bytes, raw: bytes) -> str:
    """SHA-256 in hex over `blyan v1 receipt <what>` ‖ 0x00 ‖ salt (32 bytes) ‖ bytes.

    Of a request `raw` is the body as it was sent, of an output `output_bytes`.
    """
    if len(salt) != salt_bytes:
        raise InvalidInput(f"salt: expected {salt_bytes} bytes, found {len(salt)}")
    return hashlib.sha256(b"blyan v1 receipt " + what.encode() + b"\x00" + salt + raw).hexdigest()


def _parse(given: Mapping[str, Any]) -> Receipt:
    _want_fields(
        given,
        {"v", "id", "gateway", "model", "manifest", "request", "output", "prompt_tokens", "completion_tokens", "plan"}
        | {"nodes", "price", "charged", "account", "record", "time"},
        "receipt",
    )
    if type(given["v"]) is not int or given["v"] != 1:
        raise InvalidInput(f"receipt v: expected 1, found {str(given['v'])[:40]!r}")
    nodes = given["nodes"]
    if not isinstance(nodes, list) or not 0 < len(cast("list[Any]", nodes)) <= limits.receipt_nodes_max:
        raise InvalidInput(f"receipt nodes: expected 1 to {limits.receipt_nodes_max}")
    charged, record = _parse_amount(given["charged"], "charged"), given["record"]
    if (record is None) != (charged == 0):
        raise InvalidInput(f"receipt record: expected one where something was charged, found {str(record)[:40]}")
    return Receipt(
        id=receipt_id(given["id"]),
        gateway=public_key(given["gateway"]),
        model=_text(given["model"], model_name_pattern, "receipt model"),
        manifest=payload_id(given["manifest"]),
        request=parse_hex64(given["request"], "receipt request"),
        output=parse_hex64(given["output"], "receipt output"),
        prompt_tokens=_count(given["prompt_tokens"], "prompt_tokens"),
        completion_tokens=_count(given["completion_tokens"], "completion_tokens"),
        plan=_text(given["plan"], _plan, "receipt plan"),
        nodes=tuple(_parse_work(_object(each, "node")) for each in cast("list[Any]", nodes)),
        price=_parse_price(_object(given["price"], "price")),
        charged=charged,
        account=account_name(given["account"], "receipt account"),
        record=None if record is None else _count(record, "record"),
        time=_count(given["time"], "time"),
    )


def _parse_work(given: Mapping[str, Any]) -> Work:
    _want_fields(given, {"key", "prompt_tokens", "completion_tokens", "trace"}, "receipt node")
    if given["trace"] is not None:
        raise InvalidInput("receipt node trace: expected none in this version, found one")
    return Work(
        public_key(given["key"]),
        _count(given["prompt_tokens"], "prompt_tokens"),
        _count(given["completion_tokens"], "completion_tokens"),
    )


def _parse_price(given: Mapping[str, Any]) -> Price:
    _want_fields(given, {"asset", "prompt_per_million", "completion_per_million", "entry"}, "receipt price")
    if not isinstance(given["asset"], str):
        raise InvalidInput("receipt price asset: expected text")
    return Price(
        asset_of(given["asset"]).code,
        _parse_amount(given["prompt_per_million"], "prompt_per_million"),
        _parse_amount(given["completion_per_million"], "completion_per_million"),
        None if given["entry"] is None else entry_id(given["entry"]),
    )


def _want_fields(given: Mapping[str, Any], names: set[str], what: str) -> None:
    if set(given) != names:
        raise InvalidInput(f"{what}: expected fields {sorted(names)}, found {str(sorted(given))[:400]}")


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{what}: expected an object, found {type(value).__name__}")
    return cast("Mapping[str, Any]", value)


def _text(value: object, pattern: re.Pattern[str], what: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise InvalidInput(f"{what}: expected {pattern.pattern}, found {str(value)[:80]!r}")
    return value


def _count(value: object, what: str) -> int:
    if type(value) is not int or not 0 <= value <= limits.canonical_integer_max:
        raise InvalidInput(f"receipt {what}: expected an integer from 0 to 2^53-1, found {str(value)[:40]}")
    return value


def _parse_amount(value: object, what: str) -> int:
    amount = int(_text(value, _amount, f"receipt {what}"))
    if amount > limits.amount_max:
        raise InvalidInput(f"receipt {what}: expected at most {limits.amount_max}, found {amount}")
    return amount
