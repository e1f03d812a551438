"""What of people and money a backup holds: the file of accounts, and the file of the books. Both are copied as of one
moment beside their writer.

Books in PostgreSQL are saved by its own means; the backup says so (`BOOKS`), so that a restore can tell books that are
elsewhere from books that were lost. Sessions in Redis are not saved: people sign in again.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from blyan.auth import sqlite_store as accounts_store
from blyan.auth.sqlite_store import file_name as accounts_name
from blyan.chain.chains import Chains
from blyan.ledger import reading
from blyan.ledger.sqlite_store import SqliteStore
from blyan.node.books import want_promised
from blyan.node.config import NodeConfig
from blyan.node.ledger import check_books, ledger_file, open_store
from blyan.node.ledger import file_name as books_name
from blyan.primitives import canonical
from blyan.primitives.errors import Fault, IntegrityFault, Unavailable
from blyan.storage import durable

elsewhere_name: Final = "BOOKS"
names: Final = frozenset({accounts_name, books_name, elsewhere_name})
_chunk_bytes: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Saved:
    """Sentences: what is wrong, and what is worth knowing."""

    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def save(folder: Path, target: Path, chains: Chains, *, database: str, accounts: bool) -> Saved:
    """Copy accounts (if asked to) and books, and recompute the copy of the books.

    The chains were opened before, so the copy has all that their joint checkpoint promises.
    """
    faults: list[str] = []
    notes: list[str] = []
    if accounts and (folder / accounts_name).exists():
        faults += _copied_accounts(folder / accounts_name, target / accounts_name)
    elif not accounts:
        durable.remove(target / accounts_name)
        if (folder / accounts_name).exists():
            notes.append("without keys there are no sessions and API keys of people in it either")
    if database:
        durable.remove(ledger_file(target))
        durable.write_file(target / elsewhere_name, canonical.encode({"v": 1, "books": "postgresql"}))
        notes.append("the books are not in it: save them with pg_dump, of the same moment or a later one")
        return Saved(tuple(faults), tuple(notes))
    if ledger_file(folder).exists():
        store = SqliteStore(ledger_file(folder))
        try:
            store.copy(ledger_file(target))
        finally:
            store.close()
    durable.remove(target / elsewhere_name)
    return Saved((*faults, *check_books(target, chains, frozen=True)), tuple(notes))


def bring_back(source: Path, folder: Path, chains: Chains, *, database: str) -> Saved:
    """Bring accounts and books back and recompute them."""
    faults: list[str] = []
    notes: list[str] = []
    if (source / accounts_name).exists():
        _copy(source / accounts_name, folder, accounts_name)
        faults += accounts_store.faults_of(folder / accounts_name)
        notes.append("API keys that were deleted since the backup hold again: look at them (`GET /auth/keys`)")
    if (source / elsewhere_name).exists():
        if database:
            faults += check_books(folder, chains, database=database)
        else:
            notes.append("the books are in PostgreSQL: restore them there and set ledger.database before a start")
        return Saved(tuple(faults), tuple(notes))
    if ledger_file(source).exists():
        _copy(ledger_file(source), folder, books_name)
    return Saved((*faults, *check_books(folder, chains)), tuple(notes))


def check_accounts(folder: Path) -> list[str]:
    """What is wrong with the file of accounts; nothing where there is none."""
    path = folder / accounts_name
    return accounts_store.faults_of(path) if path.exists() else []


def look_at_books(config: NodeConfig, chains: Chains) -> str:
    """A sentence about accounts and books, by what a start would look at; a fault if it would be refused."""
    if config.accounts.where is None:
        return "none: the node is free and open for who reaches it"
    if find_spec("siwe") is None:
        raise Unavailable(
            "accounts: expected the packages that check signatures of wallets, found them missing",
            hint='pip install "blyan[accounts]"',
        )
    faults = check_accounts(config.data_dir)
    if faults:
        raise IntegrityFault(faults[0], hint="restore it from a backup, or move it away: people sign in again")
    database, promised = config.ledger.database, chains.joint.ledger_root
    if not database and not ledger_file(config.data_dir).exists() and promised is None:
        return f"at {config.accounts.origin}; the next start makes the books"
    store = open_store(config.data_dir, database or None)
    try:
        store.want_current()
        with store.session() as session, session.reading():
            want_promised(session, promised)
            size, _ = reading.size_and_time(session)
    finally:
        store.close()
    where = "in PostgreSQL" if database else f"in {ledger_file(config.data_dir)}"
    return f"at {config.accounts.origin}; {size} records {where}, as many as were promised or more"


def _copied_accounts(path: Path, target: Path) -> list[str]:
    try:
        accounts_store.copy(path, target)
    except Fault as reason:
        return [reason.message]
    return accounts_store.faults_of(target)


def _copy(path: Path, folder: Path, name: str) -> None:
    with path.open("rb") as copy, durable.writing(folder, name, 0o600) as file:
        while chunk := copy.read(_chunk_bytes):
            file.write(chunk)
    durable.publish(durable.temporary_path(folder, name), folder / name)
