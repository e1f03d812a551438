"""A process that writes into the books until it is killed: `python ledger_worker.py STORE ROUND`.

STORE is a file or a PostgreSQL URL. It says each answer on standard output only after it has it, so what it said is
durable. Callers hold, settle, void and post in turn; keys hold the round, so that none is used twice by mistake.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from blyan.ledger.books import Books
from blyan.ledger.postgres_store import PostgresStore
from blyan.ledger.sqlite_store import SqliteStore
from blyan.ledger.store import Store
from blyan.ledger.transfers import Hold, Leg, Post, Request, Settle, Void
from blyan.primitives.clock import system_seconds

CALLERS = 16


def open_store(where: str) -> Store:
    return PostgresStore(where) if where.startswith("postgresql:") else SqliteStore(Path(where))


async def submit(books: Books, request: Request) -> int:
    outcome = await books.submit(request)
    assert outcome.taken and outcome.number is not None, outcome
    sys.stdout.write(f"{outcome.number} {request.key}\n")
    sys.stdout.flush()
    return outcome.number


async def caller(books: Books, name: str) -> None:
    turn = 0
    while True:
        turn += 1
        key = f"{name} {turn}"
        leg = Leg("a", "b", 2) if turn % 2 else Leg("b", "a", 2)
        if turn % 3 == 0:
            hold = await submit(books, Hold(f"{key} hold", leg, 600))
            ending = Settle(f"{key} end", hold, 1) if turn % 2 else Void(f"{key} end", hold)
            await submit(books, ending)
        else:
            await submit(books, Post(key, (leg,)))


async def main(where: str, number: str) -> None:
    books = Books(open_store(where), system_seconds)
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    seals = asyncio.create_task(seal(books))
    await asyncio.gather(seals, *(caller(books, f"r{number} c{n}") for n in range(CALLERS)))


async def seal(books: Books) -> None:
    while True:
        await books.seal()
        await asyncio.sleep(0.03)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
