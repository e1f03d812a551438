"""One receipt with everything that proves it: books, chains and a signature, made from fixed seeds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from blyan.chain.chains import Chains
from blyan.chain.entries import ExpertBody, ModelBody, ParameterBody, PayloadReference
from blyan.chain.excerpt import excerpt
from blyan.chain.joint import Head
from blyan.inference.receipt import Choice, Price, Receipt, Work, digest_of, make, output_bytes
from blyan.inference.receipt_file import ReceiptFile
from blyan.ledger import seal
from blyan.ledger.accounts import Terms
from blyan.ledger.sql import apply
from blyan.ledger.sqlite_store import SqliteStore
from blyan.ledger.transfers import Hold, Leg, Open, Post, Request, Settle, request_hash
from blyan.primitives import limits
from blyan.primitives.errors import Fault
from blyan.primitives.ids import EntryId, PayloadId
from blyan.primitives.keys import Key
from blyan.storage.blob_store import BlobStore

KEY = Key.from_seed(bytes(range(32)))
NEXT = Key.from_seed(bytes([7] * 32))
TIME = 1_700_000_000
ID = "0123456789abcdef0123456789abcdef"
ACCOUNT = "user:0x7e5f4552091a69125d5dfcb7b8c2659029395bdf"
MANIFEST = PayloadId("ab" * 32)
SALT = bytes(range(32, 64))
REQUEST = b'{"model":"m","messages":[{"role":"user","content":"1+1?"}]}'
PRICE = Price(
    "USD", 15_000_000, 60_000_000, EntryId("a6d48c0ce1a202f55f1f6591b91d11c969e3049c1e4ea2cbebcacc8a20c57953")
)
CHOICES = [Choice("2", reasoning="one and one")]


def now() -> int:
    return TIME


@dataclass
class Network:
    """Chains and books of one node."""

    chains: Chains
    store: SqliteStore
    key: Key = KEY

    def do(self, *requests: Request) -> list[int]:
        """Numbers of the records."""
        with self.store.session() as session:
            found = apply(session, [(each, request_hash(each)) for each in requests], now)
        numbers: list[int] = []
        for each in found:
            assert not isinstance(each, Fault), each
            assert each.number is not None, each.refusal
            numbers.append(each.number)
        return numbers

    def promise(self) -> None:
        """Seal the books and promise them."""
        with self.store.session() as session:
            sealed = seal.seal(session, now)
        assert sealed is not None
        self.chains.promise_ledger(self.key, Head(sealed.size, sealed.root))

    def settle(self, charged: int) -> int:
        """Number of the settlement of the receipt."""
        [hold] = self.do(Hold(f"hold {ID}", Leg(ACCOUNT, "income:inference", 2 * charged), 600))
        return self.do(Settle(f"receipt {ID}", hold, charged))[0]

    def file(self, receipt: Receipt) -> ReceiptFile:
        """Its file: proved under the newest joint checkpoint, with the model's entry and the price's."""
        joint, state = self.chains.joint, self.chains.state
        proof = None
        if receipt.record is not None:
            assert joint.ledger_root is not None
            with self.store.session() as session:
                proof = seal.inclusion(session, receipt.record, joint.ledger_root.size)
        named = [each.entry for each in state.models.get(receipt.model, ()) if each.manifest == receipt.manifest]
        places = map(state.position, [*named, *([receipt.price.entry] if receipt.price.entry else [])])
        meta = {place[1] for place in places if place is not None and place[0] == "meta"}
        return ReceiptFile(make(receipt, self.key), proof, excerpt(joint, self.chains.logs["meta"], meta))


def network(folder: Path) -> Network:
    """A network that offers the model `m`, with an account that has money."""
    chains = Chains(folder / "chain", KEY.public, BlobStore(folder / "blobs", writable=True))
    genesis = chains.start(KEY, now)
    block = PayloadReference(PayloadId("cd" * 32), 4096, "application/vnd.blyan.tensorblock")
    part = chains.append(ExpertBody("m", 0, 0), (genesis,), block, KEY, now)
    manifest = replace(block, payload=MANIFEST, media="application/vnd.blyan.manifest+json")
    chains.append(ModelBody("m", "1.0.0", "qwen3_moe", 1, part), (part,), manifest, KEY, now)
    price = ParameterBody("price", "m", "USD 15000000 60000000")
    chains.append(price, (genesis,), None, KEY, now)
    chains.publish(KEY)
    store = SqliteStore(folder / "ledger.db", create=True)
    store.migrate(now)
    found = Network(chains, store)
    credit = Terms("operator:credit", "USD", floor=-limits.amount_max)
    found.do(*(Open(each) for each in (credit, Terms("income:inference", "USD"), Terms(ACCOUNT, "USD"))))
    found.do(Post("credit 1", (Leg(credit.name, ACCOUNT, 10_000),)))
    return found


def free() -> Receipt:
    """The same answer where nothing costs anything."""
    return replace(receipt(None, 0), price=Price("USD", 0, 0, None))


def receipt(record: int | None, charged: int = 1_980, key: Key = KEY) -> Receipt:
    """12 tokens in and 30 out, at 0.15 and 0.60 a million."""
    return Receipt(
        id=ID,
        gateway=key.public,
        model="m",
        manifest=MANIFEST,
        request=digest_of("request", SALT, REQUEST),
        output=digest_of("output", SALT, output_bytes(CHOICES)),
        prompt_tokens=12,
        completion_tokens=30,
        plan="local",
        nodes=(Work(key.public, 12, 30),),
        price=PRICE,
        charged=charged,
        account=ACCOUNT,
        record=record,
        time=TIME,
    )


def paid(folder: Path) -> tuple[Network, ReceiptFile]:
    """A network and the receipt of what it answered, sealed and promised."""
    found = network(folder)
    record = found.settle(1_980)
    found.do(Post("later", (Leg(ACCOUNT, "income:inference", 5),)))
    found.promise()
    return found, found.file(receipt(record))
