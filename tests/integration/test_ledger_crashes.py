"""A process that writes into the books is killed: what it was told is there, nothing is there by halves."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from blyan.ledger import audit, reading
from blyan.ledger.accounts import Terms
from blyan.ledger.postgres_store import PostgresStore
from blyan.ledger.sqlite_store import SqliteStore
from blyan.ledger.store import Store
from blyan.ledger.transfers import Open
from ledgers import MINT, do, now, one, post

WORKER = Path(__file__).resolve().parents[1] / "ledger_worker.py"
FUNDS = 10_000


def kill_while_it_writes(where: str, number: int, seconds: float) -> dict[str, int]:
    """Start the worker, kill it so long after it began, and return what it said it was told."""
    command = [sys.executable, str(WORKER), where, str(number)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "begun\n", process.stderr.read()
    killer = threading.Timer(seconds, process.kill)
    killer.start()
    said = process.stdout.read()
    process.wait()
    assert process.returncode == -9, process.stderr.read()
    lines = [line.partition(" ") for line in said.splitlines(keepends=True) if line.endswith("\n")]
    return {key.rstrip("\n"): int(record) for record, _, key in lines}


def prepare(store: Store) -> None:
    store.migrate(now)
    do(store, Open(MINT), *(Open(Terms(name, "BLY")) for name in "ab"))
    do(store, *(post(f"fund {name}", MINT.name, name, FUNDS) for name in "ab"))


def check(store: Store, told: dict[str, int]) -> int:
    """Every answer that was given stands, and the books are whole."""
    with store.session() as session:
        report = audit.verify(session)
        assert report.faults == ()
        with session.reading():
            held = {each.key: each.number for each in reading.records(session, 0, report.records)}
            [total] = reading.trial_balance(session)
    assert told.items() <= held.items()
    assert total.balanced and total.has == 2 * FUNDS
    assert one(store, post(f"after {report.records}", "a", "b", 1)).taken
    assert one(store, post(f"back {report.records}", "b", "a", 1)).taken
    return report.records


def rounds(where: str, open_store: Callable[[], Store], count: int) -> int:
    chance = random.Random(7)
    told: dict[str, int] = {}
    records = 0
    for number in range(count):
        told |= kill_while_it_writes(where, number, chance.uniform(0.01, 0.25))
        store = open_store()
        records = check(store, told)
        store.close()
    assert len(told) > 5 * count
    return records


@pytest.mark.slow
def test_thirty_kills_under_load_lose_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    store = SqliteStore(path, create=True)
    prepare(store)
    store.close()
    rounds(str(path), lambda: SqliteStore(path), 30)


@pytest.mark.slow
def test_kills_of_a_writer_to_postgres_lose_no_answer(postgres_url: str) -> None:
    store = PostgresStore(postgres_url)
    prepare(store)
    store.close()
    rounds(postgres_url, lambda: PostgresStore(postgres_url), 6)


@pytest.mark.long
def test_a_thousand_kills_under_load_lose_no_answer(tmp_path: Path, long_result: Callable[[str, str], None]) -> None:
    """Fresh books every fifty rounds, so that checking them stays short."""
    records = 0
    for batch in range(20):
        path = tmp_path / f"ledger{batch}.db"
        store = SqliteStore(path, create=True)
        prepare(store)
        store.close()
        records += rounds(str(path), lambda path=path: SqliteStore(path), 50)
    long_result("SIGKILL of a writer into the books, 1,000 times", f"no answer lost, {records:,} records whole")
