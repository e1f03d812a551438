"""Migrations run once, in order, whole or not at all, in both databases; what ran and was edited is noticed."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from blyan.primitives.errors import IntegrityFault, SchemaTooNew, Unavailable
from blyan.storage.migrate import (
    Database,
    Dialect,
    PostgresDatabase,
    SqliteDatabase,
    migrate,
    migrations_folder,
    pending,
    read_migrations,
)

OURS = range(1, 10)
ONE = "-- the first\nCREATE TABLE a (x INTEGER);\n"
TRIGGER = {
    "sqlite": "CREATE TABLE b (y INTEGER);\nCREATE TRIGGER t BEFORE DELETE ON b\n"
    "BEGIN\n  SELECT raise(ABORT, 'no; never');\nEND;\n-- done",
    "postgres": "CREATE TABLE b (y INTEGER);\nCREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$\n"
    "BEGIN\n  RAISE EXCEPTION 'no; never';\nEND $$;\nCREATE TRIGGER t BEFORE DELETE ON b EXECUTE FUNCTION no();\n",
}
Open = Callable[[], Database]


def now() -> int:
    return 1_700_000_000


@pytest.fixture(params=["sqlite", "postgres"])
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return request.param


@pytest.fixture
def connect(dialect: Dialect, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], object]]:
    opened: list[sqlite3.Connection | psycopg.Connection] = []
    url = request.getfixturevalue("postgres_url") if dialect == "postgres" else ""

    def connect() -> object:
        if dialect == "postgres":
            opened.append(psycopg.connect(url, autocommit=True))
        else:
            opened.append(sqlite3.connect(tmp_path / "db", isolation_level=None, check_same_thread=False))
        return opened[-1]

    yield connect
    for each in opened:
        each.close()


@pytest.fixture
def connection(connect):
    return connect()


@pytest.fixture
def database(dialect: Dialect, connection) -> Database:
    return wrapped(connection)


def wrapped(connection) -> Database:
    return SqliteDatabase(connection) if isinstance(connection, sqlite3.Connection) else PostgresDatabase(connection)


def write(folder: Path, dialect: Dialect, name: str, text: str) -> None:
    (folder / dialect).mkdir(exist_ok=True)
    (folder / dialect / f"{name}.sql").write_text(text)


def ran(database: Database, dialect: Dialect, folder: Path) -> list[str]:
    return [each.name for each in migrate(database, read_migrations(dialect, OURS, folder), now)]


def test_each_file_runs_once_and_in_order(database: Database, dialect: Dialect, connection, tmp_path: Path) -> None:
    write(tmp_path, dialect, "002_b", TRIGGER[dialect])
    write(tmp_path, dialect, "001_a", ONE)
    assert ran(database, dialect, tmp_path) == ["001_a", "002_b"]
    assert ran(database, dialect, tmp_path) == []
    connection.execute("INSERT INTO b VALUES (1)")
    with pytest.raises((sqlite3.Error, psycopg.Error), match="never"):
        connection.execute("DELETE FROM b")


def test_a_later_file_runs_on_top_of_the_earlier(database: Database, dialect: Dialect, tmp_path: Path) -> None:
    write(tmp_path, dialect, "001_a", ONE)
    ran(database, dialect, tmp_path)
    write(tmp_path, dialect, "002_b", "ALTER TABLE a ADD COLUMN z INTEGER;\n")
    assert [each.name for each in pending(database, read_migrations(dialect, OURS, tmp_path))] == ["002_b"]
    assert ran(database, dialect, tmp_path) == ["002_b"]


def test_owners_of_other_numbers_share_a_database(database: Database, dialect: Dialect, tmp_path: Path) -> None:
    write(tmp_path, dialect, "010_theirs", "CREATE TABLE theirs (x INTEGER);\n")
    theirs = read_migrations(dialect, range(10, 20), tmp_path)
    assert [each.name for each in migrate(database, theirs, now)] == ["010_theirs"]
    write(tmp_path, dialect, "001_a", ONE)
    assert ran(database, dialect, tmp_path) == ["001_a"]
    assert pending(database, theirs) == ()


def test_a_file_that_fails_leaves_nothing_and_keeps_those_before(
    database: Database, dialect: Dialect, connection, tmp_path: Path
) -> None:
    write(tmp_path, dialect, "001_a", ONE)
    write(tmp_path, dialect, "002_b", "CREATE TABLE b (x INTEGER);\nCREATE TABLE a (x INTEGER);\n")
    with pytest.raises(Unavailable, match="already exists"):
        ran(database, dialect, tmp_path)
    assert [each.name for each in pending(database, read_migrations(dialect, OURS, tmp_path))] == ["002_b"]
    connection.execute("SELECT x FROM a")
    with pytest.raises((sqlite3.Error, psycopg.Error), match="b"):
        connection.execute("SELECT x FROM b")


def test_an_edited_file_is_refused(database: Database, dialect: Dialect, tmp_path: Path) -> None:
    write(tmp_path, dialect, "001_a", ONE)
    ran(database, dialect, tmp_path)
    write(tmp_path, dialect, "001_a", ONE + " ")
    with pytest.raises(IntegrityFault, match="001_a"):
        ran(database, dialect, tmp_path)


def test_a_database_of_a_newer_version_is_left_alone(database: Database, dialect: Dialect, tmp_path: Path) -> None:
    write(tmp_path, dialect, "001_a", ONE)
    write(tmp_path, dialect, "002_b", TRIGGER[dialect])
    ran(database, dialect, tmp_path)
    (tmp_path / dialect / "002_b.sql").unlink()
    with pytest.raises(SchemaTooNew, match="002_b"):
        ran(database, dialect, tmp_path)


def test_a_file_that_ends_its_transaction_is_refused(database: Database, dialect: Dialect, tmp_path: Path) -> None:
    write(tmp_path, dialect, "001_a", "CREATE TABLE a (x INTEGER);\nCOMMIT;\n")
    with pytest.raises(IntegrityFault, match="ended it"):
        ran(database, dialect, tmp_path)


def test_processes_that_start_together_run_each_file_once(dialect: Dialect, connect, tmp_path: Path) -> None:
    for number in range(1, 6):
        write(tmp_path, dialect, f"{number:03}_t", f"CREATE TABLE t{number} (x INTEGER);\n")
    databases = [wrapped(connect()) for _ in range(6)]
    found: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda each=each: found.append(ran(each, dialect, tmp_path))) for each in databases
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(name for names in found for name in names) == [f"{number:03}_t" for number in range(1, 6)]
    assert len(found) == 6


def test_a_gap_a_double_and_a_wrong_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "sqlite", "002_b", ONE)
    with pytest.raises(IntegrityFault, match="expected number 001"):
        read_migrations("sqlite", OURS, tmp_path)
    write(tmp_path, "sqlite", "001_a", ONE)
    write(tmp_path, "sqlite", "001_b", ONE)
    with pytest.raises(IntegrityFault, match="expected number 002"):
        read_migrations("sqlite", OURS, tmp_path)
    write(tmp_path, "sqlite", "fix", ONE)
    with pytest.raises(IntegrityFault, match="fix"):
        read_migrations("sqlite", OURS, tmp_path)


def test_a_statement_without_an_end_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "sqlite", "001_a", "CREATE TABLE a (x INTEGER)\n")
    database = SqliteDatabase(sqlite3.connect(":memory:", isolation_level=None))
    with pytest.raises(IntegrityFault, match="last statement"):
        ran(database, "sqlite", tmp_path)


def test_both_folders_hold_the_same_numbers_of_the_ledger() -> None:
    """Those from 010 on are of accounts, which are kept in SQLite or Redis."""
    folder = migrations_folder()
    names = [sorted(path.stem[:3] for path in (folder / dialect).glob("00*.sql")) for dialect in ("sqlite", "postgres")]
    assert names[0] == names[1] != []
