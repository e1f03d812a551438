"""Where a node's books are: `ledger.db` in its data directory, or a PostgreSQL that it is told of."""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeAlias

from blyan.chain.chains import Chains
from blyan.ledger.audit import Promise
from blyan.ledger.postgres_store import PostgresStore
from blyan.ledger.sqlite_store import SqliteStore
from blyan.primitives.errors import InvalidInput

file_name: Final = "ledger.db"
AnyStore: TypeAlias = SqliteStore | PostgresStore


def ledger_file(folder: Path) -> Path:
    """The file of the books in a data directory."""
    return folder / file_name


def open_store(folder: Path, database: str | None = None, *, create: bool = False) -> AnyStore:
    """The books of a data directory, or those at a PostgreSQL URL; `NotFound` where none are and none are made."""
    if database is None:
        return SqliteStore(ledger_file(folder), create=create)
    if not database.startswith(("postgresql://", "postgres://")):
        raise InvalidInput(f"database: expected postgresql://…, found {database.partition(':')[0]!r}")
    return PostgresStore(database)


def promises(chains: Chains) -> tuple[Promise, ...]:
    """What the joint checkpoint says of the books."""
    root = chains.joint.ledger_root
    return () if root is None else (Promise(root.size, root.root),)
