"""SQLite, PostgreSQL and plain dictionaries give the same answers to the same requests, and verify finds no fault."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from blyan.ledger import audit, reading, seal
from blyan.ledger.accounts import Terms
from blyan.ledger.postgres_store import PostgresStore
from blyan.ledger.sql import Outcome
from blyan.ledger.sqlite_store import SqliteStore
from blyan.ledger.store import Store
from blyan.ledger.transfers import Close, Expire, Hold, Leg, Open, Post, Request, Reverse, Settle, Void
from blyan.primitives import limits
from ledger_model import Model
from ledgers import do
from services import PostgresServer

NAMES = ["mint", "a", "b", "c", "usd:mint", "usd:a"]
names = st.sampled_from(NAMES)
amounts = st.sampled_from([1, 2, 7, 50, 100, limits.amount_max]) | st.integers(1, 200)
keys = st.integers(0, 40).map(lambda number: f"key {number}")
numbers = st.integers(0, 30)


@st.composite
def legs(draw: st.DrawFn) -> Leg:
    debit, credit = draw(st.lists(names, min_size=2, max_size=2, unique=True))
    return Leg(debit, credit, draw(amounts))


def terms_of(name: str) -> Terms:
    asset = "USD" if name.startswith("usd") else "BLY"
    return Terms(name, asset, floor=-limits.amount_max if name.endswith("mint") else 0, ceiling=10**6)


terms = names.map(terms_of) | st.builds(Terms, names, st.just("BLY"), st.just(-5), st.just(500))
requests: st.SearchStrategy[Request] = st.one_of(
    st.builds(Open, terms),
    st.builds(Close, names),
    st.builds(Post, keys, st.lists(legs(), min_size=1, max_size=3).map(tuple)),
    st.builds(Hold, keys, legs(), st.integers(1, 50)),
    st.builds(Settle, keys, numbers, amounts),
    st.builds(Void, keys, numbers),
    st.builds(Expire, numbers),
    st.builds(Reverse, keys, numbers),
)


class LedgerMachine(RuleBasedStateMachine):
    """Any requests in batches of any size, with a clock that jumps both ways."""

    server: ClassVar[PostgresServer | None] = None
    template: ClassVar[str] = ""
    counter: ClassVar[Iterator[int]] = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.clock = 1_000
        self.exit = ExitStack()
        folder = Path(tempfile.mkdtemp())
        self.exit.callback(shutil.rmtree, folder)
        sqlite = SqliteStore(folder / "ledger.db", create=True)
        self.exit.callback(sqlite.close)
        self.stores: list[Store] = [sqlite]
        sqlite.migrate(self.now)
        if self.server is not None:
            name = f"machine{next(self.counter)}"
            with psycopg.connect(self.server.url("postgres"), autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name} TEMPLATE {self.template}".encode())
            postgres = PostgresStore(self.server.url(name), connections=1)
            self.exit.callback(postgres.close)
            self.stores.append(postgres)

    def now(self) -> int:
        return self.clock

    @initialize()
    def begin(self) -> None:
        """Accounts with something in them, so that not every request is refused."""
        self.submit([Open(terms_of(name)) for name in NAMES])
        self.submit([Post(f"fund {name}", (Leg("mint", name, 100),)) for name in ("a", "b")])

    @rule(batch=st.lists(requests, min_size=1, max_size=6))
    def submit(self, batch: list[Request]) -> None:
        """Every answer is that of the model."""
        expected = [self.model.submit(each, self.clock) for each in batch]
        for store in self.stores:
            found = [
                (each.kind or each.refusal.code, each.number, each.replayed) if isinstance(each, Outcome) else None
                for each in do(store, *batch, clock=self.now)
            ]
            assert found == expected, type(store).__name__

    @rule(seconds=st.integers(-100, 100))
    def jump(self, seconds: int) -> None:
        """The clock goes anywhere."""
        self.clock += seconds

    @rule()
    def seal(self) -> None:
        """Both promise the same root."""
        seals = []
        for store in self.stores:
            with store.session() as session:
                seals.append(seal.seal(session, self.now))
        assert all(each == seals[0] for each in seals)

    @invariant()
    def balances_agree(self) -> None:
        """All three have the same in every account, and the books balance."""
        expected = {
            name: (each.number, each.closed, each.balance, each.out, each.into)
            for name, each in self.model.accounts.items()
        }
        for store in self.stores:
            with store.session() as session, session.reading():
                found = {
                    each.terms.name: (each.number, each.closed, each.balance, each.held_out, each.held_in)
                    for each in reading.accounts(session)
                }
                assert all(total.balanced for total in reading.trial_balance(session))
            assert found == expected, type(store).__name__

    def teardown(self) -> None:
        try:
            for store in self.stores:
                with store.session() as session:
                    assert audit.verify(session).faults == ()
        finally:
            self.exit.close()


def machine(server: PostgresServer | None, template: str = "") -> type[LedgerMachine]:
    return type("Machine", (LedgerMachine,), {"server": server, "template": template})


def run(kind: type[LedgerMachine], examples: int) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        kind,
        settings=settings(max_examples=examples, stateful_step_count=25, deadline=None, suppress_health_check=checks),
    )


def test_sqlite_answers_as_the_model() -> None:
    run(machine(None), 20)


@pytest.mark.slow
def test_sqlite_and_postgres_answer_as_the_model(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_database()
    template = PostgresStore(url, connections=1)
    template.migrate(lambda: 0)
    template.close()
    run(machine(postgres_server, url.partition("?")[0].rpartition("/")[2]), 40)
