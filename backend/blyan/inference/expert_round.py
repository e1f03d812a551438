"""Expert calls of one layer where nothing goes wrong: all were sent, and all are answered in time.

For the network's loop. No task stands between the answers and who waits for them: the last answer that comes gives
all. Whatever else happens (one is late, one is none) is the executor's matter, which is told once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from blyan.inference.expert_message import ExpertMessage
from blyan.primitives.errors import Fault
from blyan.primitives.ids import PublicKey


@dataclass(slots=True, eq=False)
class Due:
    """What one node is to give, in one message."""

    node: PublicKey
    indices: Sequence[int]  # of the calls
    hedge_after: float  # seconds, all together
    patient: bool  # much is on its way, to a node that is known: it is waited for while it says anything
    began: float = 0.0
    trial: bool = False  # of a node that failed before: what comes of it is heard, though nobody waits for it
    tried: bool = False  # whether it was sent, or could not be
    sent: ExpertMessage | None = None


class Ends(Protocol):
    """Whom a round tells how it ended: one of these, once."""

    def given(self, found: dict[int, Tensor | Fault]) -> None:
        """All outputs, by index."""
        ...

    def late(self) -> None:
        """Some did not answer yet: it is not watched any more."""
        ...

    def failed(self, dues: Sequence[Due], found: dict[int, Tensor | Fault]) -> None:
        """All answered, some of them nothing that counts, which is told."""
        ...


class Round:
    """Watches messages that were sent."""

    def __init__(self, dues: Sequence[Due], seconds: float, ends: Ends) -> None:
        """In `seconds` the first of them is late."""
        self._dues, self._ends = dues, ends
        self._over = False
        self._left = len(dues)
        for due in dues:
            assert due.sent is not None, "all were sent"
            due.sent.then(self._settled)
        self._timer = asyncio.get_running_loop().call_later(seconds, self._late)

    def leave(self) -> None:
        """Nobody waits for the answers any more."""
        if self._end():
            for due in self._dues:
                assert due.sent is not None, "all were sent"
                due.sent.drop()

    def _end(self) -> bool:
        """Whether it was not over before."""
        self._timer.cancel()
        over, self._over = self._over, True
        return not over

    def _settled(self) -> None:
        self._left -= 1
        if self._left or not self._end():
            return
        found: dict[int, Tensor | Fault] = {}
        failed: list[Due] = []
        for due in self._dues:
            assert due.sent is not None, "all were sent"
            with due.sent:
                answer = due.sent.answer()
            if answer is None:
                failed.append(due)
            else:
                found.update(answer)
        if failed:
            self._ends.failed(failed, found)
        else:
            self._ends.given(found)

    def _late(self) -> None:
        if self._end():
            self._ends.late()
