"""What the kernel says about this machine."""

from __future__ import annotations

import os
from pathlib import Path


def memory() -> tuple[int, int]:
    """Bytes of memory, and of what can be had now, as the kernel estimates it."""
    found = {"MemTotal": 0, "MemAvailable": 0}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in found:
            found[name] = int(rest.split()[0]) * 1024
    return found["MemTotal"], found["MemAvailable"]


def processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))
