"""What the books remember: a record for each request they took, with an entry for each change of an account.

Pure. A record's canonical bytes are a function of its fields, and the leaf of the sealed tree is the RFC 6962 leaf hash
over them (docs/spec/ledger.md): nothing is kept twice that could differ. An account's number is that of the record
which opened it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias, cast

from blyan.chain.merkle import leaf_hash
from blyan.ledger.accounts import Terms
from blyan.primitives import canonical
from blyan.primitives.ids import Digest

Kind: TypeAlias = Literal["open", "close", "post", "hold", "settle", "void", "expire", "reverse"]
kinds: Final[tuple[Kind, ...]] = ("open", "close", "post", "hold", "settle", "void", "expire", "reverse")


class Entry(NamedTuple):
    """One change of one account, and the account after it; amounts are signed, credits positive.

    A tuple, because verification makes a million of them: a frozen dataclass takes five times as long.
    """

    account: int
    version: int
    amount: int
    out_change: int
    in_change: int
    balance: int
    held_out: int
    held_in: int


@dataclass(frozen=True, slots=True)
class Record:
    """Number `number` of the books. `target` is the hold, record or account that it ends; `request` a SHA-256."""

    number: int
    time: int
    kind: Kind
    key: str
    request: bytes
    target: int | None
    expires: int | None
    note: str
    entries: tuple[Entry, ...]
    terms: Terms | None = None  # of the account that it opens


def encode(record: Record) -> bytes:
    """The record's canonical bytes. Keys and notes need no escapes, so this equals `encode_plain` in a tenth of it."""
    entries = ",".join(
        [
            f'[{e.account},{e.version},"{e.amount}","{e.out_change}","{e.in_change}",'
            f'"{e.balance}","{e.held_out}","{e.held_in}"]'
            for e in record.entries
        ]
    )
    terms = record.terms
    account = (
        "null"
        if terms is None
        else f'{{"asset":"{terms.asset}","ceiling":"{terms.ceiling}","floor":"{terms.floor}","name":"{terms.name}"}}'
    )
    expires = "null" if record.expires is None else record.expires
    target = "null" if record.target is None else record.target
    return (
        f'{{"account":{account},"entries":[{entries}],"expires":{expires},"key":"{record.key}","kind":"{record.kind}",'
        f'"note":"{record.note}","request":"{record.request.hex()}","seq":{record.number},"target":{target},'
        f'"time":{record.time},"v":1}}'
    ).encode()


def encode_plain(record: Record) -> bytes:
    """The same bytes by the one encoding for what is hashed."""
    terms = record.terms
    account: canonical.Canonical = None
    if terms is not None:
        account = {
            "asset": terms.asset,
            "ceiling": str(terms.ceiling),
            "floor": str(terms.floor),
            "name": terms.name,
        }
    return canonical.encode(
        {
            "v": 1,
            "seq": record.number,
            "time": record.time,
            "kind": record.kind,
            "key": record.key,
            "request": record.request.hex(),
            "target": record.target,
            "expires": record.expires,
            "note": record.note,
            "account": account,
            "entries": [
                [
                    e.account,
                    e.version,
                    *map(str, (e.amount, e.out_change, e.in_change, e.balance, e.held_out, e.held_in)),
                ]
                for e in record.entries
            ],
        }
    )


def leaf_of(record: Record) -> Digest:
    """The leaf hash of a record in the sealed tree."""
    return leaf_hash(encode(record))


def record_of(row: Sequence[object], entries: Sequence[Sequence[object]], terms: Terms | None) -> Record:
    """A record from its columns in a database, in the order of the fields."""
    number, time, kind, key, request, target, expires, note = row
    return Record(
        cast(int, number),
        cast(int, time),
        cast(Kind, kind),
        cast(str, key),
        cast(bytes, request),
        cast("int | None", target),
        cast("int | None", expires),
        cast(str, note),
        tuple(map(Entry._make, cast("Sequence[Sequence[int]]", entries))),
        terms,
    )
