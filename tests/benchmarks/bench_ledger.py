"""Durable transfers a second in SQLite and PostgreSQL, and entries a second that are verified.

Back of the envelope. A transfer is one record, two entries and two changed accounts, each looked at by a trigger: about
60 us of SQLite and 60 us of Python on one core. A commit's sync takes 0.2 to 5 ms and is shared by all that waits, so
64 callers share it among 64. PostgreSQL computes the same on another core, through a socket, with triggers in PL/pgSQL:
2 to 4 times as much. To verify an entry is a share of a row's parsing, a leaf hash and a dozen comparisons: 10 us.

The peer is the database alone: the same rows in the same group commits into tables without triggers, constraints or
rules. Equality first: the trial balance is what was posted, and verify finds no fault.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

from harness import SMOKE, Page, both, percentile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from blyan.ledger import audit, reading
from blyan.ledger.accounts import Terms
from blyan.ledger.books import Books
from blyan.ledger.postgres_store import PostgresStore
from blyan.ledger.sqlite_store import SqliteStore
from blyan.ledger.store import Store
from blyan.ledger.transfers import Leg, Open, Post
from blyan.primitives import limits
from blyan.primitives.clock import system_seconds
from services import PostgresServer

ACCOUNTS = 1_000


async def drive(store: Store, callers: int, seconds: float) -> tuple[int, float, list[float]]:
    """Transfers that so many callers did one after another each, the seconds all took, and what each took."""
    books = Books(store, system_seconds)
    mint = Terms("mint", "BLY", floor=-limits.amount_max)
    await asyncio.gather(
        *(books.submit(Open(each)) for each in (mint, *(Terms(f"a{n}", "BLY") for n in range(ACCOUNTS))))
    )
    await asyncio.gather(*(books.submit(Post(f"fund {n}", (Leg("mint", f"a{n}", 10**9),))) for n in range(ACCOUNTS)))
    numbers, took = itertools.count(), list[float]()
    end = time.perf_counter() + seconds

    async def caller() -> None:
        while (began := time.perf_counter()) < end:
            number = next(numbers)
            leg = Leg(f"a{number * 7 % ACCOUNTS}", f"a{(number * 13 + 1) % ACCOUNTS}", 1)
            if leg.debit == leg.credit:
                continue
            outcome = await books.submit(Post(f"t {number}", (leg,)))
            assert outcome.taken
            took.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    spent = time.perf_counter() - began
    await books.seal()
    await books.close()
    return len(took), spent, took


def verified(store: Store) -> tuple[int, float]:
    """Entries that were verified, and seconds."""
    with store.session() as session:
        began = time.perf_counter()
        report = audit.verify(session)
        spent = time.perf_counter() - began
        assert report.faults == ()
        with session.reading():
            assert all(total.balanced for total in reading.trial_balance(session))
    return report.entries, spent


def database_alone(path: Path, transfers: int, at_once: int) -> float:
    """Seconds for the same rows in plain tables, in commits of as many."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(
        "CREATE TABLE r (seq INTEGER PRIMARY KEY, t INTEGER, kind TEXT, key TEXT UNIQUE, q BLOB, l BLOB)"
    )
    connection.execute("CREATE TABLE e (r INTEGER, n INTEGER, a INTEGER, v INTEGER, x INTEGER, b INTEGER)")
    connection.execute("CREATE TABLE a (id INTEGER PRIMARY KEY, b INTEGER)")
    connection.executemany("INSERT INTO a VALUES (?, 0)", [(n,) for n in range(ACCOUNTS)])
    began = time.perf_counter()
    for first in range(0, transfers, at_once):
        some = range(first, first + at_once)
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO r VALUES (?, 0, 'post', ?, ?, ?)", [(n, f"t {n}", bytes(32), bytes(32)) for n in some]
        )
        pairs = [(n, side, (n * 7 + side) % ACCOUNTS) for n in some for side in (0, 1)]
        connection.executemany("INSERT INTO e VALUES (?, ?, ?, 0, 1, 1)", pairs)
        connection.executemany("UPDATE a SET b = b + 1 WHERE id = ?", [(pair[2],) for pair in pairs])
        connection.execute("COMMIT")
    spent = time.perf_counter() - began
    connection.close()
    return spent


def measure(page: Page, what: str, store: Store, callers: int, target: str) -> None:
    store.migrate(system_seconds)
    seconds = 1 if SMOKE else 10
    cpu = time.process_time()
    done, spent, took = asyncio.run(drive(store, callers, seconds))
    cpu = time.process_time() - cpu
    page.row(f"{what}, {callers} callers", f"{done / spent:,.0f} durable transfers/s", target)
    page.row(f"{what}, one transfer", f"{both(took)}, p99 {percentile(took, 0.99) * 1e3:.3g} ms")
    page.row(f"{what}, our process's time a transfer", f"{cpu / done * 1e6:,.0f} us")
    entries, seconds = verified(store)
    page.row(f"{what}, verify", f"{entries / seconds:,.0f} entries/s of {entries:,}", "50,000")


def main() -> None:
    page = Page("ledger", "Transfers and verification", __doc__.partition("\n\n")[2].strip())
    page.row("load of the machine as it began, its cores", f"{os.getloadavg()[0]:.1f}, {os.cpu_count()}", "0")
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore(Path(folder) / "ledger.db", create=True)
        measure(page, "SQLite", store, 64, "5,000")
        store.close()
        transfers = 6_400 if SMOKE else 64_000
        alone = database_alone(Path(folder) / "alone.db", transfers, 64)
        page.row("the same rows without rules, 64 a commit", f"{transfers / alone:,.0f}/s")
    with PostgresServer(()) as server:
        postgres = PostgresStore(server.new_database())
        measure(page, "PostgreSQL", postgres, 20, "2,000")
        postgres.close()
    page.write()


if __name__ == "__main__":
    main()
