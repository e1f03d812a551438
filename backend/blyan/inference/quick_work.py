"""How long work for peers may keep the network's loop in one turn: what is quick is computed there, but not much of it.

One read of a socket may bring hundreds of small calls; beyond the time of a turn they go to their thread, whose queue
has a limit. For the network's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from blyan.primitives.clock import Monotonic

_turn_seconds: Final = 0.001


@dataclass(slots=True)
class QuickWork:
    """Of one turn of the loop, of all that share it; a next turn begins anew."""

    _spent: float = 0.0

    @property
    def over(self) -> bool:
        """Whether no more is to be begun in this turn."""
        return self._spent >= _turn_seconds

    @contextmanager
    def timed(self, monotonic: Monotonic) -> Generator[None]:
        """What is computed meanwhile counts."""
        if not self._spent:
            asyncio.get_running_loop().call_soon(self._next_turn)
        began = monotonic()
        try:
            yield
        finally:
            self._spent += max(1e-9, monotonic() - began)

    def _next_turn(self) -> None:
        self._spent = 0.0
