"""`blyan ledger verify`: recompute everything from the records alone, and name what is wrong.

Reads in one pass, in order, and shares none of the rules' code: every leaf, root and balance is computed again here.
What the database keeps beside the records (accounts as they are now, tiles) is compared with what they give.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from blyan.chain.merkle import RightEdge
from blyan.ledger.accounts import Terms
from blyan.ledger.records import Entry, Record, kinds, leaf_of, record_of
from blyan.ledger.store import Row, Session
from blyan.primitives import limits
from blyan.primitives.errors import Fault, InvalidInput

Progress = Callable[[int, int], None]

_records: Final = "SELECT seq, time, kind, key, request, target, expires, note, leaf FROM record ORDER BY seq"
_entries: Final = (
    "SELECT record, n, account, version, amount, out_change, in_change, balance, held_out, held_in FROM entry "
    "ORDER BY record, n"
)
_accounts: Final = (
    "SELECT id, name, asset, floor, ceiling, closed, version, balance, held_out, held_in FROM account ORDER BY id"
)
_seals: Final = "SELECT number, size, root, time FROM seal ORDER BY number"
_tiles: Final = "SELECT level, number, hashes FROM tile ORDER BY level, number"
_clashes: Final = "SELECT r.key FROM refusal f JOIN record r ON r.key = f.key ORDER BY r.key LIMIT 10"
_count: Final = "SELECT count(*) FROM record"
_said_every: Final = 8_192
_integers: Final = {int}
_counted: Final = list(range(2 * limits.legs_max))


@dataclass(frozen=True, slots=True)
class Promise:
    """What was promised elsewhere, in a joint checkpoint: the first `size` records have this root."""

    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Report:
    """What a verification saw; `faults` are sentences that name the bad record, account or seal."""

    records: int
    entries: int
    accounts: int
    seals: int
    sealed: int  # records under the last seal
    faults: tuple[str, ...]


@dataclass(slots=True)
class _Account:
    """An account as the records give it."""

    name: str
    asset: str
    floor: int
    ceiling: int
    closed: int | None = None
    version: int = 0
    balance: int = 0
    held_out: int = 0
    held_in: int = 0


@dataclass(slots=True)
class _Fold:
    """What the records so far give."""

    accounts: dict[int, _Account] = field(default_factory=dict[int, _Account])
    names: set[str] = field(default_factory=set[str])
    keys: set[bytes] = field(default_factory=set[bytes])  # half of a hash of each: what fits in memory
    holds: dict[int, tuple[int, tuple[Entry, ...]]] = field(default_factory=dict[int, tuple[int, tuple[Entry, ...]]])
    # not reversed: account and amount of each entry, in tuples of integers, which the collector does not look through
    moves: dict[int, tuple[int, ...]] = field(default_factory=dict[int, tuple[int, ...]])
    time: int = 0


def verify(session: Session, promises: tuple[Promise, ...] = (), progress: Progress | None = None) -> Report:
    """Recompute the books; faults are reported, not raised. `Unavailable` if the database does not answer."""
    faults: list[str] = []
    counts = [0, 0, 0, 0, 0]
    try:
        with session.reading():
            faults += session.damage()
            counts = _pass(session, promises, progress, faults)
    except Fault as fault:
        if not faults and fault.code == "unavailable":
            raise
        faults.append(f"the database: {fault.message}")
    records, entries, accounts, seals, sealed = counts
    return Report(records, entries, accounts, seals, sealed, tuple(faults[: limits.ledger_faults_max]))


def _pass(session: Session, promises: tuple[Promise, ...], progress: Progress | None, faults: list[str]) -> list[int]:
    total: int = session.rows(_count)[0][0]
    stored = {row[0]: row for row in session.stream(_accounts)}
    seals = _seal_rows(session, faults)
    roots = _wanted(seals, promises)
    fold, edge = _Fold(), RightEdge()
    tiles: dict[tuple[int, int], bytes] = {}
    entries = 0
    for row, entry_rows in _together(session, faults):
        number, leaf = row[0], row[8]
        while edge.size < number and len(faults) < limits.ledger_faults_max:
            faults.append(f"record {edge.size}: missing")
            _append(edge, tiles, bytes(32))
        if len(faults) >= limits.ledger_faults_max:
            break
        entries += len(entry_rows)
        problem = _record_problem(fold, row, entry_rows, stored.get(number))
        if problem is not None:
            faults.append(f"record {number}: {problem}")
        _append(edge, tiles, leaf if isinstance(leaf, bytes) and len(leaf) == 32 else bytes(32))
        for what, root in roots.pop(edge.size, ()):
            if edge.root() != root:
                faults.append(f"{what}: expected root {root.hex()}, computed {edge.root().hex()}")
        if progress is not None and edge.size % _said_every == 0:
            progress(edge.size, total)
    for size, missing in sorted(roots.items()):
        faults += [f"{what}: expected {size} records, found {edge.size}: the end is cut off" for what, _ in missing]
    faults += _account_problems(fold, stored)
    faults += _tile_problems(session, tiles, seals[-1][1] if seals else 0)
    faults += [f"key {key!r}: expected one outcome, found a record and a refusal" for (key,) in session.rows(_clashes)]
    if progress is not None:
        progress(edge.size, edge.size)
    return [edge.size, entries, len(fold.accounts), len(seals), seals[-1][1] if seals else 0]


def _together(session: Session, faults: list[str]) -> Iterator[tuple[Row, list[Row]]]:
    """Each record with its entries; entries of no record are named."""
    entries = session.stream(_entries)
    entry = next(entries, None)
    for row in session.stream(_records):
        mine: list[Row] = []
        while entry is not None and entry[0] <= row[0]:
            if entry[0] == row[0]:
                mine.append(entry)
            else:
                faults.append(f"record {entry[0]}: expected it beside its entry, found none")
            entry = next(entries, None)
        yield row, mine
    if entry is not None:
        faults.append(f"record {entry[0]}: expected it beside its entry, found none")


def _append(edge: RightEdge, tiles: dict[tuple[int, int], bytes], leaf: bytes) -> None:
    for tile in edge.append(leaf):  # pyright: ignore[reportArgumentType]
        # a digest of each is enough to compare it with
        tiles[tile.level, tile.number] = hashlib.sha256(b"".join(tile.hashes)).digest()


def _record_problem(fold: _Fold, row: Row, entry_rows: list[Row], account: Row | None) -> str | None:
    """What is wrong with a record, None if nothing is; folds it in either case, so that one fault stays one."""
    try:
        record = _typed(row, entry_rows, account)
        leaf = leaf_of(record)
    except (TypeError, ValueError, InvalidInput) as reason:  # ValueError: text that is not UTF-8
        return f"expected columns of their types, found {reason}"
    problem = _fold_problem(fold, record)
    if leaf != row[8]:
        return f"expected leaf {row[8].hex()}, computed {leaf.hex()}"
    return problem


def _typed(row: Row, entry_rows: list[Row], account: Row | None) -> Record:
    if set(map(type, chain(row[:2], *entry_rows))) != _integers:
        bad = next(values for values in (row[:2], *entry_rows) if set(map(type, values)) != _integers)
        raise TypeError(f"{bad!r} for integers")
    if row[2] not in kinds:
        raise ValueError(f"kind {row[2]!r}")
    if [entry[1] for entry in entry_rows] != _counted[: len(entry_rows)]:
        raise ValueError(f"entries numbered {[entry[1] for entry in entry_rows]}")
    terms = None
    if row[2] == "open":
        if account is None:
            raise ValueError("no account that it opens")
        terms = Terms(*account[1:5])
    return record_of(row[:8], [entry[2:] for entry in entry_rows], terms)


def _fold_problem(fold: _Fold, record: Record) -> str | None:
    """The first of what is wrong; everything is looked at, because looking is what folds."""
    problem = _time_and_key_problem(fold, record)
    other = _kind_problem(fold, record)
    problem = problem or other or _balance_problem(fold, record)
    for entry in record.entries:
        other = _entry_problem(fold, entry)
        problem = problem or other
    if record.kind == "close" and record.target in fold.accounts:
        fold.accounts[record.target].closed = record.number
    return problem


def _time_and_key_problem(fold: _Fold, record: Record) -> str | None:
    key = hashlib.blake2b(record.key.encode(), digest_size=16).digest()
    used = key in fold.keys
    fold.keys.add(key)
    before, fold.time = fold.time, max(fold.time, record.time)
    if record.time < before:
        return f"expected a time of {before} or later, found {record.time} (I3)"
    return f"expected a new key, found {record.key!r} again (I6)" if used else None


def _kind_problem(fold: _Fold, record: Record) -> str | None:
    """Whether it has the entries of its kind, and ends what it says once."""
    entries, terms = record.entries, record.terms
    match record.kind:
        case "open":
            assert terms is not None, "checked with the types"
            known = terms.name in fold.names
            fold.names.add(terms.name)
            fold.accounts[record.number] = _Account(terms.name, terms.asset, terms.floor, terms.ceiling)
            return "expected no entries and a new name" if entries or known or record.target is not None else None
        case "close":
            account = fold.accounts.get(record.target if record.target is not None else -1)
            if entries or account is None or account.closed is not None:
                return "expected an open account to close"
            empty = not (account.balance or account.held_out or account.held_in)
            return None if empty else f"expected account {account.name} empty, found it not so (I10)"
        case "post":
            fold.moves[record.number] = _moved(entries)
            legs = len(entries) > 0 and len(entries) % 2 == 0
            debits = True
            for entry in entries:
                right = entry.amount < 0 if debits else entry.amount > 0
                legs = legs and right and not entry.out_change and not entry.in_change
                debits = not debits
            return None if legs else "expected legs of amounts above 0 (I2)"
        case "hold":
            fold.holds[record.number] = (record.expires or 0, entries)
            plain = len(entries) == 2 and [(e.amount, e.out_change > 0, e.in_change > 0) for e in entries] == [
                (0, True, False),
                (0, False, True),
            ]
            return None if plain and record.expires is not None else "expected a hold of one account for another (I2)"
        case "reverse":
            moved = fold.moves.pop(record.target if record.target is not None else -1, None)
            back = tuple(value for entry in reversed(entries) for value in (entry.account, -entry.amount))
            return None if moved == back else "expected what one record moved, moved back once (I2)"
        case _:
            return _ending_problem(fold, record)


def _moved(entries: tuple[Entry, ...]) -> tuple[int, ...]:
    if len(entries) == 2:
        one, two = entries
        return one.account, one.amount, two.account, two.amount
    return tuple(value for entry in entries for value in (entry.account, entry.amount))


def _ending_problem(fold: _Fold, record: Record) -> str | None:
    held = fold.holds.pop(record.target if record.target is not None else -1, None)
    if held is None:
        return f"expected hold {record.target} to stand, found that it does not (I5)"
    expires, holding = held
    entries = record.entries
    released = [(h.account, -h.out_change, -h.in_change) for h in holding]
    if [(e.account, e.out_change, e.in_change) for e in entries] != released:
        return "expected all that was held to be released (I5)"
    moved = entries[1].amount
    if record.kind == "settle":
        fold.moves[record.number] = _moved(entries)
        within = 0 < moved <= holding[0].out_change and record.time < expires
        return None if within else f"expected a settlement within its hold and time, found {moved} (I5)"
    if moved or (record.kind == "expire" and record.time < expires):
        return "expected a hold released in its time, and nothing moved (I5)"
    return None


def _balance_problem(fold: _Fold, record: Record) -> str | None:
    accounts, entries = fold.accounts, record.entries
    if len(entries) == 2:  # nearly every record: one debit, one credit
        one, two = entries
        asset = accounts[one.account].asset if one.account in accounts else None
        if asset is not None and two.account in accounts and accounts[two.account].asset == asset:
            moved = one.amount + two.amount
            held = one.out_change - one.in_change + two.out_change - two.in_change
            return _unbalanced([asset]) if moved or held else None
    sums: dict[str, list[int]] = {}
    for entry in entries:
        account = accounts.get(entry.account)
        if account is not None:
            both = sums.setdefault(account.asset, [0, 0])
            both[0] += entry.amount
            both[1] += entry.out_change - entry.in_change
    unequal = [asset for asset, both in sums.items() if any(both)]
    return _unbalanced(unequal) if unequal else None


def _unbalanced(assets: list[str]) -> str:
    return f"expected debits to equal credits, found a difference in {', '.join(assets)} (I1)"


def _entry_problem(fold: _Fold, entry: Entry) -> str | None:
    number, version, amount, out_change, in_change, balance, held_out, held_in = entry
    account = fold.accounts.get(number)
    if account is None:
        return f"expected an account that was opened, found number {number}"
    follows = (
        version == account.version + 1
        and balance == account.balance + amount
        and held_out == account.held_out + out_change
        and held_in == account.held_in + in_change
    )
    account.version, account.balance = version, balance
    account.held_out, account.held_in = held_out, held_in
    if not follows:
        return f"expected the entry of account {account.name} to follow the one before (I7)"
    if account.closed is not None:
        return f"expected nothing for the closed account {account.name} (I10)"
    within = balance - held_out >= account.floor and balance + held_in <= account.ceiling
    if not within or held_out < 0 or held_in < 0:
        return f"expected account {account.name} within its limits, found {balance} (I4)"
    return None


def _account_problems(fold: _Fold, stored: dict[Any, Row]) -> list[str]:
    found = [f"account {row[1]!r}: expected the record that opens it, found none" for number, row in stored.items()
             if number not in fold.accounts]  # fmt: skip
    for number, account in fold.accounts.items():
        row = stored.get(number)
        now = (account.closed, account.version, account.balance, account.held_out, account.held_in)
        if row is None:
            found.append(f"account {account.name}: missing")
        elif row[5:] != now:
            found.append(f"account {account.name}: expected {now[1:]} from its entries, found {row[6:]} (I7)")
    return found


def _seal_rows(session: Session, faults: list[str]) -> list[Row]:
    """The seals; each must follow the one before."""
    seals = session.rows(_seals)
    size = time = 0
    for place, (number, sealed, _, when) in enumerate(seals):
        if number != place or sealed <= size or when < time:
            faults.append(f"seal {number}: expected number {place}, more than {size} records and time {time} or later")
        size, time = sealed, when
    return seals


def _wanted(seals: list[Row], promises: tuple[Promise, ...]) -> dict[int, list[tuple[str, bytes]]]:
    """The roots to compare with, by the number of records that they are over."""
    found: dict[int, list[tuple[str, bytes]]] = {}
    before = 0
    for number, size, root, _ in seals:
        found.setdefault(size, []).append((f"seal {number} (records {before} to {size - 1})", root))
        before = size
    for promise in promises:
        if promise.size:
            found.setdefault(promise.size, []).append(
                (f"joint checkpoint (records 0 to {promise.size - 1})", promise.root)
            )
    return found


def _tile_problems(session: Session, tiles: dict[tuple[int, int], bytes], sealed: int) -> list[str]:
    found: list[str] = []
    for level, number, hashes in session.stream(_tiles):
        computed = tiles.pop((level, number), None)
        if computed != hashlib.sha256(hashes).digest():
            found.append(f"tile {level}/{number}: expected the hashes that the records give, found others")
    missing = [key for key in tiles if (key[1] + 1) << (8 * (key[0] + 1)) <= sealed]
    return found + [f"tile {level}/{number}: missing" for level, number in sorted(missing)]
