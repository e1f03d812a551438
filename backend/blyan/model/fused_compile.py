"""Compiling the jitted step for one way of storing weights, ahead of its use and in a process of its own.

A process that serves would stand still while numba compiles; one that finds the code on disk loads it in a moment.
`python -m blyan.model.fused_compile [fp32/fp32 …]` compiles what is named, or everything that models are stored as.
"""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numba import typeof
from numpy.typing import NDArray

from blyan.model import fused_code as code
from blyan.model import jit, jit_cache, simd
from blyan.model.file_looks import FileLooks
from blyan.model.weight_tables import widened
from blyan.primitives.clock import system_seconds

_log = logging.getLogger(__name__)
names: Final = {
    "fp32": simd.fp32,
    "bf16": simd.bf16,
    "fp16": simd.fp16,
    "int8": simd.int8,
    "fp8": simd.fp8,
    "int4": simd.int4,
}
_dense: Final = ("bf16", "fp32", "fp16")
everything: Final = tuple(f"{kind}/{like}" for like in _dense for kind in (like, "int8", "int4", "fp8"))
_seconds_max: Final = 600.0


def name_of(kind: NDArray[Any], like: NDArray[Any]) -> str:
    """How matrices and everything else are stored, as `everything` names it."""
    by_type = {value.dtype: name for name, value in names.items()}
    return f"{by_type[kind.dtype]}/{by_type[like.dtype]}"


def load(name: str) -> None:
    """Have the code of one way in this process: from disk, or compiled now."""
    kind, like = (names[each] for each in name.split("/"))
    dispatcher: Any = code.serve
    dispatcher.compile(tuple(typeof(value) for value in _example(kind, like)))
    FileLooks([], []).unchanged(np.zeros((1, 1, 1), np.int64), 0)
    if jit.folder is not None:
        (jit.folder / _mark(name)).touch()


def forget() -> None:
    """Delete all that is on disk."""
    if jit.folder is not None:
        with jit_cache.alone(jit.folder):
            for path in [*jit.folder.rglob("*.ready"), *jit.folder.rglob("*.nb[ic]")]:
                path.unlink(missing_ok=True)


def compile_apart(name: str) -> bool:
    """Have it on disk, compiled by another process if need be; False if that cannot be.

    That has the priority of who asks, which is the compute thread's: after it, it would never end on a busy node.
    """
    if jit.folder is None:
        return False
    if (jit.folder / _mark(name)).exists():
        return True
    source = str(Path(__file__).resolve().parents[2])
    run = (
        f"import sys; from pathlib import Path; sys.path.insert(0, {source!r}); "
        f"from blyan.model import jit_cache; "
        f"jit_cache.use_parents(Path({str(jit.folder.parent)!r})); from blyan.model.fused_compile import main; "
        f"main([{name!r}])"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", run],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_seconds_max,
            check=False,
            close_fds=True,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and (jit.folder / _mark(name)).exists()


def main(wanted: list[str]) -> None:
    """Compile what is named, or everything."""
    torch.set_num_threads(1)
    if jit.folder is None:
        for name in wanted or everything:
            load(name)
        return
    with jit_cache.alone(jit.folder):
        for name in wanted or everything:
            if not (jit.folder / _mark(name)).exists():
                load(name)
    for gone in jit_cache.prune(jit.folder, system_seconds()):
        _log.info("compiled code that is not used any more was deleted: %s", gone)


def _mark(name: str) -> str:
    """The file that says that code is there. numba finds code again by path and (older ones) time of its source, so a
    copied folder or a package at another place is compiled apart as well, and not by who serves.
    """
    source = Path(code.__file__)
    place = hashlib.sha256(f"{source} {source.stat().st_mtime_ns}".encode()).hexdigest()[:8]
    return f"{name.replace('/', '-')}.{place}.ready"


def _example(kind: NDArray[Any], like: NDArray[Any]) -> tuple[Any, ...]:
    """Arguments of the types that `fused_step` calls with."""
    return 0, 1, 0, 0, True, np.zeros((1, 1), np.int64), kind, like, widened(kind)


if __name__ == "__main__":
    main(sys.argv[1:])
