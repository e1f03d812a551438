"""The books in PostgreSQL, for where one machine is too few: any number of processes write, one after another.

A writer takes the lock of the table `record` first, so records are numbered in the order of commits. psycopg 3 comes
with `blyan[postgres]` and is imported with the first store. When the server goes away in the middle of a commit nobody
knows its outcome: the caller asks again with the same key and learns it.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from blyan.ledger.store import Row, Session, migration_numbers
from blyan.primitives.clock import UnixSeconds
from blyan.primitives.errors import Fault, IntegrityFault, InvalidInput, StorageFull, Unavailable
from blyan.primitives.url_secrets import without_secrets
from blyan.storage.migrate import PostgresDatabase, migrate, pending, read_migrations

if TYPE_CHECKING:
    import psycopg
    from psycopg_pool import ConnectionPool

# Every query of ours goes by an index; a plan that was made while a table was small would not.
_options: Final = (
    "-c search_path=ledger -c synchronous_commit=on -c lock_timeout=10s -c statement_timeout=30s "
    "-c idle_in_transaction_session_timeout=60s -c jit=off -c plan_cache_mode=force_generic_plan -c enable_seqscan=off"
)
_insert: Final = re.compile(r"INSERT INTO (\w+ \([\w, ]+\)) VALUES \((?:\?, )*\?\)")
_stream_rows: Final = 4_096


class PostgresStore:
    """The books in the database at `url`; `Unavailable` if it does not answer or psycopg is not installed."""

    def __init__(self, url: str, *, connections: int = 8, seconds: float = 10.0) -> None:
        try:
            import psycopg_pool
        except ImportError as reason:
            raise Unavailable(
                f"ledger: expected psycopg, found {reason}", hint="pip install 'blyan[postgres]'"
            ) from reason
        _want_answer(url, int(seconds))
        # it says every attempt to come back; whoever asks is told by a fault, and tells once
        logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)
        self._pool: ConnectionPool[psycopg.Connection[Any]] = psycopg_pool.ConnectionPool(
            url,
            kwargs={"autocommit": True, "options": _options, "connect_timeout": max(2, int(seconds))},
            min_size=1,
            max_size=connections,
            timeout=seconds,
            reconnect_timeout=seconds,
            check=psycopg_pool.ConnectionPool.check_connection,
            open=True,
        )

    @contextmanager
    def session(self) -> Generator[Session, None, None]:
        """As `Store` says."""
        import psycopg
        from psycopg_pool import PoolTimeout

        try:
            connection = self._pool.getconn()
        except (PoolTimeout, psycopg.Error) as reason:
            raise _gone(reason) from reason
        try:
            yield _PostgresSession(connection)
        finally:
            self._pool.putconn(connection)

    def migrate(self, now: UnixSeconds) -> tuple[str, ...]:
        """As `Store` says."""
        with self.session() as session:
            assert isinstance(session, _PostgresSession), "what `session` yields"
            database = PostgresDatabase(session.connection)
            ran = migrate(database, read_migrations("postgres", migration_numbers), now)
        return tuple(each.name for each in ran)

    def want_current(self) -> None:
        """`Unavailable` unless the schema is this version's, `SchemaTooNew` if it is a newer one's."""
        with self.session() as session:
            assert isinstance(session, _PostgresSession), "what `session` yields"
            waiting = pending(PostgresDatabase(session.connection), read_migrations("postgres", migration_numbers))
        if waiting:
            raise Unavailable(
                f"ledger: expected migration {waiting[-1].name}, found it waiting", hint="run `blyan db migrate`"
            )

    def close(self) -> None:
        """As `Store` says."""
        self._pool.close()


class _PostgresSession:
    """As `Session` says."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self._cursors = itertools.count()

    def rows(self, text: str, *values: object) -> list[Row]:
        with _faults():
            return self.connection.execute(_dialect(text), values).fetchall()

    def stream(self, text: str, *values: object) -> Iterator[Row]:
        with _faults(), self.connection.cursor(f"c{next(self._cursors)}") as cursor:
            cursor.execute(_dialect(text), values)
            while found := cursor.fetchmany(_stream_rows):
                yield from found

    def many(self, text: str, rows: Iterable[Row]) -> None:
        with _faults(), self.connection.cursor() as cursor:
            insert = _insert.fullmatch(text)
            if insert is None:
                cursor.executemany(_dialect(text), rows)
                return
            with cursor.copy(f"COPY {insert[1]} FROM STDIN".encode()) as copy:  # a fifth of the time of single rows
                for row in rows:
                    copy.write_row(row)

    @contextmanager
    def writing(self) -> Generator[None, None, None]:
        import psycopg

        with _faults():
            self.connection.execute("BEGIN; LOCK TABLE record IN SHARE ROW EXCLUSIVE MODE")  # one way there and back
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                with suppress(psycopg.Error):  # the error that led here says more
                    self.connection.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Generator[None, None, None]:
        with _faults(), self.connection.transaction():
            self.connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            self.connection.execute("SET LOCAL statement_timeout = 0")
            yield

    def damage(self) -> list[str]:
        """PostgreSQL keeps its own pages; nothing is asked of it here."""
        return []


def _dialect(text: str) -> bytes:
    """SQLite's text as PostgreSQL has it."""
    return text.replace("IN (SELECT value FROM json_each(?))", "= ANY(?)").replace("?", "%s").encode()


@contextmanager
def _faults() -> Generator[None, None, None]:
    import psycopg

    try:
        yield
    except psycopg.Error as reason:
        raise _fault_of(reason) from reason


def _fault_of(reason: psycopg.Error) -> Fault:
    import psycopg

    said = str(reason).strip().splitlines()[0] if str(reason).strip() else type(reason).__name__
    if isinstance(reason, psycopg.IntegrityError):
        return IntegrityFault(f"ledger: expected what its constraints allow, found {said}")
    if isinstance(reason, psycopg.errors.DiskFull):
        return StorageFull(f"ledger: expected room on the server's disk, found {said}; nothing was changed")
    return _gone(reason)


def _want_answer(url: str, seconds: int) -> None:
    """Connect once, as a pool would only say that it waited. What libpq says of a URL it cannot read quotes the URL."""
    import psycopg

    try:
        psycopg.connect(url, connect_timeout=max(2, seconds)).close()
    except psycopg.OperationalError as reason:
        said = str(reason).strip().splitlines() or [type(reason).__name__]
        raise Unavailable(
            f"ledger: expected the database to answer, found: {without_secrets(said[0])}",
            hint="is it running, and does ledger.database say where?",
        ) from None
    except psycopg.Error:
        raise InvalidInput(
            "ledger.database: expected a URL that PostgreSQL reads, found something else",
            hint="postgresql://USER:PASSWORD@HOST:PORT/DATABASE; other characters in a password as %XX",
        ) from None


def _gone(reason: Exception) -> Unavailable:
    return Unavailable(
        f"ledger: expected the database to answer, found {str(reason).strip() or type(reason).__name__}",
        hint="ask again with the same key: it is done once, whether it was done now or not",
    )
