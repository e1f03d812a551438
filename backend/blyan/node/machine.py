"""What the kernel says about this machine."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import threading
from pathlib import Path
from typing import Final

# sched_setattr and sched_getattr of sched(7), for which the C library has no names
_calls: Final = {"x86_64": (314, 315), "aarch64": (274, 275)}


class _Scheduling(ctypes.Structure):
    """`struct sched_attr` of its first version."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),  # nanoseconds; of an ordinary thread: its turn on a core
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


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


def shorten_turns(seconds: float) -> float:
    """Let this thread, and those that it begins, have a core for shorter turns and therefore sooner; seconds of a turn.

    It gets no larger share. Linux 6.12 and later (EEVDF, `custom slice`) know this, from 0.0001 to 0.1 s; elsewhere
    nothing changes, and 0 is returned.
    """
    held = _scheduling()
    if held is None or held.policy != os.SCHED_OTHER:
        return 0.0
    held.size, held.flags, held.runtime = ctypes.sizeof(held), 0, round(seconds * 1e9)
    if ctypes.CDLL(None).syscall(_calls[platform.machine()][0], 0, ctypes.byref(held), 0):
        return 0.0
    return turn_seconds()


def stand_back(steps: int) -> int:
    """Let this thread, and those that it begins, have a core after others that want one; so many steps of `nice`(2).

    How nice it is then. Where a process has one priority for all its threads nothing changes (only Linux differs).
    """
    if platform.system() == "Linux":
        mine = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, mine, min(19, os.getpriority(os.PRIO_PROCESS, mine) + steps))
    return os.getpriority(os.PRIO_PROCESS, 0)


def turn_seconds() -> float:
    """How long this thread may have a core while others wait for it; 0 where the kernel does not say."""
    held = _scheduling()
    return 0.0 if held is None else held.runtime / 1e9


def _scheduling() -> _Scheduling | None:
    if platform.system() != "Linux" or platform.machine() not in _calls:
        return None
    held = _Scheduling()
    number, size = _calls[platform.machine()][1], ctypes.sizeof(held)
    return None if ctypes.CDLL(None).syscall(number, 0, ctypes.byref(held), size, 0) else held


def processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))
