"""Verification names the bad record, whichever bit of it changed, and finds what is missing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blyan.chain.merkle import leaf_hash
from blyan.ledger import audit, reading, records, seal
from blyan.ledger.accounts import Terms
from blyan.ledger.audit import Promise, Report
from blyan.ledger.records import Entry, Record, encode, encode_plain
from blyan.ledger.seal import parse_inclusion
from blyan.ledger.sqlite_store import SqliteStore
from blyan.ledger.store import Store
from blyan.ledger.transfers import Close, Expire, Hold, Leg, Post, Reverse, Settle, Void
from blyan.primitives.errors import IntegrityFault, InvalidInput, NotFound
from ledgers import MINT, as_vandal, do, now, one, post, with_accounts


def every_kind(store: Store) -> None:
    """A record of each kind, sealed twice."""
    clock = [now()]
    with_accounts(store, "a", "b", "c", funds=100)
    one(store, Hold("h1", Leg("a", "b", 50), 60, "three holds"))  # 7
    one(store, Hold("h2", Leg("a", "b", 20), 60))  # 8
    one(store, Hold("h3", Leg("a", "b", 10), 60))  # 9
    sealed(store)
    one(store, Settle("s", 7, 30))  # 10
    one(store, Void("v", 8))  # 11
    one(store, Post("p", (Leg("a", "b", 5), Leg("b", "c", 5)), "two legs"))  # 12
    one(store, Reverse("r", 10))  # 13
    one(store, post("out", "c", MINT.name, 105))  # 14
    one(store, Close("c"))  # 15
    one(store, Expire(9), clock=lambda: clock[0] + 100)  # 16
    one(store, post("poor", "a", "b", 10**6))  # refused
    sealed(store)


def sealed(store: Store) -> seal.Seal:
    with store.session() as session:
        made = seal.seal(session, now)
    assert made is not None
    return made


def verified(store: Store, *promises: Promise) -> Report:
    with store.session() as session:
        return audit.verify(session, promises)


@pytest.fixture
def vandal(sqlite_store: SqliteStore) -> Iterator[sqlite3.Connection]:
    every_kind(sqlite_store)
    connection = as_vandal(sqlite_store.path)
    yield connection
    connection.close()


def test_books_of_every_kind_of_record_are_whole(store: Store) -> None:
    every_kind(store)
    report = verified(store)
    assert report == Report(17, 26, 4, 2, 17, ())


def flipped(value: object) -> Iterator[object]:
    """The value with each of its bits changed, one at a time."""
    if isinstance(value, int):
        yield from (value ^ (1 << bit) for bit in range(62))
    else:
        raw = value.encode() if isinstance(value, str) else value
        assert isinstance(raw, bytes)
        for place in range(len(raw)):
            for bit in range(8):
                changed = bytearray(raw)
                changed[place] ^= 1 << bit
                yield bytes(changed)


def put(connection: sqlite3.Connection, table: str, column: str, where: str, value: object, text: bool) -> None:
    """Bytes of a text go in as they are, be they UTF-8 or not."""
    given = "CAST(? AS TEXT)" if text else "?"
    connection.execute(f"UPDATE {table} SET {column} = {given} WHERE {where}", (value,))


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 7, 10, 12, 15])
def test_every_bit_flip_in_a_sealed_record_is_named(
    sqlite_store: SqliteStore, vandal: sqlite3.Connection, number: int
) -> None:
    """Each bit of each column of the record, its entries and, of an opening, the account."""
    places = [("record", f"seq = {number}", "time kind key request target expires note leaf".split())]
    columns = "account version amount out_change in_change balance held_out held_in".split()
    entries = vandal.execute("SELECT n FROM entry WHERE record = ?", (number,)).fetchall()
    places += [("entry", f"record = {number} AND n = {n}", ["n", *columns]) for (n,) in entries]
    if number == 1:
        places.append(("account", "id = 1", "name asset floor ceiling".split()))
    flips = 0
    for table, where, names in places:
        for column in names:
            [value] = vandal.execute(f"SELECT {column} FROM {table} WHERE {where}").fetchone()
            if value is None:
                continue
            for bad in flipped(value):
                vandal.execute("BEGIN")
                try:
                    put(vandal, table, column, where, bad, isinstance(value, str))
                except sqlite3.IntegrityError:  # another row is there: the database cannot even hold it
                    vandal.execute("ROLLBACK")
                    continue
                vandal.execute("COMMIT")
                faults = verified(sqlite_store).faults
                assert any(f"record {number}:" in fault or f"record {number} " in fault for fault in faults), (
                    f"{table}.{column}: {value!r} became {bad!r}, and verify said {faults}"
                )
                again = where if column != "n" else f"record = {number} AND n = {bad}"
                put(vandal, table, column, again, value, isinstance(value, str))
                flips += 1
    assert flips > 500
    assert verified(sqlite_store).faults == ()


CHANGES = {
    "a record removed": ("DELETE FROM record WHERE seq = 12", "record 12: missing"),
    "the last record removed": ("DELETE FROM record WHERE seq = 16", "the end is cut off"),
    "an entry removed": ("DELETE FROM entry WHERE record = 12 AND n = 3", "record 12:"),
    "an entry of no record": ("INSERT INTO entry VALUES (99, 0, 1, 99, 1, 0, 0, 1, 0, 0)", "record 99:"),
    "an entry of a missing record": ("DELETE FROM record WHERE seq = 14", "record 14: expected it beside its entry"),
    "an account removed": ("DELETE FROM account WHERE id = 2", "record 2:"),
    "an account of nobody": (
        "INSERT INTO account (id, name, asset, floor, ceiling) VALUES (77, 'x', 'BLY', 0, 1)",
        "account 'x'",
    ),
    "a balance": ("UPDATE account SET balance = balance + 1 WHERE id = 1", "account a: expected"),
    "a version": ("UPDATE account SET version = version + 1 WHERE id = 1", "account a: expected"),
    "a closed account open": ("UPDATE account SET closed = NULL WHERE id = 3", "account c: expected"),
    "a root": ("UPDATE seal SET root = zeroblob(32) WHERE number = 0", "seal 0 (records 0 to 9)"),
    "a seal's size": ("UPDATE seal SET size = 11 WHERE number = 0", "seal 0 (records 0 to 10)"),
    "a seal of more": ("UPDATE seal SET size = 99 WHERE number = 1", "the end is cut off"),
    "a seal removed": ("DELETE FROM seal WHERE number = 0", "seal 1: expected number 0"),
    "a refusal for a key of a record": (
        "INSERT INTO refusal VALUES ('p', zeroblob(32), 1, 'x', 'x')",
        "key 'p': expected one outcome",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_found_and_named(sqlite_store: SqliteStore, vandal: sqlite3.Connection, what: str) -> None:
    statement, said = CHANGES[what]
    vandal.execute(statement)
    faults = verified(sqlite_store).faults
    assert any(said in fault for fault in faults), faults


def rewrite(connection: sqlite3.Connection, number: int, **fields: object) -> None:
    """Change a record and its leaf alike, as somebody would who knows how."""
    [row] = connection.execute(
        "SELECT seq, time, kind, key, request, target, expires, note FROM record WHERE seq = ?", (number,)
    ).fetchall()
    entries = connection.execute(
        "SELECT account, version, amount, out_change, in_change, balance, held_out, held_in FROM entry "
        "WHERE record = ? ORDER BY n",
        (number,),
    ).fetchall()
    names = ["seq", "time", "kind", "key", "request", "target", "expires", "note"]
    values = [fields.get(name, value) for name, value in zip(names, row, strict=True)]
    leaf = records.leaf_of(records.record_of(values, entries, None))
    for name, value in (*fields.items(), ("leaf", bytes(leaf))):
        connection.execute(f"UPDATE record SET {name} = ? WHERE seq = ?", (value, number))


def test_a_record_rewritten_with_its_leaf_breaks_the_seals_over_it(
    sqlite_store: SqliteStore, vandal: sqlite3.Connection
) -> None:
    rewrite(vandal, 12, note="never")
    faults = verified(sqlite_store).faults
    assert [fault.partition(":")[0] for fault in faults] == ["seal 1 (records 10 to 16)"]


ILLEGAL = {
    "I3 time goes back": (12, {"time": 5}, "(I3)"),
    "I6 a key twice": (12, {"key": "h1"}, "(I6)"),
    "I5 a hold ended twice": (11, {"target": 7}, "(I5)"),
    "I5 settled for another": (10, {"target": 8}, "(I5)"),
    "I2 a reversal of something else": (13, {"target": 12}, "(I2)"),
    "I2 a post that holds": (8, {"kind": "post", "expires": None}, "(I2)"),
    "I2 a hold that posts": (12, {"kind": "hold", "expires": 5}, "(I2)"),
    "I5 expired as a void within its time": (11, {"kind": "expire"}, "(I5)"),
    "a closing of nothing": (15, {"target": 99}, "expected an open account"),
    "an opening with entries": (12, {"kind": "open"}, "expected columns"),
}


@pytest.mark.parametrize("what", ILLEGAL)
def test_what_no_rule_allows_is_named_though_its_leaf_fits(
    sqlite_store: SqliteStore, vandal: sqlite3.Connection, what: str
) -> None:
    number, fields, said = ILLEGAL[what]
    for statement in (
        "CREATE TABLE loose AS SELECT * FROM record",  # without the indices that could not hold it
        "DROP TABLE record",
        "ALTER TABLE loose RENAME TO record",
    ):
        vandal.execute(statement)
    rewrite(vandal, number, **fields)
    faults = verified(sqlite_store).faults
    assert any(f"record {number}:" in fault and said in fault for fault in faults), faults


AMOUNTS = {
    "I1": ("UPDATE entry SET amount = 6, balance = balance + 1 WHERE record = 12 AND n = 1", "(I1)"),
    "I4": ("UPDATE account SET floor = -1, ceiling = 1 WHERE id = 2", "(I4)"),
    "I7": ("UPDATE entry SET balance = balance + 1 WHERE record = 12 AND n = 1", "(I7)"),
}


@pytest.mark.parametrize("what", AMOUNTS)
def test_sums_that_do_not_follow_are_named(sqlite_store: SqliteStore, vandal: sqlite3.Connection, what: str) -> None:
    statement, said = AMOUNTS[what]
    vandal.execute(statement)
    leaves = vandal.execute("SELECT seq FROM record WHERE kind <> 'open'").fetchall()
    for (number,) in leaves:
        rewrite(vandal, number)
    assert any(said in fault for fault in verified(sqlite_store).faults)


def test_a_truncation_that_takes_the_seals_too_is_found_by_the_joint_checkpoint(
    sqlite_store: SqliteStore, vandal: sqlite3.Connection
) -> None:
    with sqlite_store.session() as session:
        newest = seal.last_seal(session)
    assert newest is not None
    promise = Promise(newest.size, newest.root)
    assert verified(sqlite_store, promise).faults == ()
    for table, column in (("entry", "record"), ("record", "seq"), ("seal", "number")):
        vandal.execute(f"DELETE FROM {table} WHERE {column} >= ?", (16 if table != "seal" else 1,))
    [account] = vandal.execute("SELECT account FROM entry WHERE record = 12 AND n = 0").fetchone()
    assert account == 1
    assert any("joint checkpoint" in fault and "cut off" in fault for fault in verified(sqlite_store, promise).faults)


def test_another_root_than_the_joint_checkpoint_promises_is_named(store: Store) -> None:
    every_kind(store)
    faults = verified(store, Promise(10, bytes(32)), Promise(0, bytes(32))).faults
    assert [fault.partition(":")[0] for fault in faults] == ["joint checkpoint (records 0 to 9)"]


def test_a_damaged_file_is_no_crash(sqlite_store: SqliteStore, vandal: sqlite3.Connection) -> None:
    """Any byte of the file: verify names damage, or everything it says is as it was."""
    with sqlite_store.session() as session, session.reading():
        before = [encode(each) for each in reading.records(session, 0, 99)]
    vandal.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    vandal.close()
    sqlite_store.close()
    raw = sqlite_store.path.read_bytes()
    silent = 0
    for at in range(120, len(raw), 997):
        bad = bytearray(raw)
        bad[at] ^= 0x10
        copy = sqlite_store.path.with_name("bad.db")
        copy.write_bytes(bad)
        try:
            store = SqliteStore(copy)
            if not verified(store).faults:
                with store.session() as session, session.reading():
                    assert [encode(each) for each in reading.records(session, 0, 99)] == before
                silent += 1
            store.close()
        except IntegrityFault:
            continue
    assert silent < len(raw) // 997  # free space, mostly


def test_progress_is_told_and_faults_are_bounded(sqlite_store: SqliteStore, vandal: sqlite3.Connection) -> None:
    vandal.execute("DELETE FROM entry")
    vandal.execute("UPDATE record SET seq = seq + 500 WHERE seq >= 10")
    told: list[tuple[int, int]] = []
    with sqlite_store.session() as session:
        report = audit.verify(session, progress=lambda done, total: told.append((done, total)))
    assert len(report.faults) == 100
    assert told


many_digits = st.integers(-(1 << 62), 1 << 62)
entries = st.builds(Entry, st.integers(0, 1 << 40), st.integers(1, 1 << 40), *[many_digits] * 6)
words = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='"\\'), max_size=40)


@given(
    st.builds(
        Record,
        st.integers(0, 1 << 50),
        st.integers(0, 1 << 50),
        st.sampled_from(records.kinds),
        words,
        st.binary(min_size=32, max_size=32),
        st.none() | st.integers(0, 1 << 50),
        st.none() | st.integers(0, 1 << 50),
        words,
        st.lists(entries, max_size=16).map(tuple),
        st.none() | st.builds(Terms, st.from_regex(r"[a-z0-9][a-z0-9:._-]{0,20}", fullmatch=True), st.just("BLY")),
    )
)
def test_the_fast_encoding_is_the_canonical_one(record: Record) -> None:
    assert encode(record) == encode_plain(record)
    assert records.leaf_of(record) == leaf_hash(encode_plain(record))


def test_each_record_is_proved_under_each_seal(store: Store) -> None:
    """Sizes around a full tile of 256, and a record of each."""
    with_accounts(store, "a", "b", funds=0)
    written = 3
    for size in (4, 7, 255, 256, 257, 600):
        do(store, *(post(f"p {n}", MINT.name, "a", 1) for n in range(written, size)))
        written = size
        promise = sealed(store)
        assert promise.size == size
        with store.session() as session, session.reading():
            for number in {0, size // 2, size - 1, min(255, size - 1), max(0, size - 2)}:
                found = seal.inclusion(session, number)
                assert (found.size, found.root) == (size, promise.root)
                assert parse_inclusion(found.encode()) == found
    assert verified(store).faults == ()
    assert sealed(store) == promise  # nothing new, no new seal


def test_a_clock_that_is_put_back_puts_no_seal_back(store: Store) -> None:
    """A seal may be later than the records under it; the next one is not earlier."""
    with_accounts(store, "a")
    with store.session() as session:
        first = seal.seal(session, lambda: now() + 1_000)
    one(store, post("p", MINT.name, "a", 1))
    second = sealed(store)
    assert first is not None
    assert (second.number, second.time) == (first.number + 1, first.time)
    assert verified(store).faults == ()


def test_a_record_that_is_not_sealed_yet_has_no_proof(store: Store) -> None:
    with store.session() as session:
        assert seal.seal(session, now) is None
    with_accounts(store, "a", funds=0)
    with store.session() as session, pytest.raises(NotFound, match="sealed"):
        seal.inclusion(session, 1)


def test_a_proof_of_something_else_is_refused(store: Store) -> None:
    every_kind(store)
    with store.session() as session, session.reading():
        found = seal.inclusion(session, 12)
    changed = replace(found, record=found.record.replace(b"two legs", b"two eggs"))
    for bad, fault in (
        (changed.encode(), IntegrityFault),
        (found.encode().replace(b'"index":12', b'"index":13'), IntegrityFault),
        (found.encode().replace(b'"v":1}', b'"v":2}'), InvalidInput),
        (found.encode().replace(b'"index":12', b'"index":"12"'), InvalidInput),
        (found.encode().replace(b'"path":[', b'"path":["x",'), InvalidInput),
        (b"{}", InvalidInput),
        (b'{"index":1,"path":1,"record":"","root":"","size":2,"v":1}', InvalidInput),
    ):
        with pytest.raises(fault):
            parse_inclusion(bad)


def test_a_lost_tile_is_named_and_nothing_is_proved_from_it(sqlite_store: SqliteStore) -> None:
    with_accounts(sqlite_store, "a", funds=0)
    do(sqlite_store, *(post(f"p {n}", MINT.name, "a", 1) for n in range(300)))
    sealed(sqlite_store)
    vandal = as_vandal(sqlite_store.path)
    vandal.execute("UPDATE tile SET hashes = zeroblob(8192)")
    assert verified(sqlite_store).faults == ("tile 0/0: expected the hashes that the records give, found others",)
    with sqlite_store.session() as session, pytest.raises(IntegrityFault):
        seal.inclusion(session, 290)
    vandal.execute("DELETE FROM tile")
    assert verified(sqlite_store).faults == ("tile 0/0: missing",)
    one(sqlite_store, post("more", MINT.name, "a", 1))
    with sqlite_store.session() as session, pytest.raises(IntegrityFault, match="tile 0/0"):
        seal.seal(session, now)
    vandal.close()
