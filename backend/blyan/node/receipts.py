"""Receipts of this node in `accounts.db` (migration 011), each from before the books are asked to settle it.

A row is `open` until the books have answered: whoever starts after a crash, or when the books are back, asks them again
with the same key. `settled` has the signed receipt; `lost` was delivered and never paid: its hold was over.
One thread owns the connection; each call is one transaction there, durable when it returns.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, TypeVar

from blyan.primitives.errors import Unavailable

Result = TypeVar("Result")
State: TypeAlias = Literal["open", "settled", "lost"]

_columns: Final = "id, account, hold, rounding, body, state, made_at"
_put: Final = f"INSERT OR REPLACE INTO receipt ({_columns}) VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - our own columns
_one: Final = f"SELECT {_columns} FROM receipt WHERE id = ?"  # noqa: S608 - our own columns
_open: Final = f"SELECT {_columns} FROM receipt WHERE state = 'open' ORDER BY made_at"  # noqa: S608 - our own columns
_busy_seconds: Final = 5.0  # for which another connection to the file may write


@dataclass(frozen=True, slots=True)
class Row:
    """One answer. `body` is `{receipt, signature}`, until it is settled unsigned and with the record of the hold."""

    id: str
    account: str  # of the books
    hold: int
    rounding: int
    body: bytes
    state: State
    made_at: int


class ReceiptRows:
    """The table. Opens the file, which has been migrated; every method may raise `Unavailable`."""

    def __init__(self, path: Path) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="blyan-receipts")
        try:
            self._connection = self._thread.submit(_opened, path).result()
        except BaseException:
            self._thread.shutdown()
            raise

    async def put(self, row: Row) -> None:
        """Write a row, or write it anew."""
        values = (row.id, row.account, row.hold, row.rounding, row.body, row.state, row.made_at)
        await self._run(lambda connection: connection.execute(_put, values))

    async def get(self, identity: str) -> Row | None:
        """The row of this id."""
        found = await self._run(lambda connection: connection.execute(_one, (identity,)).fetchone())
        return None if found is None else Row(*found)

    async def open(self) -> list[Row]:
        """Those that the books have not answered."""
        return [Row(*row) for row in await self._run(lambda connection: connection.execute(_open).fetchall())]

    def close(self) -> None:
        """Write what waits and close the file."""
        self._thread.submit(self._connection.close).result()
        self._thread.shutdown()

    async def _run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        # not cancelled with its caller: what was begun is ended, and nobody waits for it
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._connection)
        except sqlite3.Error as reason:
            raise _failed(reason) from reason


def _opened(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path, timeout=_busy_seconds, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA trusted_schema = OFF")
    except sqlite3.Error as reason:
        raise _failed(reason) from reason
    return connection


def _failed(reason: Exception) -> Unavailable:
    return Unavailable(f"accounts.db: expected it to take and give receipts, found {reason}")
