"""How much an address, an account or a key may ask: the generic cell rate algorithm (GCRA, ITU-T I.371), integers only.

Each subject has one number, its theoretical arrival time: when all it was granted would have been earned at its rate.
A grant moves it forward by the cost. Grants beyond `per_minute` at once are refused until time has caught up. Tokens
are taken before a generation, prompt and the most that may be written, and what was not written is given back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from blyan.primitives import limits
from blyan.primitives.clock import Monotonic

_minute_us: Final = 60_000_000


@dataclass(frozen=True, slots=True)
class Charge:
    """A cost that a subject is to bear. `per_minute` is its rate, and what it may ask at once."""

    subject: str  # 32 hex digits, see `subject`
    per_minute: int
    cost: int = 1

    @property
    def step_us(self) -> int:
        """How long it takes to earn the cost, in microseconds, rounded up."""
        return -(-self.cost * _minute_us // self.per_minute)


class Quotas(Protocol):
    """Who keeps count."""

    async def take(self, charges: Sequence[Charge]) -> float:
        """Grant all of the charges, 0 then, or none of them: the seconds until they may be granted."""
        ...

    async def give_back(self, charges: Sequence[Charge]) -> None:
        """Undo charges that were granted, or parts of them."""
        ...

    async def close(self) -> None:
        """Let go of what is held."""
        ...


def subject(kind: str, name: str) -> str:
    """Who is charged, as a digest: of bounded length, and no address or account lies about."""
    return hashlib.blake2b(f"{kind}\n{name}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def wait_us(arrival_us: int, now_us: int, charge: Charge) -> int:
    """Microseconds until the charge may be granted, 0 for now. Pure.

    What costs more than a minute earns is granted to a subject that owes nothing, and it owes the rest after.
    """
    owed = max(arrival_us, now_us) - now_us
    if charge.step_us > _minute_us:
        return owed
    return max(0, owed + charge.step_us - _minute_us)


class MemoryQuotas:
    """The counts of one process. Used from the event loop alone.

    When too many subjects owe something, those that come new share one count: memory is bounded, and nobody gets
    around a quota by crowding the table.
    """

    def __init__(self, monotonic: Monotonic, subjects_max: int = limits.quota_subjects_max) -> None:
        self._monotonic = monotonic
        self._subjects_max = subjects_max
        self._arrivals: dict[str, int] = {}

    async def take(self, charges: Sequence[Charge]) -> float:
        """As `Quotas` says."""
        now = self._now()
        places = [self._place(charge, now) for charge in charges]
        waits = [wait_us(self._arrivals.get(place, 0), now, each) for place, each in zip(places, charges, strict=True)]
        if any(waits):
            return max(waits) / 1e6
        for place, charge in zip(places, charges, strict=True):
            self._arrivals[place] = max(self._arrivals.get(place, 0), now) + charge.step_us
        return 0.0

    async def give_back(self, charges: Sequence[Charge]) -> None:
        """As `Quotas` says."""
        for charge in charges:
            arrival = self._arrivals.get(charge.subject)
            if arrival is not None:
                self._arrivals[charge.subject] = arrival - charge.step_us

    async def close(self) -> None:
        """As `Quotas` says."""

    def _now(self) -> int:
        return int(self._monotonic() * 1e6)

    def _place(self, charge: Charge, now: int) -> str:
        if charge.subject in self._arrivals or len(self._arrivals) < self._subjects_max:
            return charge.subject
        self._arrivals = {name: arrival for name, arrival in self._arrivals.items() if arrival > now}
        # counts of one kind of charge are shared among themselves: their rates differ
        return charge.subject if len(self._arrivals) < self._subjects_max else f"others {charge.per_minute}"
