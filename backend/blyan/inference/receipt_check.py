"""Checking a receipt file from public data alone: each check has a name, and what was not checked is said.

Pure. Nothing is asked of a node: the file brings what is signed and sealed, the caller what only the caller can know
(the request, the answer, the salt, which network's key or checkpoint to trust). A check that needs what an earlier one
did not give is not made, which is never taken for one that holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast

from blyan.chain.entries import Entry, ModelBody, ParameterBody
from blyan.chain.joint import JointCheckpoint, parse_joint
from blyan.chain.parameters import Price as Asked
from blyan.chain.parameters import price_name
from blyan.inference.receipt import Digested, Receipt, digest_of
from blyan.inference.receipt_file import ReceiptFile, parse_file
from blyan.ledger.seal import Inclusion
from blyan.primitives import canonical, limits
from blyan.primitives.errors import IntegrityFault, InvalidInput
from blyan.primitives.ids import PublicKey

CheckName: TypeAlias = Literal[
    "file",
    "signature",
    "cost",
    "record",
    "amount",
    "inclusion",
    "checkpoint",
    "writer",
    "promise",
    "gateway",
    "model",
    "price",
    "origin",
    "known",
    "request",
    "output",
]
State: TypeAlias = Literal["ok", "failed", "not made"]

_units: Final = re.compile(r"-?[1-9][0-9]{0,18}|0")

# what each check says when it holds, in the order in which they are made
sentences: Final[dict[CheckName, str]] = {
    "file": "the file has the form of a receipt",
    "signature": "the gateway signed the receipt",
    "cost": "what was charged is price times tokens",
    "record": "the record of the books settles this receipt",
    "amount": "the record moves what the receipt says was charged",
    "inclusion": "the record stands in the sealed books",
    "checkpoint": "the joint checkpoint is signed by its author",
    "writer": "the author is whom the meta chain names, from its first key on",
    "promise": "the joint checkpoint promises these books",
    "gateway": "the gateway is a key of this network",
    "model": "the meta chain names the model that answered",
    "price": "the meta chain names the price",
    "origin": "the network is the one that you trust",
    "known": "the checkpoint that you have promises the same",
    "request": "the request is the one that was answered",
    "output": "the answer is the one that was given",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One check: whether it holds, and why it does not or was not made."""

    name: CheckName
    state: State
    why: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """What the caller knows, each None where it is not known."""

    request: bytes | None = None  # the body as it was sent
    output: bytes | None = None  # `receipt.output_bytes` of the answer
    salt: bytes | None = None
    origin: PublicKey | None = None  # the first key of the network
    checkpoint: bytes | None = None  # a joint checkpoint from elsewhere


@dataclass(slots=True)
class Report:
    """All checks of one file, in their order; `file` is None where the bytes are none."""

    checks: list[Check] = field(default_factory=list[Check])
    file: ReceiptFile | None = None

    @property
    def failed(self) -> list[Check]:
        """Those that do not hold."""
        return [each for each in self.checks if each.state == "failed"]

    @property
    def not_made(self) -> list[Check]:
        """Those that could not be made."""
        return [each for each in self.checks if each.state == "not made"]

    def state(self, name: CheckName) -> State:
        """How one check ended."""
        return next(each.state for each in self.checks if each.name == name)


class _NotMade(Exception):
    """Why a check cannot be made."""


def check_receipt(raw: bytes, known: Known | None = None) -> Report:
    """Make every check of a receipt file; a file that is none fails the first and leaves the others not made."""
    making = _Making(raw, known or Known())
    for name in sentences:
        making.make(name)
    return making.report


