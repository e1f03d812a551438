"""Sign-ins, sessions and API keys in one SQLite file, `accounts.db` (migrations from 010 on).

One thread owns the connection; each call is one transaction there, durable when it returns. What has expired is
cleared away when more of its kind comes.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

from blyan.auth.api_keys import ApiKey
from blyan.auth.nonces import SignIn
from blyan.auth.sessions import Session
from blyan.primitives import limits
from blyan.primitives.clock import UnixSeconds
from blyan.primitives.errors import Fault, InvalidInput, Overloaded, Unavailable
from blyan.storage import durable
from blyan.storage.migrate import SqliteDatabase, migrate, pending, read_migrations

Result = TypeVar("Result")

file_name: Final = "accounts.db"
numbers: Final = range(10, 20)  # of the migrations
_session: Final = "digest, account, address, chain_id, created_at, idle_until, ends_at"
_key: Final = "id, digest, account, name, scopes, created_at, expires_at, used_at"


class SqliteStore:
    """Opens on first use of the context; every method may raise `Unavailable` if the file cannot be used."""

    def __init__(self, path: Path, now: UnixSeconds) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="blyan-accounts")
        try:
            self._connection = self._thread.submit(_opened, path, now).result()
        except BaseException:
            self._thread.shutdown()
            raise

    async def close(self) -> None:
        """Close the file. Calls after it are an error of ours."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    async def put_sign_in(self, sign_in: SignIn, now: int) -> None:
        """As `nonces.SignIns` says."""

        def put(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM sign_in WHERE expires_at <= ?", (now,))
            [waiting] = connection.execute("SELECT count(*) FROM sign_in").fetchone()
            if waiting >= limits.sign_ins_open_max:
                raise Overloaded(f"sign-ins: expected fewer than {limits.sign_ins_open_max} under way, found {waiting}")
            row = (sign_in.nonce, sign_in.message, sign_in.browser, sign_in.expires_at)
            connection.execute("INSERT INTO sign_in VALUES (?, ?, ?, ?)", row)

        await self._in_transaction(put)

    async def take_sign_in(self, nonce: str) -> SignIn | None:
        """As `nonces.SignIns` says."""

        def take(connection: sqlite3.Connection) -> SignIn | None:
            columns = "nonce, message, browser, expires_at"
            query = f"DELETE FROM sign_in WHERE nonce = ? RETURNING {columns}"  # noqa: S608 - our own columns
            row = connection.execute(query, (nonce,)).fetchone()
            return None if row is None else SignIn(*row)

        return await self._in_transaction(take)

    async def put_session(self, session: Session, now: int) -> None:
        """As `sessions.Sessions` says."""

        def put(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM session WHERE idle_until <= ?", (now,))
            connection.execute(
                "DELETE FROM session WHERE digest IN (SELECT digest FROM session WHERE account = ? "
                "ORDER BY created_at DESC, digest LIMIT -1 OFFSET ?)",
                (session.account, limits.sessions_account_max - 1),
            )
            connection.execute("INSERT INTO session VALUES (?, ?, ?, ?, ?, ?, ?)", _row(session))

        await self._in_transaction(put)

    async def session(self, digest: str, now: int) -> Session | None:
        """As `sessions.Sessions` says."""

        def look(connection: sqlite3.Connection) -> Session | None:
            query = f"SELECT {_session} FROM session WHERE digest = ? AND idle_until > ?"  # noqa: S608 - our own columns
            row = connection.execute(query, (digest, now)).fetchone()
            return None if row is None else Session(*row)

        return await self._run(look)

    async def extend_session(self, session: Session, now: int) -> None:
        """As `sessions.Sessions` says."""

        def extend(connection: sqlite3.Connection) -> None:
            query = "UPDATE session SET idle_until = ? WHERE digest = ? AND idle_until > ?"
            connection.execute(query, (session.idle_until, session.digest, now))

        await self._in_transaction(extend)

    async def end_session(self, digest: str) -> None:
        """As `sessions.Sessions` says."""
        await self._in_transaction(lambda c: c.execute("DELETE FROM session WHERE digest = ?", (digest,)))

    async def end_sessions(self, account: str) -> None:
        """As `sessions.Sessions` says."""
        await self._in_transaction(lambda c: c.execute("DELETE FROM session WHERE account = ?", (account,)))

    async def put_key(self, key: ApiKey, now: int) -> None:
        """As `api_keys.ApiKeys` says."""

        def put(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM api_key WHERE account = ? AND expires_at <= ?", (key.account, now))
            query = "SELECT count(*) FROM api_key WHERE account = ?"
            [kept] = connection.execute(query, (key.account,)).fetchone()
            if kept >= limits.api_keys_account_max:
                raise InvalidInput(
                    f"API keys: expected fewer than {limits.api_keys_account_max} of one account, found {kept}",
                    hint="delete one that nobody uses",
                )
            row = (key.id, key.digest, key.account, key.name, " ".join(key.scopes))
            connection.execute(
                "INSERT INTO api_key VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, key.created_at, key.expires_at, key.used_at),
            )

        await self._in_transaction(put)

    async def key(self, key_id: str) -> ApiKey | None:
        """As `api_keys.ApiKeys` says."""
        found = await self._keys("id", key_id)
        return found[0] if found else None

    async def keys_of(self, account: str) -> Sequence[ApiKey]:
        """As `api_keys.ApiKeys` says."""
        return await self._keys("account", account)

    async def used_key(self, key_id: str, used_at: int) -> None:
        """As `api_keys.ApiKeys` says."""
        await self._in_transaction(
            lambda c: c.execute("UPDATE api_key SET used_at = ? WHERE id = ?", (used_at, key_id))
        )

    async def delete_key(self, account: str, key_id: str) -> bool:
        """As `api_keys.ApiKeys` says."""
        query = "DELETE FROM api_key WHERE account = ? AND id = ?"
        return await self._in_transaction(lambda c: c.execute(query, (account, key_id)).rowcount > 0)

    async def _keys(self, column: str, value: str) -> Sequence[ApiKey]:
        def look(connection: sqlite3.Connection) -> Sequence[ApiKey]:
            query = f"SELECT {_key} FROM api_key WHERE {column} = ? ORDER BY created_at, id"  # noqa: S608 - our own column
            rows = connection.execute(query, (value,)).fetchall()
            return [_key_of(*row) for row in rows]

        return await self._run(look)

    async def _in_transaction(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        def run(connection: sqlite3.Connection) -> Result:
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection)
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            return result

        return await self._run(run)

    async def _run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        # not cancelled with its caller: what was begun is ended, and nobody waits for it
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._connection)
        except sqlite3.Error as reason:
            raise _failed(reason) from reason


def copy(path: Path, target: Path) -> None:
    """Write one moment of the file to `target`, beside who uses it: there whole and durable, or not at all."""
    temporary = durable.temporary_path(target.parent, target.name)
    durable.discard(temporary)
    try:
        temporary.touch(mode=0o600)
        with closing(_reader(path)) as source, closing(sqlite3.connect(temporary, isolation_level=None)) as made:
            source.backup(made)
            made.execute("PRAGMA journal_mode = DELETE")  # one file, synced
    except (sqlite3.Error, OSError) as reason:
        raise _failed(reason) from reason
    durable.publish(temporary, target)


def faults_of(path: Path) -> list[str]:
    """What is wrong with the file, as sentences."""
    try:
        with closing(_reader(path)) as connection:
            found = [text for (text,) in connection.execute("PRAGMA integrity_check(20)") if text != "ok"]
            pending(SqliteDatabase(connection), read_migrations("sqlite", numbers))
    except (sqlite3.Error, OSError) as reason:
        found = [str(reason)]
    except Fault as reason:
        found = [reason.message]
    return [f"accounts {path}: {sentence}" for sentence in found]


def _reader(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True, isolation_level=None)
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _key_of(key_id: str, digest: str, account: str, name: str, scopes: str, *times: Any) -> ApiKey:
    return ApiKey(key_id, digest, account, name, tuple(scopes.split(" ")), *times)


def _row(session: Session) -> tuple[object, ...]:
    who = (session.digest, session.account, session.address, session.chain_id)
    return (*who, session.created_at, session.idle_until, session.ends_at)


def _opened(path: Path, now: UnixSeconds) -> sqlite3.Connection:
    try:
        path.touch(mode=0o600)
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA trusted_schema = OFF")
    except (sqlite3.Error, OSError) as reason:
        raise _failed(reason) from reason
    migrate(SqliteDatabase(connection), read_migrations("sqlite", numbers), now)
    return connection


def _failed(reason: Exception) -> Unavailable:
    return Unavailable(f"accounts.db: expected it to take and give rows, found {reason}")
