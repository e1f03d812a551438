"""The books as text: every record in its canonical bytes, one on a line, or what happened to accounts as CSV.

A line without its line feed is what the leaf of the sealed tree is over, so that whoever has the lines and a joint
checkpoint needs nothing of ours to check them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from blyan.ledger import reading
from blyan.ledger.records import encode
from blyan.ledger.store import Session
from blyan.primitives.amount import asset, shown

header: Final = (
    "record,time,kind,account,asset,version,amount,held_out_change,held_in_change,balance,held_out,held_in,note"
)


def json_lines(session: Session) -> Iterator[str]:
    """Each record's canonical JSON."""
    size, _ = reading.size_and_time(session)
    for record in reading.records(session, 0, size):
        yield encode(record).decode()


def csv_lines(session: Session, name: str | None = None) -> Iterator[str]:
    """A header and each entry, of one account or all, with decimal amounts; no field of ours needs more than quotes."""
    accounts = {each.number: each.terms for each in reading.accounts(session)}
    wanted = None if name is None else reading.account(session, name).number
    size, _ = reading.size_and_time(session)
    yield header
    for record in reading.records(session, 0, size):
        for entry in record.entries:
            if wanted is not None and entry.account != wanted:
                continue
            terms = accounts[entry.account]
            amounts = (entry.amount, entry.out_change, entry.in_change, entry.balance, entry.held_out, entry.held_in)
            words = [shown(amount, asset(terms.asset).scale) for amount in amounts]
            places = [str(record.number), str(record.time), record.kind, terms.name, terms.asset, str(entry.version)]
            yield ",".join([*places, *words, quoted(record.note)])


def quoted(text: str) -> str:
    """A text as a field: a spreadsheet takes one that begins with = + - @ for a formula, so those get an apostrophe."""
    return '"' + ("'" + text if text[:1] in tuple("=+-@") else text) + '"'
