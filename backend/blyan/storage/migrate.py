"""Numbered SQL files bring a database from one version of its schema to the next: SQLite and PostgreSQL, forward only.

One file runs in one transaction, which also records its number and SHA-256 and holds the database's lock: what was
interrupted leaves nothing behind, two processes that start together run each file once, and a file that was edited
after it ran is noticed. Every owner of tables has its own range of numbers (migrations/README.md); ranges may share a
database. The caller opens connections: SQLite's with `isolation_level=None`, so that transactions begin where it is
said here, PostgreSQL's by psycopg 3, which is not imported before one is handed in.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

from blyan.primitives import limits
from blyan.primitives.clock import UnixSeconds
from blyan.primitives.errors import IntegrityFault, NotFound, SchemaTooNew, Unavailable
from blyan.storage import durable

if TYPE_CHECKING:
    import psycopg

Dialect: TypeAlias = Literal["sqlite", "postgres"]

_name: Final = re.compile(r"([0-9]{3})_[a-z0-9_]{1,60}")
_comments: Final = re.compile(r"(?:--[^\n]*|\s)*")
_lock_seconds: Final = 30
_lock_key: Final = 0x626C79616E  # "blyan": the advisory lock of PostgreSQL that migrations take


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: what it is called, what it says, and the SHA-256 of its bytes as 64 hex digits."""

    number: int
    name: str
    sql: str
    digest: str


@dataclass(frozen=True, slots=True)
class Migrations:
    """The files of one owner, in order and without gaps from the first of its `numbers`."""

    numbers: range
    files: tuple[Migration, ...]


@dataclass(frozen=True, slots=True)
class Recorded:
    """A migration that ran, as the database remembers it."""

    number: int
    name: str
    digest: str


class Database(Protocol):
    """What the runner needs of an engine."""

    def locked(self) -> AbstractContextManager[None]:
        """A transaction that nobody else's migration runs beside; committed on a clean exit, else rolled back."""
        ...

    def recorded(self, numbers: range) -> Sequence[Recorded]:
        """What ran, in order of number; nothing where no migration ever ran."""
        ...

    def run(self, migration: Migration, applied_at: int) -> None:
        """Execute the file and record it, inside `locked`."""
        ...


def migrations_folder() -> Path:
    """Where the SQL lies: in the installed package, or in the checkout; `NotFound` if in neither."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_migrations", package.parents[1] / "migrations"):
        if (folder / "sqlite").is_dir():
            return folder
    raise NotFound(f"migrations: expected them in {package / '_migrations'}", hint="install the package again")


def read_migrations(dialect: Dialect, numbers: range, folder: Path | None = None) -> Migrations:
    """Read one owner's files; `IntegrityFault` for a gap, two files of one number, or a name that is none."""
    where = (migrations_folder() if folder is None else folder) / dialect
    found: list[Migration] = []
    for path in sorted(where.glob("*.sql")):
        name = _name.fullmatch(path.stem)
        if name is None:
            raise IntegrityFault(f"migration {path}: expected a name like 001_what_it_does.sql")
        if int(name[1]) in numbers:
            raw = durable.read_limited(path, limits.migration_bytes_max)
            found.append(Migration(int(name[1]), path.stem, raw.decode("utf-8"), hashlib.sha256(raw).hexdigest()))
    for number, migration in zip(numbers, found, strict=False):
        if migration.number != number:
            raise IntegrityFault(f"migrations in {where}: expected number {number:03}, found {migration.name}")
    return Migrations(numbers, tuple(found))


def pending(database: Database, migrations: Migrations) -> tuple[Migration, ...]:
    """What did not run yet; `SchemaTooNew` if more ran than is known here, `IntegrityFault` if something else did."""
    recorded = database.recorded(migrations.numbers)
    for ran, known in zip(recorded, migrations.files, strict=False):
        if ran.number != known.number or ran.digest != known.digest:
            raise IntegrityFault(
                f"migration {ran.name}: expected {known.name} with SHA-256 {known.digest}, found {ran.digest} recorded",
                hint="a migration that ran may not be edited: install the version that the database was made with",
            )
    if len(recorded) > len(migrations.files):
        newest = migrations.files[-1].name if migrations.files else "none"
        raise SchemaTooNew(
            f"database: expected migrations up to {newest}, found {recorded[-1].name}",
            hint="a newer version wrote it: use that one",
        )
    return migrations.files[len(recorded) :]


def migrate(database: Database, migrations: Migrations, now: UnixSeconds) -> tuple[Migration, ...]:
    """Run what did not run yet, each file in its own transaction under the lock; what ran now.

    `Unavailable` if the lock is not had in time or the engine refuses: that file left nothing behind.
    """
    ran: list[Migration] = []
    while True:
        with database.locked():
            waiting = pending(database, migrations)
            if not waiting:
                return tuple(ran)
            database.run(waiting[0], now())
            ran.append(waiting[0])


