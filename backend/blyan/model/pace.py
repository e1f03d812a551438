"""Whether a small step is quicker with all threads or with one: measured, since other work on the cores decides it.

A thread that loses its core in the middle of a step is waited for at every phase; then one thread alone is up to four
times as fast. Steps of many rows keep every thread busy for long and are not counted.
"""

from __future__ import annotations

from statistics import median
from typing import Final

small_step: Final = 8  # rows
_look_first: Final = 8  # small steps before what was slower is tried; twice as many each time that it still is
_look_last: Final = 256
_tries: Final = 3  # of which the middle one counts
_memory: Final = 0.8  # of the mean of the way that is used


class Pace:
    """How many threads compute the next small step."""

    def __init__(self, threads: int) -> None:
        self._ways = (threads, 1)
        self._seconds: dict[int, float] = {}  # by threads, of a small step
        self._used = threads
        self._steps = 0
        self._look = _look_first
        self._trying: list[float] = []

    def threads(self, rows: int) -> int:
        """For a step of `rows` rows."""
        if rows > small_step or self._ways[0] == 1:
            return self._ways[0]
        return self._other if self._trial else self._used

    def took(self, threads: int, rows: int, seconds: float) -> None:
        """A step of `rows` rows took so long."""
        if rows > small_step or self._ways[0] == 1:
            return
        if self._trial:
            self._trying.append(seconds)
            if len(self._trying) == _tries:
                self._seconds[threads] = median(self._trying)
                self._trying.clear()
                self._steps = 0
                if self._seconds[self._other] < self._seconds[self._used]:
                    self._used, self._look = self._other, _look_first
                else:
                    self._look = min(2 * self._look, _look_last)
            return
        self._steps += 1
        held = self._seconds.get(threads, seconds)
        self._seconds[threads] = _memory * held + (1 - _memory) * seconds

    @property
    def _trial(self) -> bool:
        return self._steps >= self._look

    @property
    def _other(self) -> int:
        return self._ways[0] if self._used == 1 else 1
