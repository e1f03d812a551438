"""How one source has done in one fetch: its speed, its failures, when it may be asked again; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from blyan.primitives import limits

_first_subtiles: Final = 4  # asked of a source whose speed nobody knows
_piece_seconds: Final = 1.0
_pause_seconds: Final = 0.5  # after a first failure, twice as long after each other


@dataclass(slots=True)
class Standing:
    """One source's; it is set back when it fails, and given up when that happens again and again."""

    alive: bool = True
    why: str = ""  # the last failure
    failures: int = 0  # in a row
    not_before: float = 0.0  # when it may be asked again
    speed: float = 0.0  # bytes a second of one connection; 0: unknown
    ranges: bool = True  # whether it sends parts of payloads

    def piece(self) -> int:
        """How many subtiles it sends in about a second."""
        return max(1, round(self.speed * _piece_seconds / limits.subtile_bytes)) if self.speed else _first_subtiles

    def served(self, count: int, seconds: float) -> None:
        """It gave what it was asked for, at some speed."""
        self.failures = 0
        if count >= limits.subtile_bytes:  # less says more of the way there than of the source
            speed = count / max(seconds, 1e-6)
            self.speed = speed if not self.speed else (self.speed + speed) / 2

    def failed(self, why: str, now: float, pause: float | None) -> None:
        """It did not answer, or broke off; it may ask for a pause."""
        if not self.alive:
            return
        self.why = why
        if now < self.not_before:
            return  # another connection to it, at the same time
        self.failures += 1
        self.speed /= 2
        own = _pause_seconds * 2 ** (self.failures - 1)
        self.not_before = now + min(max(own, pause or 0.0), limits.source_pause_seconds_max)
        if self.failures >= limits.peer_attempts_max:
            self.alive = False
            self.why = f"{why} in {self.failures} attempts"