class _Making:
    """Checks under way: each finds what earlier ones left, or cannot be made."""

    def __init__(self, raw: bytes, known: Known) -> None:
        self.report = Report()
        self._raw = raw
        self._known = known
        self._joint: JointCheckpoint | None = None
        self._keys: list[PublicKey] | None = None
        self._does: dict[CheckName, Callable[[], None]] = {
            "file": self._file,
            "signature": self._signature,
            "cost": self._cost,
            "record": self._record,
            "amount": self._amount,
            "inclusion": self._inclusion,
            "checkpoint": self._checkpoint,
            "writer": self._writer,
            "promise": self._promise,
            "gateway": self._gateway,
            "model": self._model,
            "price": self._price,
            "origin": self._origin,
            "known": self._other,
            "request": lambda: self._digest("request", self._known.request),
            "output": lambda: self._digest("output", self._known.output),
        }

    def make(self, name: CheckName) -> None:
        """Make one check and write down how it ended."""
        try:
            self._does[name]()
            made = Check(name, "ok")
        except _NotMade as reason:
            made = Check(name, "not made", str(reason))
        except (InvalidInput, IntegrityFault) as reason:
            made = Check(name, "failed", reason.message)
        self.report.checks.append(made)

    def _file(self) -> None:
        self.report.file = parse_file(self._raw)

    def _signature(self) -> None:
        self._held().signed.verify()

    def _inclusion(self) -> None:
        self._proof().check()

    def _held(self) -> ReceiptFile:
        if self.report.file is None:
            raise _NotMade("the file is no receipt")
        return self.report.file

    def _receipt(self) -> Receipt:
        return self._held().signed.receipt

    def _proof(self) -> Inclusion:
        proof = self._held().proof
        if proof is None:
            raise _NotMade("nothing was charged, so the books have no record of it")
        return proof

    def _promised(self) -> JointCheckpoint:
        self._held()
        if self._joint is None:
            raise _NotMade("the joint checkpoint does not hold")
        return self._joint

    def _writers(self) -> list[PublicKey]:
        self._promised()
        if self._keys is None:
            raise _NotMade("who may write is not shown")
        return self._keys

    def _cost(self) -> None:
        receipt = self._receipt()
        cost = receipt.price.cost(receipt.prompt_tokens, receipt.completion_tokens)
        _want("charged", cost, receipt.charged)
        for what in ("prompt_tokens", "completion_tokens") if receipt.plan == "local" else ():
            _want(f"{what} of all nodes", getattr(receipt, what), sum(getattr(each, what) for each in receipt.nodes))

    def _record(self) -> None:
        receipt, proof, record = self._receipt(), self._proof(), self._book_record()
        _want("number of the record", receipt.record, proof.index)
        _want("seq of the record", proof.index, record.get("seq"))
        _want("key of the record", receipt.key, record.get("key"))
        _want("kind of the record", "settle", record.get("kind"))

    def _amount(self) -> None:
        entries = self._book_record().get("entries")
        amounts = [_amount_of(each) for each in cast("list[Any]", entries if isinstance(entries, list) else [])]
        # a settlement is one leg: what one account pays, another gets
        _want("amounts of the record", [-self._receipt().charged, self._receipt().charged], sorted(amounts))

    def _book_record(self) -> dict[str, Any]:
        raw = self._proof().record
        return cast("dict[str, Any]", canonical.decode_object(raw, bytes_max=limits.ledger_record_bytes_max))

    def _promise(self) -> None:
        proof = self._proof()
        promised = self._promised().ledger_root
        if promised is None:
            raise IntegrityFault("joint checkpoint: expected a root of the books, found none")
        _want("size of the books", promised.size, proof.size)
        _want("root of the books", promised.root.hex(), proof.root.hex())

    def _checkpoint(self) -> None:
        self._joint = self._held().checkpoint.checkpoint()

    def _writer(self) -> None:
        self._keys = self._held().checkpoint.writers(self._promised())

    def _gateway(self) -> None:
        keys, gateway = self._writers(), self._receipt().gateway
        if gateway not in keys:
            raise IntegrityFault(f"gateway: expected one of {', '.join(keys)}, found {gateway}")

    def _entries(self) -> list[Entry]:
        self._writers()
        return self._held().checkpoint.entries()

    def _model(self) -> None:
        receipt = self._receipt()
        named = [
            (entry.body.name, entry.payload.payload)
            for entry in self._entries()
            if isinstance(entry.body, ModelBody) and entry.payload is not None
        ]
        if not named:
            raise _NotMade("the file has no entry about a model")
        if (receipt.model, receipt.manifest) not in named:
            raise IntegrityFault(f"model: expected {receipt.model} {receipt.manifest}, found {named[:4]}")

    def _price(self) -> None:
        receipt = self._receipt()
        price, entries = receipt.price, self._entries()
        if price.entry is None:
            raise _NotMade("the receipt names no entry for its price")
        entry = next((each for each in entries if each.id == price.entry), None)
        if entry is None or not isinstance(entry.body, ParameterBody):
            raise IntegrityFault(f"price: expected entry {price.entry} of the meta chain, found none in the file")
        said = Asked(price.asset, price.prompt_per_million, price.completion_per_million).encode()
        body = entry.body
        _want("price", f"{price_name} {receipt.model} {said}", f"{body.name} {body.subject} {body.value}")

    def _origin(self) -> None:
        keys = self._writers()
        if self._known.origin is None:
            raise _NotMade(f"no key was given: compare {keys[0]} with the network's first key")
        _want("first key of the network", self._known.origin, keys[0])

    def _other(self) -> None:
        joint = self._promised()
        if self._known.checkpoint is None:
            raise _NotMade("no other checkpoint was given")
        other = parse_joint(self._known.checkpoint, Path("that was given"))
        _want("network", other.network, joint.network)
        if other.author not in self._writers():
            raise _NotMade(f"the other checkpoint is by {other.author}, of whom the file does not know")
        compared = 0
        for what, ours, theirs in (
            ("books", joint.ledger_root, other.ledger_root),
            ("meta chain", joint.heads["meta"], other.heads["meta"]),
        ):
            if ours is not None and theirs is not None and ours.size == theirs.size:
                _want(f"root of {ours.size} of the {what}", theirs.root.hex(), ours.root.hex())
                compared += what == "books"
        if not compared:
            raise _NotMade("the other checkpoint promises books of another size: fetch the receipt again, and then it")

    def _digest(self, what: Digested, given: bytes | None) -> None:
        receipt = self._receipt()
        if given is None or self._known.salt is None:
            missing = [name for name, value in ((what, given), ("salt", self._known.salt)) if value is None]
            raise _NotMade(f"no {' and no '.join(missing)} was given")
        digest = digest_of(what, self._known.salt, given)
        _want(f"digest of the {what}", receipt.request if what == "request" else receipt.output, digest)


def _want(what: str, expected: object, found: object) -> None:
    if expected != found:
        raise IntegrityFault(f"{what}: expected {expected}, found {str(found)[:200]}")


def _amount_of(entry: object) -> int:
    """The amount of one change of an account, as a record of the books has it."""
    match entry:
        case [int(), int(), str(text), str(), str(), str(), str(), str()] if (
            text.removeprefix("-").isdecimal() and len(text) < 24
        ):
            return int(text)
        case _:
            raise IntegrityFault(f"record: expected changes of accounts, found {str(entry)[:200]}")
