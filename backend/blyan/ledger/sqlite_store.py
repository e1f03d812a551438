"""The books in one SQLite file: write-ahead log, every commit synced before it is answered, one writer.

Any number of readers see a moment each beside the writer. A commit whose sync failed leaves nobody knowing what reached
the disk, so nothing more is written until the file is opened anew, which finds out.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from blyan.ledger.store import Row, Session, migration_numbers
from blyan.primitives.clock import UnixSeconds
from blyan.primitives.errors import Fault, IntegrityFault, NotFound, StorageFull, Unavailable
from blyan.storage import durable
from blyan.storage.migrate import SqliteDatabase, migrate, pending, read_migrations

_settings: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA recursive_triggers = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA busy_timeout = 10000",
    "PRAGMA cache_size = -16384",
    "PRAGMA wal_autocheckpoint = 4000",
)
_stream_rows: Final = 1_024


class SqliteStore:
    """The books' file, made if `create` says so; `NotFound` otherwise. `frozen`: a copy that nobody writes."""

    def __init__(self, path: Path, *, create: bool = False, frozen: bool = False) -> None:
        if not create and not path.is_file():
            raise NotFound(
                f"ledger {path}: expected the books there, found none",
                hint="a node has books once it has started with accounts.origin in its node.toml",
            )
        if create:
            durable.make_folder(path.parent)
            path.touch(mode=0o600)  # its log gets the same mode
        self.path = path
        self._frozen = frozen
        self._idle: list[sqlite3.Connection] = []
        self.writer = threading.Lock()  # held while writing: SQLite's own way to wait is to sleep
        self._guard = threading.Lock()  # held while connections are taken and given back
        self._unknown: str | None = None  # why nobody knows what is on the disk
        self._closed = False
        with self.session():
            if not frozen:
                durable.fsync_folder(path.parent)

    @contextmanager
    def session(self) -> Generator[Session, None, None]:
        """As `Store` says."""
        connection = self._take()
        try:
            yield _SqliteSession(connection, self)
        finally:
            with self._guard:
                keep = not self._closed and not connection.in_transaction
                if keep:
                    self._idle.append(connection)
            if not keep:
                connection.close()

    def migrate(self, now: UnixSeconds) -> tuple[str, ...]:
        """As `Store` says."""
        connection = self._take()
        try:
            ran = migrate(SqliteDatabase(connection), read_migrations("sqlite", migration_numbers), now)
        finally:
            connection.close()
        return tuple(each.name for each in ran)

    def want_current(self) -> None:
        """`Unavailable` unless the schema is this version's, `SchemaTooNew` if it is a newer one's."""
        connection = self._take()
        try:
            waiting = pending(SqliteDatabase(connection), read_migrations("sqlite", migration_numbers))
        except sqlite3.Error as reason:
            raise fault_of(reason, self.path) from reason
        finally:
            connection.close()
        if waiting:
            raise Unavailable(
                f"ledger {self.path}: expected migration {waiting[-1].name}, found it waiting",
                hint="run `blyan db migrate`",
            )

    def copy(self, target: Path) -> None:
        """Write one moment of the books to `target`, beside their writer: there whole and durable, or not at all."""
        temporary = durable.temporary_path(target.parent, target.name)
        durable.discard(temporary)
        connection = self._take()
        try:
            copy = sqlite3.connect(temporary, isolation_level=None)
            try:
                connection.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")  # one file, synced
            finally:
                copy.close()
        except sqlite3.Error as reason:
            raise fault_of(reason, self.path) from reason
        finally:
            connection.close()
        durable.publish(temporary, target)

    def close(self) -> None:
        """As `Store` says."""
        with self._guard:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def want_known(self) -> None:
        """`Unavailable` since a commit failed and nobody knows what reached the disk."""
        if self._unknown is not None:
            raise Unavailable(
                f"ledger {self.path}: expected its last commit to reach the disk, found {self._unknown}",
                hint="restart: opening the books again finds out what reached the disk",
            )

    def lose_track(self, why: str) -> None:
        """Say that a commit failed in a way after which its outcome is unknown."""
        self._unknown = why

    def _take(self) -> sqlite3.Connection:
        with self._guard:
            if self._closed:
                raise Unavailable(f"ledger {self.path}: expected it open, found it closed")
            if self._idle:
                return self._idle.pop()
        connection = None
        try:
            address = f"file:{quote(str(self.path.resolve()))}?mode={'ro&immutable=1' if self._frozen else 'rwc'}"
            connection = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)
            connection.text_factory = _text
            for setting in _settings[1:] if self._frozen else _settings:
                connection.execute(setting)
        except sqlite3.Error as reason:
            if connection is not None:
                connection.close()
            raise fault_of(reason, self.path) from reason
        return connection


class _SqliteSession:
    """As `Session` says."""

    def __init__(self, connection: sqlite3.Connection, store: SqliteStore) -> None:
        self._connection = connection
        self._store = store

    def rows(self, text: str, *values: object) -> list[Row]:
        with self._faults():
            return self._connection.execute(text, _bound(values)).fetchall()

    def stream(self, text: str, *values: object) -> Iterator[Row]:
        with self._faults():
            cursor = self._connection.execute(text, _bound(values))
            while found := cursor.fetchmany(_stream_rows):
                yield from found

    def many(self, text: str, rows: Iterable[Row]) -> None:
        with self._faults():
            self._connection.executemany(text, rows)

    @contextmanager
    def writing(self) -> Generator[None, None, None]:
        with self._store.writer:
            self._store.want_known()
            with self._faults():
                self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                try:
                    self._connection.execute("COMMIT")
                except sqlite3.Error as reason:
                    if _code(reason) & 0xFF == sqlite3.SQLITE_IOERR:
                        self._store.lose_track(str(reason))
                    raise fault_of(reason, self._store.path) from reason
            finally:
                self._end()

    @contextmanager
    def reading(self) -> Generator[None, None, None]:
        with self._faults():
            self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._end()

    def damage(self) -> list[str]:
        try:
            found = self._connection.execute("PRAGMA integrity_check(20)").fetchall()
        except sqlite3.Error as reason:
            return [f"the file: {reason}"]
        return [f"the file: {sentence}" for (sentence,) in found if sentence != "ok"]

    def _end(self) -> None:
        if self._connection.in_transaction:
            with suppress(sqlite3.Error):  # the fault that led here says more
                self._connection.execute("ROLLBACK")

    @contextmanager
    def _faults(self) -> Generator[None, None, None]:
        try:
            yield
        except sqlite3.Error as reason:
            raise fault_of(reason, self._store.path) from reason


def fault_of(reason: sqlite3.Error, path: Path) -> Fault:
    """Whose fault an error of the driver is."""
    code = _code(reason) & 0xFF
    if code == sqlite3.SQLITE_CONSTRAINT:
        return IntegrityFault(f"ledger {path}: expected what its constraints allow, found {reason}")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return IntegrityFault(f"ledger {path}: expected a whole database, found {reason}", detail={"file": str(path)})
    if code == sqlite3.SQLITE_FULL:
        return StorageFull(f"ledger {path}: expected room on the disk, found {reason}; nothing was changed")
    return Unavailable(f"ledger {path}: expected the database to answer, found {reason}")


def _text(raw: bytes) -> str:
    """Damaged text is for `ledger/audit` to name, not for the driver to refuse."""
    return raw.decode("utf-8", "surrogateescape")


def _code(reason: sqlite3.Error) -> int:
    return getattr(reason, "sqlite_errorcode", 0)


def _bound(values: tuple[object, ...]) -> list[object]:
    return [json.dumps(each) if isinstance(each, list) else each for each in values]
