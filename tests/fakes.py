"""Fakes for tests, tested in tests/unit/test_fakes.py."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from blyan.inference.session import Delta, Event, Finished


class StepByStep:
    """A generation whose events come when the test allows them."""

    def __init__(self, name: str, events: int, log: list[str] | None = None) -> None:
        self._name = name
        self._events = events
        self._log = log if log is not None else []
        self.allowed = threading.Semaphore(0)

    def __iter__(self) -> Iterator[Event]:
        for number in range(self._events):
            self.allowed.acquire()
            self._log.append(f"{self._name}{number}")
            yield Delta(f"{self._name}{number}", (), ())
        yield Finished("stop", 1, self._events)
