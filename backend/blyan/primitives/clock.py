"""Time and chance, as values that are passed as arguments.

Only `node` and `cli` construct these; everything below takes them, so that many nodes run in one seeded simulation.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import TypeAlias

UnixSeconds: TypeAlias = Callable[[], int]
Monotonic: TypeAlias = Callable[[], float]
Entropy: TypeAlias = Callable[[int], bytes]


def system_seconds() -> int:
    """Seconds since the Unix epoch, by the system's clock."""
    return int(time.time())


def system_monotonic() -> float:
    """Seconds on a clock that never goes back, for durations and deadlines."""
    return time.monotonic()


def give_way() -> None:
    """Let another thread that waits for the interpreter run first."""
    time.sleep(0)


def system_entropy(count: int) -> bytes:
    """`count` bytes from the operating system's generator."""
    return secrets.token_bytes(count)
