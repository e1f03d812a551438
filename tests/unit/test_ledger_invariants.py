"""Whoever writes past the rules is refused by the database itself: I1 to I10, in SQLite and in PostgreSQL."""

from __future__ import annotations

import pytest

from blyan.ledger.store import Store
from blyan.ledger.transfers import Close, Hold, Leg, Settle, Void
from blyan.primitives.errors import IntegrityFault
from ledgers import do, one, post, with_accounts

LEAF = bytes(32)
FIELDS = "(record, n, account, version, amount, out_change, in_change, balance, held_out, held_in)"
# records: 0 mint, 1 a, 2 b, 3 and 4 fund them, 5 a hold of 100 from a for b for 60 s, 6 a post of 10 from a to b
A, B, MINT, HELD, POSTED, NEXT = 1, 2, 0, 5, 6, 7
TIME = 1_700_000_000


@pytest.fixture
def books(store: Store) -> Store:
    with_accounts(store, "a", "b")
    one(store, Hold("hold", Leg("a", "b", 100), 60))
    one(store, post("post", "a", "b", 10))
    return store


def run(store: Store, *statements: tuple[str, tuple[object, ...]]) -> None:
    with store.session() as session, session.writing():
        for text, values in statements:
            session.many(text, [values])


def entry(*values: int) -> tuple[str, tuple[object, ...]]:
    return f"INSERT INTO entry {FIELDS} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values


def record(
    kind: str,
    *,
    seq: int = NEXT,
    target: int | None = None,
    key: str = "raw",
    time: int = TIME,
    expires: int | None = None,
) -> tuple[str, tuple[object, ...]]:
    columns = "(seq, time, kind, key, request, target, expires, note, leaf)"
    return f"INSERT INTO record {columns} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (
        seq,
        time,
        kind,
        key,
        LEAF,
        target,
        expires,
        "",
        LEAF,
    )


# a: version 3, balance 990, 100 held from it; b: version 3, balance 1,010, 100 held for it
PAY = (entry(NEXT, 0, A, 4, -5, 0, 0, 985, 100, 0), entry(NEXT, 1, B, 4, 5, 0, 0, 1_015, 0, 100))
END = (entry(NEXT, 0, A, 4, -60, -100, 0, 930, 0, 0), entry(NEXT, 1, B, 4, 60, 0, -100, 1_070, 0, 0))
RELEASE = (entry(NEXT, 0, A, 4, 0, -100, 0, 990, 0, 0), entry(NEXT, 1, B, 4, 0, 0, -100, 1_010, 0, 0))


def test_what_the_rules_would_write_is_taken(books: Store) -> None:
    """Else the refusals below would say nothing."""
    run(books, *PAY, record("post"))


def test_a_settlement_that_the_rules_would_write_is_taken(books: Store) -> None:
    run(books, *END, record("settle", target=HELD))


