"""What the books say: accounts, balances as of a time, statements, holds that stand, the trial balance, records.

Each function reads through a session inside `reading`, so that what it says is of one moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Final

from blyan.ledger.accounts import Account, Terms
from blyan.ledger.records import Entry, Kind, Record, record_of
from blyan.ledger.sql import account_of
from blyan.ledger.store import Session
from blyan.primitives import limits
from blyan.primitives.errors import NotFound

_one: Final = (
    "SELECT id, name, asset, floor, ceiling, closed, version, balance, held_out, held_in FROM account WHERE name = ?"
)
_all: Final = (
    "SELECT id, name, asset, floor, ceiling, closed, version, balance, held_out, held_in FROM account ORDER BY id"
)
_records: Final = (
    "SELECT seq, time, kind, key, request, target, expires, note FROM record WHERE seq >= ? AND seq < ? ORDER BY seq"
)
_entries: Final = (
    "SELECT record, account, version, amount, out_change, in_change, balance, held_out, held_in FROM entry "
    "WHERE record >= ? AND record < ? ORDER BY record, n"
)
_terms: Final = "SELECT id, name, asset, floor, ceiling FROM account WHERE id >= ? AND id < ? ORDER BY id"
_version: Final = (
    "SELECT record, account, version, amount, out_change, in_change, balance, held_out, held_in FROM entry "
    "WHERE account = ? AND version = ?"
)
_until: Final = "SELECT max(seq) FROM record WHERE time <= ?"
_lines: Final = (
    "SELECT r.seq, r.time, r.kind, r.note, r.target, e.account, e.version, e.amount, e.out_change, e.in_change, "
    "e.balance, e.held_out, e.held_in FROM entry e JOIN record r ON r.seq = e.record "
    "WHERE e.account = ? AND e.version < ? ORDER BY e.version DESC LIMIT ?"
)
_due: Final = (
    "SELECT h.seq FROM record h WHERE h.expires > ? AND h.expires <= ? "
    "AND NOT EXISTS (SELECT 1 FROM record e WHERE e.target = h.seq) ORDER BY h.expires LIMIT ?"
)
_known: Final = "SELECT seq FROM record WHERE key = ?"
_last: Final = "SELECT seq, time FROM record ORDER BY seq DESC LIMIT 1"
_read_at_once: Final = 2_048


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a statement: what a record did to the account."""

    number: int
    time: int
    kind: Kind
    note: str
    target: int | None
    entry: Entry


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account has and promises: amounts in the asset's smallest units."""

    asset: str
    balance: int
    held_out: int
    held_in: int


@dataclass(frozen=True, slots=True)
class Total:
    """Of one asset: what all accounts together have and owe; the books are balanced where both are equal (I1)."""

    asset: str
    accounts: int
    has: int
    owes: int
    held_out: int
    held_in: int

    @property
    def balanced(self) -> bool:
        """Whether they are."""
        return self.has == self.owes and self.held_out == self.held_in


def account(session: Session, name: str) -> Account:
    """The account of this name; `NotFound` if there is none."""
    found = session.rows(_one, name)
    if not found:
        raise NotFound(f"account {name[: limits.account_name_chars_max]!r}: expected it in the books, found none")
    return account_of(found[0])


def accounts(session: Session) -> Iterator[Account]:
    """All of them, in the order in which they were opened."""
    return map(account_of, session.stream(_all))


def balance_at(session: Session, name: str, time: int) -> Balance:
    """What the account had when `time`, seconds since the Unix epoch, was over; `NotFound` if there is none."""
    return _balance_at(session, account(session, name), _last_until(session, time))


def statement(session: Session, name: str, before: int | None = None, count: int = 100) -> list[Line]:
    """The last `count` changes of an account, newest first; `before` is the version of a line already seen."""
    number = account(session, name).number
    count = min(count, limits.statement_lines_max)
    rows = session.rows(_lines, number, limits.canonical_integer_max if before is None else before, count)
    return [Line(seq, time, kind, note, target, Entry(*entry)) for seq, time, kind, note, target, *entry in rows]


def due(session: Session, after: int, until: int, count: int) -> list[int]:
    """Holds that stand though their time, later than `after`, was over at `until`."""
    return [number for (number,) in session.rows(_due, after, until, count)]


def number_of(session: Session, key: str) -> int | None:
    """The record of a request with this idempotency key, None where none was taken."""
    found = session.rows(_known, key)
    return found[0][0] if found else None


def size_and_time(session: Session) -> tuple[int, int]:
    """How many records there are, and the time of the last."""
    found = session.rows(_last)
    return (found[0][0] + 1, found[0][1]) if found else (0, 0)


def trial_balance(session: Session, time: int | None = None) -> list[Total]:
    """For each asset in use the sums over all accounts, now or as of `time`; Python's integers do not overflow."""
    until = None if time is None else _last_until(session, time)
    found: dict[str, tuple[int, int, int, int, int]] = {}
    for each in list(accounts(session)):
        if until is not None and each.number > until:
            continue
        then = Balance(each.terms.asset, each.balance, each.held_out, each.held_in)
        if until is not None:
            then = _balance_at(session, each, until)
        count, has, owes, held_out, held_in = found.get(each.terms.asset, (0, 0, 0, 0, 0))
        has, owes = has + max(then.balance, 0), owes + max(-then.balance, 0)
        found[each.terms.asset] = (count + 1, has, owes, held_out + then.held_out, held_in + then.held_in)
    return [Total(asset, *sums) for asset, sums in sorted(found.items())]


def versions_until(session: Session, account: Account, record: int) -> int:
    """How many entries of the account are of record `record` or earlier."""
    entry = _entry_until(session, account, record)
    return 0 if entry is None else entry.version


def records(session: Session, begin: int, end: int) -> Iterator[Record]:
    """Records `begin` to `end`, the end left out, as far as they are there."""
    for first in range(begin, end, _read_at_once):
        bounds = (first, min(end, first + _read_at_once))
        entries = {
            number: [row[1:] for row in rows]
            for number, rows in groupby(session.rows(_entries, *bounds), key=itemgetter(0))
        }
        terms = {row[0]: Terms(*row[1:]) for row in session.rows(_terms, *bounds)}
        for row in session.rows(_records, *bounds):
            yield record_of(row, entries.get(row[0], ()), terms.get(row[0]))


def record(session: Session, number: int) -> Record:
    """One record; `NotFound` if there is none of this number."""
    for found in records(session, number, number + 1):
        return found
    raise NotFound(f"record {number}: expected it in the books, found none")


def _last_until(session: Session, time: int) -> int:
    found = session.rows(_until, time)[0][0]
    return -1 if found is None else found


def _balance_at(session: Session, account: Account, until: int) -> Balance:
    """After the account's last entry of record `until` or earlier."""
    entry = _entry_until(session, account, until)
    if entry is None:
        return Balance(account.terms.asset, 0, 0, 0)
    return Balance(account.terms.asset, entry.balance, entry.held_out, entry.held_in)


def _entry_until(session: Session, account: Account, until: int) -> Entry | None:
    """The account's last entry of record `until` or earlier, found by halving: versions and records both rise."""
    low, high = 0, account.version  # version `low` is of it or earlier; those above `high` are later
    entry: Entry | None = None
    while low < high:
        middle = (low + high + 1) // 2
        row = session.rows(_version, account.number, middle)[0]
        if row[0] <= until:
            low, entry = middle, Entry(*row[1:])
        else:
            high = middle - 1
    return entry
