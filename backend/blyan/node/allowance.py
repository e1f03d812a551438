"""What newcomers are given to try the node with: once for each account, and no more in a day than was set.

The books remember who got it, by the key of the transfer, and how much was given. A day is one of UTC.
"""

from __future__ import annotations

import asyncio
from typing import Final

from blyan.ledger import reading
from blyan.ledger.store import Session
from blyan.ledger.transfers import Leg, Post
from blyan.node import books as names
from blyan.node.books import NodeBooks
from blyan.primitives import limits
from blyan.primitives.clock import UnixSeconds

_day_seconds: Final = 86_400


class Allowance:
    """Gives `amount` smallest units to whoever has not had it, up to `per_day` in all; 0 gives nothing."""

    def __init__(self, books: NodeBooks, now: UnixSeconds, amount: int, per_day: int) -> None:
        self._books, self._now = books, now
        self._amount, self._per_day = amount, per_day
        self._seen: set[str] = set()  # accounts that had it, as far as we know
        self._giving = asyncio.Lock()  # held from looking at what was given today until more is

    async def grant(self, payer: str) -> bool:
        """Give to an account of the books what it has not had yet; whether it did."""
        if not self._amount or payer in self._seen:
            return False
        key = f"allowance {payer}"
        async with self._giving:
            had, given = await self._books.read(lambda session: self._looked(session, key))
            if not had and given + self._amount > self._per_day:
                return False
            request = Post(key, (Leg(names.allowance, payer, self._amount),), "for newcomers")
            outcome = None if had else await self._books.submit(request)
        if len(self._seen) >= limits.accounts_remembered_max:
            self._seen.clear()
        self._seen.add(payer)
        return outcome is not None and outcome.taken

    def _looked(self, session: Session, key: str) -> tuple[bool, int]:
        """Whether this key was used, and what was given since midnight."""
        if reading.number_of(session, key) is not None:
            return True, 0
        now = reading.account(session, names.allowance).balance
        before = reading.balance_at(session, names.allowance, self._now() // _day_seconds * _day_seconds - 1).balance
        return False, before - now
