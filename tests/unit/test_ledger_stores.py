"""The stores themselves: copies, schemas, and whose fault an error of a driver is; and the books as text."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import psycopg
import pytest

from blyan.ledger import export, reading
from blyan.ledger.postgres_store import PostgresStore, _fault_of
from blyan.ledger.records import encode_plain
from blyan.ledger.sqlite_store import SqliteStore, fault_of
from blyan.ledger.store import Store
from blyan.primitives.errors import IntegrityFault, NotFound, StorageFull, Unavailable
from ledgers import MINT, now, one, post, with_accounts


def test_a_store_says_whether_its_schema_is_this_version_s(store: Store, tmp_path: Path) -> None:
    store.want_current()  # type: ignore[attr-defined]
    old = SqliteStore(tmp_path / "old.db", create=True)
    with pytest.raises(Unavailable, match="001_ledger"):
        old.want_current()
    old.close()


def test_a_postgres_without_the_books_is_said(postgres_url: str) -> None:
    empty = PostgresStore(postgres_url)
    with pytest.raises(Unavailable, match="001_ledger"):
        empty.want_current()
    empty.close()


def test_books_that_are_not_there_are_not_made_by_looking(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        SqliteStore(tmp_path / "ledger.db")
    assert not (tmp_path / "ledger.db").exists()


def test_every_commit_is_synced_and_every_connection_holds_the_rules(sqlite_store: SqliteStore) -> None:
    with sqlite_store.session() as session:
        found = {name: session.rows(f"PRAGMA {name}")[0][0] for name in ("journal_mode", "synchronous", "foreign_keys")}
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_copy_is_of_one_moment_and_needs_no_other_file(sqlite_store: SqliteStore, tmp_path: Path) -> None:
    with_accounts(sqlite_store, "a", "b")
    sqlite_store.copy(tmp_path / "copy.db")
    one(sqlite_store, post("later", "a", "b", 1))
    copy = SqliteStore(tmp_path / "copy.db", frozen=True)
    copy.want_current()
    with copy.session() as session, session.reading():
        assert reading.size_and_time(session) == (5, now())
        with pytest.raises(Unavailable):
            session.many("INSERT INTO asset (code, scale) VALUES (?, ?)", [("X", 1)])
    copy.close()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("copy")] == ["copy.db"]


def test_a_copy_of_damaged_books_is_no_copy(sqlite_store: SqliteStore, tmp_path: Path) -> None:
    with_accounts(sqlite_store, "a")
    sqlite_store.close()
    sqlite_store.path.write_bytes(b"not a database" * 500)
    with pytest.raises(IntegrityFault, match="whole database"):
        SqliteStore(sqlite_store.path)
    with pytest.raises(Unavailable, match="closed"):
        sqlite_store.copy(tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


def test_a_transaction_that_fails_is_undone(store: Store) -> None:
    with_accounts(store, "a")
    with store.session() as session, pytest.raises(IntegrityFault), session.writing():
        session.many("INSERT INTO asset (code, scale) VALUES (?, ?)", [("X", 1), ("X", 1)])
    with store.session() as session:
        assert session.rows("SELECT code FROM asset ORDER BY code") == [("BLY",), ("USD",)]


def test_an_unknown_statement_is_the_moment_s_fault_and_the_session_goes_on(store: Store) -> None:
    with store.session() as session:
        with pytest.raises(Unavailable):
            session.rows("SELECT nothing FROM nowhere")
        assert session.rows("SELECT count(*) FROM record") == [(0,)]
        assert session.damage() == []


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_CONSTRAINT_TRIGGER, IntegrityFault),
        (sqlite3.SQLITE_CORRUPT, IntegrityFault),
        (sqlite3.SQLITE_FULL, StorageFull),
        (sqlite3.SQLITE_BUSY, Unavailable),
        (sqlite3.SQLITE_IOERR_FSYNC, Unavailable),
    ],
)
def test_errors_of_sqlite_say_whose_fault_it_is(code: int, kind: type[Exception]) -> None:
    reason = sqlite3.OperationalError("x")
    reason.sqlite_errorcode = code
    assert type(fault_of(reason, Path("ledger.db"))) is kind


def test_errors_of_postgres_say_whose_fault_it_is() -> None:
    assert type(_fault_of(psycopg.errors.CheckViolation("x"))) is IntegrityFault
    assert type(_fault_of(psycopg.errors.DiskFull(""))) is StorageFull
    assert type(_fault_of(psycopg.errors.LockNotAvailable("x"))) is Unavailable


def test_a_commit_whose_sync_fails_is_the_last(sqlite_store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows what reached the disk, so nothing more is written by this process."""
    with_accounts(sqlite_store, "a", "b")

    class Failing:
        """A connection whose COMMIT meets a disk that fails."""

        def __init__(self, real: sqlite3.Connection) -> None:
            self.real = real

        def __getattr__(self, name: str) -> object:
            return getattr(self.real, name)

        def execute(self, text: str, *values: object) -> object:
            if text == "COMMIT":
                reason = sqlite3.OperationalError("disk I/O error")
                reason.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
                raise reason
            return self.real.execute(text, *values)

    with sqlite_store.session() as session:
        monkeypatch.setattr(session, "_connection", Failing(session._connection))  # type: ignore[attr-defined]
        with pytest.raises(Unavailable, match="I/O"), session.writing():
            session.many("INSERT INTO asset (code, scale) VALUES (?, ?)", [("X", 1)])
    with pytest.raises(Unavailable, match="reach the disk"):
        one(sqlite_store, post("p", "a", "b", 1))
    again = SqliteStore(sqlite_store.path)
    assert one(again, post("p", "a", "b", 1)).taken
    again.close()


def test_a_server_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"expected the database to answer, found: .*No such file"):
        PostgresStore(f"postgresql://nobody@/none?host={tmp_path}", seconds=0.2)


def test_without_psycopg_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg_pool", None)
    with pytest.raises(Unavailable) as fault:
        PostgresStore("postgresql://x")
    assert "blyan[postgres]" in (fault.value.hint or "")


def test_the_books_as_text_are_records_and_decimal_amounts(store: Store) -> None:
    with_accounts(store, "a", "b", funds=150_000_000)
    one(store, post("p", "a", "b", 1, "-1 for nothing"))
    with store.session() as session, session.reading():
        lines = list(export.json_lines(session))
        records = list(reading.records(session, 0, 99))
        rows = list(export.csv_lines(session))
        mine = list(export.csv_lines(session, "b"))
    assert [line.encode() for line in lines] == [encode_plain(each) for each in records]
    assert rows[0] == mine[0] == export.header
    assert mine[1:] == [
        f'4,{now()},post,b,BLY,1,1.5,0,0,1.5,0,0,""',
        f'5,{now()},post,b,BLY,2,0.00000001,0,0,1.50000001,0,0,"\'-1 for nothing"',
    ]
    assert f"3,{now()},post,{MINT.name},BLY,1,-1.5,0,0,-1.5,0,0" in rows[1]
