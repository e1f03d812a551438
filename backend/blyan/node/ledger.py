"""Where a node's books are: `ledger.db` in its data directory, or a PostgreSQL that it is told of.

A file is copied, checked and brought up to date with the rest of the data directory; a server's books are saved with
the server's own means.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeAlias

from blyan.chain.chains import Chains
from blyan.ledger.audit import Promise, verify
from blyan.ledger.postgres_store import PostgresStore
from blyan.ledger.sqlite_store import SqliteStore
from blyan.primitives.clock import UnixSeconds
from blyan.primitives.errors import Fault, InvalidInput

file_name: Final = "ledger.db"
_server_seconds: Final = 3.0  # until a server that does not answer is said to be gone
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
    return PostgresStore(database, seconds=_server_seconds)


def promises(chains: Chains) -> tuple[Promise, ...]:
    """What the joint checkpoint says of the books."""
    root = chains.joint.ledger_root
    return () if root is None else (Promise(root.size, root.root),)


def check_books(folder: Path, chains: Chains, *, database: str = "", frozen: bool = False) -> list[str]:
    """What is wrong with the books of a folder or server, held against the joint checkpoint; nothing where none are.

    `frozen` is for a backup, which nobody writes.
    """
    promised = promises(chains)
    if not database and not ledger_file(folder).exists():
        lost = [f"ledger {ledger_file(folder)}: expected {each.size} records, found no books" for each in promised]
        return lost if frozen or (folder / "chain").exists() else []
    try:
        store = open_store(folder, database) if database else SqliteStore(ledger_file(folder), frozen=frozen)
        try:
            store.want_current()
            with store.session() as session:
                return [f"ledger: {sentence}" for sentence in verify(session, promised).faults]
        finally:
            store.close()
    except Fault as reason:
        return [reason.message]


def migrate_books(folder: Path, now: UnixSeconds, database: str = "") -> tuple[str, ...]:
    """Bring the schema of the books up to date; the names of what ran, none where there are no books."""
    if not database and not ledger_file(folder).exists():
        return ()
    store = open_store(folder, database or None)
    try:
        return store.migrate(now)
    finally:
        store.close()