class SqliteDatabase:
    """A SQLite file through one connection of the caller's, in autocommit."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        assert connection.isolation_level is None, "a connection in autocommit"
        self._connection = connection

    @contextmanager
    def locked(self) -> Generator[None, None, None]:
        """As `Database` says; the lock is SQLite's own for writers."""
        try:
            self._connection.execute(f"PRAGMA busy_timeout = {_lock_seconds * 1000}")
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        except sqlite3.Error as reason:
            raise _failed(reason) from reason
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def recorded(self, numbers: range) -> Sequence[Recorded]:
        """As `Database` says."""
        known = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'blyan_migration'"
        if self._connection.execute(known).fetchone() is None:
            return ()
        rows = self._connection.execute(
            "SELECT number, name, sha256 FROM blyan_migration WHERE number >= ? AND number < ? ORDER BY number",
            (numbers.start, numbers.stop),
        )
        return [Recorded(*row) for row in rows.fetchall()]

    def run(self, migration: Migration, applied_at: int) -> None:
        """As `Database` says."""
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS blyan_migration (number INTEGER PRIMARY KEY, name TEXT NOT NULL, "
            "sha256 TEXT NOT NULL, applied_at INTEGER NOT NULL) STRICT"
        )
        for statement in sqlite_statements(migration):
            self._connection.execute(statement)
        if not self._connection.in_transaction:
            raise _ended(migration)
        self._connection.execute(
            "INSERT INTO blyan_migration (number, name, sha256, applied_at) VALUES (?, ?, ?, ?)",
            (migration.number, migration.name, migration.digest, applied_at),
        )


def sqlite_statements(migration: Migration) -> list[str]:
    """The file's statements; each ends on a line of its own, those inside a trigger do not end it.

    `sqlite3.executescript` would commit first, so that a file would not stand or fall as one.
    """
    found: list[str] = []
    waiting = ""
    for line in migration.sql.splitlines(keepends=True):
        waiting += line
        if sqlite3.complete_statement(waiting):
            found.append(waiting)
            waiting = ""
    if not _comments.fullmatch(waiting):
        raise IntegrityFault(f"migration {migration.name}: expected its last statement to end, found {waiting[-80:]!r}")
    return found


class PostgresDatabase:
    """A PostgreSQL database through one psycopg connection of the caller's, in autocommit."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        assert connection.autocommit, "a connection in autocommit"
        self._connection = connection

    @contextmanager
    def locked(self) -> Generator[None, None, None]:
        """As `Database` says; the lock is an advisory one, which goes with the transaction."""
        import psycopg

        try:
            with self._connection.transaction():
                self._connection.execute(f"SET LOCAL lock_timeout = '{_lock_seconds}s'".encode())
                self._connection.execute("SELECT pg_advisory_xact_lock(%s)", (_lock_key,))
                yield
        except psycopg.Error as reason:
            raise _failed(reason) from reason

    def recorded(self, numbers: range) -> Sequence[Recorded]:
        """As `Database` says."""
        known = self._connection.execute("SELECT to_regclass('blyan.migration') IS NOT NULL").fetchone()
        if known is None or not known[0]:
            return ()
        rows = self._connection.execute(
            "SELECT number, name, sha256 FROM blyan.migration WHERE number >= %s AND number < %s ORDER BY number",
            (numbers.start, numbers.stop),
        )
        return [Recorded(*row) for row in rows.fetchall()]

    def run(self, migration: Migration, applied_at: int) -> None:
        """As `Database` says."""
        from psycopg.pq import TransactionStatus

        self._connection.execute("CREATE SCHEMA IF NOT EXISTS blyan")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS blyan.migration (number integer PRIMARY KEY, name text NOT NULL, "
            "sha256 text NOT NULL, applied_at bigint NOT NULL)"
        )
        self._connection.execute(migration.sql.encode())  # without parameters, many statements may come at once
        if self._connection.info.transaction_status != TransactionStatus.INTRANS:
            raise _ended(migration)
        self._connection.execute(
            "INSERT INTO blyan.migration (number, name, sha256, applied_at) VALUES (%s, %s, %s, %s)",
            (migration.number, migration.name, migration.digest, applied_at),
        )


def _ended(migration: Migration) -> IntegrityFault:
    return IntegrityFault(f"migration {migration.name}: expected the transaction to go on, found that it ended it")


def _failed(reason: Exception) -> Unavailable:
    return Unavailable(f"migration: expected the database to take it, found {reason}; that file changed nothing")
