"""Which experts a node fetched and gave up lately, and why: a bounded log for people, and counts. Values only."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from blyan.primitives import limits
from blyan.primitives.ids import PayloadId

Direction: TypeAlias = Literal["took", "gave"]
Why: TypeAlias = Literal["rare", "room", "worth", "wished", "memory"]

directions: Final[tuple[Direction, ...]] = ("took", "gave")
whys: Final[dict[Why, str]] = {
    "rare": "fewer nodes held one than should",
    "room": "there was room for it",
    "worth": "one saves the swarm more here than the other",
    "wished": "answers led here for others use one more than the other",
    "memory": "network.memory is smaller than what was held",
}


@dataclass(frozen=True, slots=True)
class Move:
    """One expert that came or went."""

    at: int  # seconds since 1970
    direction: Direction
    manifest: PayloadId
    number: int  # of the expert in its model
    why: Why
    others: int  # nodes that held it, as far as was known
    rate: float  # rows a second that the swarm uses it for, as far as was known


class MoveLog:
    """The latest, in the order in which they came about. Not thread-safe."""

    def __init__(self) -> None:
        self._moves: deque[Move] = deque(maxlen=limits.moves_kept_max)
        self.counts: Counter[tuple[Direction, Why]] = Counter()  # since the start

    def add(self, moves: Iterable[Move]) -> None:
        """They have come about."""
        for move in moves:
            self._moves.append(move)
            self.counts[move.direction, move.why] += 1

    def latest(self, most: int, manifest: PayloadId | None = None) -> list[Move]:
        """So many at most, of one model or of all, the oldest first."""
        found = [move for move in self._moves if manifest is None or move.manifest == manifest]
        return found[-most:] if most else []
