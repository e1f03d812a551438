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
from blyan.storage import durable

file_name: Final = "ledger.db"
_server_seconds: Final = 3.0  # until a server that does not answer is said to be gone
_chunk_bytes: Final = 1 << 20
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


def check_books(folder: Path, chains: Chains, *, frozen: bool = False) -> list[str]:
    """What is wrong with the books of a folder, held against the joint checkpoint; nothing where there are none.

    `frozen` is for a backup, which nobody writes.
    """
    promised = promises(chains)
    if not ledger_file(folder).exists():
        lost = [f"ledger {ledger_file(folder)}: expected {each.size} records, found no books" for each in promised]
        return lost if frozen or (folder / "chain").exists() else []
    try:
        store = SqliteStore(ledger_file(folder), frozen=frozen)
        try:
            store.want_current()
            with store.session() as session:
                return [f"ledger: {sentence}" for sentence in verify(session, promised).faults]
        finally:
            store.close()
    except Fault as reason:
        return [reason.message]


def back_up_books(folder: Path, target: Path, chains: Chains) -> list[str]:
    """Copy the books as of one moment, beside their writer, and recompute the copy; what is wrong with it.

    The chains were opened before, so the copy has all that their joint checkpoint promises.
    """
    if ledger_file(folder).exists():
        store = SqliteStore(ledger_file(folder))
        try:
            store.copy(ledger_file(target))
        finally:
            store.close()
    return check_books(target, chains, frozen=True)


def restore_books(source: Path, folder: Path, chains: Chains) -> list[str]:
    """Bring the books back and recompute them; what is wrong with them."""
    if ledger_file(source).exists():
        with ledger_file(source).open("rb") as copy, durable.writing(folder, file_name, 0o600) as file:
            while chunk := copy.read(_chunk_bytes):
                file.write(chunk)
        durable.publish(durable.temporary_path(folder, file_name), ledger_file(folder))
    return check_books(folder, chains)


def migrate_books(folder: Path, now: UnixSeconds) -> tuple[str, ...]:
    """Bring the schema of the books' file up to date; the names of what ran, none where there are no books."""
    if not ledger_file(folder).exists():
        return ()
    store = SqliteStore(ledger_file(folder))
    try:
        return store.migrate(now)
    finally:
        store.close()
