"""What tests of the books share: stores of both kinds, and requests without ceremony."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from blyan.ledger.accounts import Terms
from blyan.ledger.postgres_store import PostgresStore
from blyan.ledger.sql import Outcome, apply
from blyan.ledger.sqlite_store import SqliteStore
from blyan.ledger.store import Store
from blyan.ledger.transfers import Leg, Open, Post, Request, request_hash
from blyan.primitives import limits
from blyan.primitives.errors import Fault

MINT = Terms("system:mint", "BLY", floor=-limits.amount_max)


def now() -> int:
    return 1_700_000_000


def do(store: Store, *requests: Request, clock=now) -> list[Outcome | Fault]:
    """Apply requests in one commit."""
    with store.session() as session:
        return list(apply(session, [(each, request_hash(each)) for each in requests], clock))


def one(store: Store, request: Request, clock=now) -> Outcome:
    """Apply one; its fault is raised."""
    [found] = do(store, request, clock=clock)
    if isinstance(found, Fault):
        raise found
    return found


def post(key: str, debit: str, credit: str, amount: int, note: str = "") -> Post:
    return Post(key, (Leg(debit, credit, amount),), note)


def with_accounts(store: Store, *names: str, funds: int = 1_000) -> Store:
    """Open a mint and these accounts, with funds in each."""
    do(store, Open(MINT), *(Open(Terms(name, "BLY")) for name in names))
    if funds:
        do(store, *(post(f"fund {name}", MINT.name, name, funds) for name in names))
    return store


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[SqliteStore]:
    """An empty SQLite ledger."""
    store = SqliteStore(tmp_path / "ledger.db", create=True)
    store.migrate(now)
    yield store
    store.close()


@pytest.fixture
def postgres_store(postgres_url: str) -> Iterator[PostgresStore]:
    """An empty PostgreSQL ledger."""
    store = PostgresStore(postgres_url)
    store.migrate(now)
    yield store
    store.close()


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest) -> Store:
    """An empty ledger of each kind."""
    return request.getfixturevalue(f"{request.param}_store")


def as_vandal(path: Path) -> sqlite3.Connection:
    """A connection that holds no rule: every trigger is dropped and constraints are ignored."""
    connection = sqlite3.connect(path, isolation_level=None)
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("PRAGMA ignore_check_constraints = ON")
    return connection
