"""How requests reach the database: what they touch is read, the rules decide, and what they decide is written.

One text for both engines (`ledger/store`). Everything happens inside one write transaction, so what was read still
holds when it is written. Of each record the entries are written before the record itself, which lets the database see
the record whole (migrations/).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias, cast

from blyan.ledger.accounts import Account, Refusal, Terms
from blyan.ledger.records import Entry, Kind, Record, leaf_of
from blyan.ledger.rules import Draft, Earlier, View, decide
from blyan.ledger.store import Row, Session
from blyan.ledger.transfers import Request, accounts_named, record_named
from blyan.primitives.clock import UnixSeconds
from blyan.primitives.errors import IdempotencyConflict

Signed: TypeAlias = tuple[Request, bytes]  # a request and its hash

_last: Final = "SELECT seq, time FROM record ORDER BY seq DESC LIMIT 1"
_known: Final = (
    "SELECT key, request, seq, time, kind, NULL, NULL FROM record WHERE key IN (SELECT value FROM json_each(?)) "
    "UNION ALL SELECT key, request, NULL, NULL, NULL, code, message FROM refusal "
    "WHERE key IN (SELECT value FROM json_each(?))"
)
_earlier: Final = (
    "SELECT r.seq, r.kind, r.expires, e.seq FROM record r LEFT JOIN record e ON e.target = r.seq "
    "WHERE r.seq IN (SELECT value FROM json_each(?))"
)
_entries: Final = (
    "SELECT record, account, version, amount, out_change, in_change, balance, held_out, held_in FROM entry "
    "WHERE record IN (SELECT value FROM json_each(?)) ORDER BY record, n"
)
_by_name: Final = (
    "SELECT id, name, asset, floor, ceiling, closed, version, balance, held_out, held_in FROM account "
    "WHERE name IN (SELECT value FROM json_each(?))"
)
_by_number: Final = (
    "SELECT id, name, asset, floor, ceiling, closed, version, balance, held_out, held_in FROM account "
    "WHERE id IN (SELECT value FROM json_each(?))"
)

_new_account: Final = "INSERT INTO account (id, name, asset, floor, ceiling) VALUES (?, ?, ?, ?, ?)"
_new_entry: Final = (
    "INSERT INTO entry (record, n, account, version, amount, out_change, in_change, balance, held_out, held_in) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_closed: Final = "UPDATE account SET closed = ? WHERE id = ?"
_new_record: Final = (
    "INSERT INTO record (seq, time, kind, key, request, target, expires, note, leaf) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_new_refusal: Final = "INSERT INTO refusal (key, request, time, code, message) VALUES (?, ?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request: record `number` at `time`, or a refusal; the same whenever its key is asked again."""

    key: str
    number: int | None = None
    time: int | None = None
    kind: Kind | None = None
    refusal: Refusal | None = None
    replayed: bool = False

    @property
    def taken(self) -> bool:
        """Whether the books took it."""
        return self.refusal is None


@dataclass(slots=True)
class _Work:
    """What one transaction knows and is going to write."""

    view: View
    known: dict[str, tuple[bytes, Outcome]]
    records: list[Record] = field(default_factory=list[Record])
    refusals: list[Row] = field(default_factory=list[Row])


def apply(session: Session, requests: Sequence[Signed], now: UnixSeconds) -> list[Outcome | IdempotencyConflict]:
    """Decide and write, durably, in the order given; an answer for each request.

    Time never goes back: a record is dated no earlier than the one before it, whatever the clock says.
    """
    with session.writing():
        work = _load(session, requests)
        time = max(now(), work.view.time)
        answers = [_answer(work, request, digest, time) for request, digest in requests]
        _write(session, work)
    return answers


def _answer(work: _Work, request: Request, digest: bytes, time: int) -> Outcome | IdempotencyConflict:
    key = request.key
    if key in work.known:
        before, outcome = work.known[key]
        if before != digest:
            return IdempotencyConflict(
                f"key {key!r}: expected the request that it was first used for, found another",
                hint="use a new key for a new request",
            )
        return outcome
    decision = decide(request, work.view, time)
    if isinstance(decision, Draft):
        record = work.view.take(request, digest, decision, time)
        work.records.append(record)
        outcome = Outcome(key, record.number, record.time, record.kind)
    else:
        outcome = Outcome(key, refusal=decision)
        if key.startswith("="):  # the ledger's own keys are asked again when things changed
            return outcome
        work.refusals.append((key, digest, time, decision.code, decision.message))
    work.known[key] = (digest, Outcome(key, outcome.number, outcome.time, outcome.kind, outcome.refusal, True))
    return outcome


def _load(session: Session, requests: Sequence[Signed]) -> _Work:
    last = session.rows(_last)
    view = View(*((last[0][0] + 1, last[0][1]) if last else (0, 0)))
    keys = list({request.key for request, _ in requests})
    known: dict[str, tuple[bytes, Outcome]] = {}
    for key, digest, number, time, kind, code, message in session.rows(_known, keys, keys):
        refusal = None if code is None else Refusal(code, message)
        known[key] = (digest, Outcome(key, number, time, kind, refusal, replayed=True))
    fresh = [request for request, _ in requests if request.key not in known]
    names = list({name for request in fresh for name in accounts_named(request)})
    accounts = [account_of(row) for row in session.rows(_by_name, names)] if names else []
    numbers = list({number for request in fresh if (number := record_named(request)) is not None})
    earlier = read_earlier(session, numbers) if numbers else []
    there = {account.number for account in accounts}
    more = list({entry.account for each in earlier for entry in each.entries} - there)
    if more:
        accounts += [account_of(row) for row in session.rows(_by_number, more)]
    view.know(accounts, earlier)
    return _Work(view, known)


def read_earlier(session: Session, numbers: list[int]) -> list[Earlier]:
    """Those of these records that are there, with their entries and what ended them."""
    entries: dict[int, list[Entry]] = {}
    for record, *values in session.rows(_entries, numbers):
        entries.setdefault(record, []).append(Entry(*values))
    return [
        Earlier(number, kind, expires, ended_by, tuple(entries.get(number, ())))
        for number, kind, expires, ended_by in session.rows(_earlier, numbers)
    ]


def account_of(row: Row) -> Account:
    """An account from its columns."""
    number, name, asset, floor, ceiling, closed, version, balance, held_out, held_in = row
    terms = Terms(name, asset, floor, ceiling)
    return Account(number, terms, closed is not None, version, balance, held_out, held_in)


def _write(session: Session, work: _Work) -> None:
    records = work.records
    opened = [(r.number, r.terms.name, r.terms.asset, r.terms.floor, r.terms.ceiling) for r in records if r.terms]
    entries = [
        (r.number, n, e.account, e.version, e.amount, e.out_change, e.in_change, e.balance, e.held_out, e.held_in)
        for r in records
        for n, e in enumerate(r.entries)
    ]
    rows = [
        (r.number, r.time, r.kind, r.key, r.request, r.target, r.expires, r.note, bytes(leaf_of(r))) for r in records
    ]
    closed = cast("list[Row]", [(r.number, r.target) for r in records if r.kind == "close"])
    written: tuple[tuple[str, Sequence[Row]], ...] = (
        (_new_account, opened),
        (_new_entry, entries),
        (_closed, closed),
        (_new_record, rows),
        (_new_refusal, work.refusals),
    )
    for text, values in written:
        if values:
            session.many(text, values)