REFUSED = {
    "I1 debits without credits": (PAY[0], record("post")),
    "I1 unequal sides": (PAY[0], entry(NEXT, 1, B, 4, 6, 0, 0, 1_016, 0, 100), record("post")),
    "I1 an entry without its record": (PAY[0],),
    "I2 an amount of 0": (
        entry(NEXT, 0, A, 4, 0, 0, 0, 990, 100, 0),
        entry(NEXT, 1, B, 4, 0, 0, 0, 1_010, 0, 100),
        record("post"),
    ),
    "I2 a credit in a debit's place": (
        entry(NEXT, 0, A, 4, 5, 0, 0, 995, 100, 0),
        entry(NEXT, 1, B, 4, -5, 0, 0, 1_005, 0, 100),
        record("post"),
    ),
    "I2 a post without entries": (record("post"),),
    "I2 a hold that moves": (*PAY, record("hold", expires=TIME + 1)),
    "I2 an opening without an account": (record("open"),),
    "I2 a closing that closes nothing": (record("close", target=A),),
    "I2 a reversal that moves something else": (*PAY, record("reverse", target=POSTED)),
    "I2 a reversal of a hold": (*PAY, record("reverse", target=HELD)),
    "I3 a number left out": (
        entry(8, 0, A, 4, -5, 0, 0, 985, 100, 0),
        entry(8, 1, B, 4, 5, 0, 0, 1_015, 0, 100),
        record("post", seq=8),
    ),
    "I3 time goes back": (*PAY, record("post", time=TIME - 1)),
    "I3 one more entry for an old record": (entry(POSTED, 2, A, 4, -5, 0, 0, 985, 100, 0),),
    "I3 a changed record": (("UPDATE record SET time = ? WHERE seq = 6", (TIME + 9,)),),
    "I3 a changed entry": (("UPDATE entry SET amount = ? WHERE record = 6", (1,)),),
    "I3 a deleted record": (("DELETE FROM record WHERE seq = ?", (6,)),),
    "I3 a deleted entry": (("DELETE FROM entry WHERE record = ?", (6,)),),
    "I3 a deleted account": (("DELETE FROM account WHERE id = ?", (A,)),),
    "I3 other terms": (("UPDATE account SET floor = ? WHERE id = 1", (-9,)),),
    "I3 an account beside its record": (
        ("INSERT INTO account (id, name, asset, floor, ceiling) VALUES (?, 'x', 'BLY', 0, 9)", (POSTED,)),
    ),
    "I4 more than is available": (
        entry(NEXT, 0, A, 4, -891, 0, 0, 99, 100, 0),
        entry(NEXT, 1, B, 4, 891, 0, 0, 1_901, 0, 100),
        record("post"),
    ),
    "I4 a hold of more than is available": (
        entry(NEXT, 0, A, 4, 0, 891, 0, 990, 991, 0),
        entry(NEXT, 1, B, 4, 0, 0, 891, 1_010, 0, 991),
        record("hold", expires=TIME + 1),
    ),
    "I5 more than was held": (
        entry(NEXT, 0, A, 4, -101, -100, 0, 889, 0, 0),
        entry(NEXT, 1, B, 4, 101, 0, -100, 1_111, 0, 0),
        record("settle", target=HELD),
    ),
    "I5 settled when its time is over": (*END, record("settle", target=HELD, time=TIME + 60)),
    "I5 expired before its time is over": (*RELEASE, record("expire", target=HELD)),
    "I5 a void that moves": (*END, record("void", target=HELD)),
    "I5 a part released": (
        entry(NEXT, 0, A, 4, 0, -50, 0, 990, 50, 0),
        entry(NEXT, 1, B, 4, 0, 0, -50, 1_010, 0, 50),
        record("void", target=HELD),
    ),
    "I5 no hold": (*RELEASE, record("void", target=POSTED)),
    "I6 a key twice": (*PAY, record("post", key="post")),
    "I6 a refusal for a taken key": (
        ("INSERT INTO refusal (key, request, time, code, message) VALUES ('post', ?, 1, 'x', 'x')", (LEAF,)),
    ),
    "I7 a version left out": (
        entry(NEXT, 0, A, 5, -5, 0, 0, 985, 100, 0),
        entry(NEXT, 1, B, 4, 5, 0, 0, 1_015, 0, 100),
        record("post"),
    ),
    "I7 another balance after": (
        entry(NEXT, 0, A, 4, -5, 0, 0, 986, 100, 0),
        entry(NEXT, 1, B, 4, 5, 0, 0, 1_015, 0, 100),
        record("post"),
    ),
    "I7 a balance by hand": (("UPDATE account SET balance = ? WHERE id = 1", (5,)),),
    "I7 a version by hand": (("UPDATE account SET version = version + 1, balance = ? WHERE id = 1", (5,)),),
    "I7 an account that begins with something": (
        ("INSERT INTO account (id, name, asset, floor, ceiling, balance) VALUES (?, 'x', 'BLY', 0, 9, 5)", (NEXT,)),
        record("open"),
    ),
    "I9 a seal of more than there is": (("INSERT INTO seal (number, size, root, time) VALUES (0, 8, ?, 1)", (LEAF,)),),
    "I9 a seal that is not the next": (("INSERT INTO seal (number, size, root, time) VALUES (1, 2, ?, 1)", (LEAF,)),),
    "I10 a full account closed": (
        ("UPDATE account SET closed = ? WHERE id = 1", (NEXT,)),
        record("close", target=A),
    ),
    "I10 closed by no record": (("UPDATE account SET closed = ? WHERE id = 0", (NEXT,)),),
    "another asset": (
        ("INSERT INTO account (id, name, asset, floor, ceiling) VALUES (?, 'x', 'DOGE', 0, 9)", (NEXT,)),
        record("open"),
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_database_refuses(books: Store, what: str) -> None:
    with pytest.raises(IntegrityFault):
        run(books, *REFUSED[what])
    run(books, *PAY, record("post"))  # nothing of it stayed


def test_a_hold_is_not_ended_twice(books: Store) -> None:
    one(books, Void("void", HELD))
    again = (entry(8, 0, A, 5, 0, -100, 0, 990, -100, 0), entry(8, 1, B, 5, 0, 0, -100, 1_010, 0, -100))
    with pytest.raises(IntegrityFault):
        run(books, *again, record("void", seq=8, target=HELD))


def test_a_key_that_was_refused_is_used(books: Store) -> None:
    assert not one(books, post("poor", "a", "b", 10**6)).taken
    with pytest.raises(IntegrityFault):
        run(books, *PAY, record("post", key="poor"))


def test_a_closed_account_takes_nothing_from_anybody(books: Store) -> None:
    do(books, Settle("all", HELD, 100), post("rest", "a", "b", 890), Close("a"))
    with pytest.raises(IntegrityFault):
        run(
            books,
            entry(10, 0, B, 6, -1, 0, 0, 1_999, 0, 0),
            entry(10, 1, A, 6, 1, 0, 0, 1, 0, 0),
            record("post", seq=10),
        )
    assert one(books, post("late", "b", "a", 1)).refusal.code == "account_closed"


@pytest.mark.parametrize("table", ["asset", "record", "entry", "refusal", "seal", "tile"])
def test_no_table_loses_a_row_by_replacement(sqlite_store: Store, table: str) -> None:
    """OR REPLACE deletes without asking, unless the trigger that comes first finds something."""
    with_accounts(sqlite_store, "a")
    one(sqlite_store, post("poor", "a", "system:mint", 10**6))
    with sqlite_store.session() as session:
        rows = session.rows({
            "asset": "SELECT * FROM asset", "record": "SELECT * FROM record", "entry": "SELECT * FROM entry",
            "refusal": "SELECT * FROM refusal", "seal": "SELECT * FROM seal", "tile": "SELECT * FROM tile",
        }[table])  # fmt: skip
        for row in rows:
            places = ", ".join("?" * len(row))
            with pytest.raises(IntegrityFault), session.writing():
                session.many(f"INSERT OR REPLACE INTO {table} VALUES ({places})", [row])
