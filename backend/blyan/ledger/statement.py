"""What an account's owner reads: one line for each record that changed it, newest first, and the holds that stand.

Each function reads through a session inside `reading`. A page ends between two records, so that the next one begins
with `before` the last record that was seen, whatever was written meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Final

from blyan.ledger import reading
from blyan.ledger.accounts import Account
from blyan.ledger.records import Kind
from blyan.ledger.store import Row, Session
from blyan.primitives import limits

_lines: Final = (
    "SELECT r.seq, r.time, r.kind, r.key, r.note, e.amount, e.held_out, e.balance FROM entry e "
    "JOIN record r ON r.seq = e.record WHERE e.account = ? AND e.version <= ? ORDER BY e.version DESC LIMIT ?"
)
_holds: Final = (
    "SELECT h.seq, e.out_change, h.time, h.expires, h.note, "
    "(SELECT x.seq FROM record x WHERE x.target = h.seq) FROM entry e JOIN record h ON h.seq = e.record "
    "WHERE e.account = ? AND e.version <= ? ORDER BY e.version DESC LIMIT ?"
)
_read_at_once: Final = 500


@dataclass(frozen=True, slots=True)
class Line:
    """What one record did: `amount` changed the balance; `held` and `balance` are those after it."""

    record: int
    time: int
    kind: Kind
    key: str
    note: str
    amount: int
    held: int
    balance: int


@dataclass(frozen=True, slots=True)
class Page:
    """Lines, newest first; `following` is the `before` of the next page, None where there is none."""

    lines: tuple[Line, ...]
    following: int | None


@dataclass(frozen=True, slots=True)
class Standing:
    """A hold on money of the account: record `record` promised `amount` at `since`, until `until`."""

    record: int
    amount: int
    since: int
    until: int
    note: str


def page(session: Session, account: Account, before: int | None = None, count: int = 100) -> Page:
    """At most `count` lines of records before `before`, or of the newest ones."""
    last = account.version if before is None else reading.versions_until(session, account, before - 1)
    # a record has at most so many entries of one account; what is left over tells whether the last is whole
    wanted = min(count, limits.statement_lines_max) + limits.legs_max
    rows = session.rows(_lines, account.number, last, wanted)
    lines = [_line(list(found)) for _, found in groupby(rows, key=itemgetter(0))]
    if len(rows) == wanted:
        lines.pop()
    shown = lines[: min(count, limits.statement_lines_max)]
    more = len(rows) == wanted or len(shown) < len(lines)
    return Page(tuple(shown), shown[-1].record if more else None)


def holds(session: Session, account: Account, count: int) -> list[Standing]:
    """At most `count` holds that stand, newest first: looked for until they make up what is held."""
    found: list[Standing] = []
    missing = account.held_out
    for last in range(account.version, 0, -_read_at_once):
        if not missing or len(found) >= count:
            break
        for number, amount, time, expires, note, ended in session.rows(_holds, account.number, last, _read_at_once):
            if expires is not None and amount > 0 and ended is None:
                found.append(Standing(number, amount, time, expires, note))
                missing -= amount
    return found[:count]


def _line(rows: Sequence[Row]) -> Line:
    """One record's entries of one account, newest first, as one line."""
    seq, time, kind, key, note, _, held, balance = rows[0]
    return Line(seq, time, kind, key, note, sum(row[5] for row in rows), held, balance)
