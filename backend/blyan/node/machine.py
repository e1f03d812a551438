"""What the kernel says about this machine."""

from __future__ import annotations

import os
import resource
from pathlib import Path


def memory() -> tuple[int, int]:
    """Bytes of memory, and of what can be had now, as the kernel estimates it."""
    found = {"MemTotal": 0, "MemAvailable": 0}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in found:
            found[name] = int(rest.split()[0]) * 1024
    return found["MemTotal"], found["MemAvailable"]


def memory_limit(control_group: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process may use: the machine's memory, or less where a control group says so."""
    total, _ = memory()
    try:
        said = (control_group / "memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, int(said)) if said.isdecimal() else total


def raise_descriptors(wanted: int) -> int:
    """Let this process hold `wanted` files and connections at once, as far as the hard limit goes; how many it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    aim = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < aim:
        resource.setrlimit(resource.RLIMIT_NOFILE, (aim, hard))
        return aim
    return soft


def processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))
