"""Compiling the fast path: numba without its surprises, and a cache on disk that knows all of its sources.

numba's own cache looks only at the file of the function that is compiled; ours lies in a folder named after every
kernel source, numba's version and the processor, so that nothing stale is ever run (`jit_cache` says where).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import llvmlite.binding as llvm
import numba
from numba.core import config

from blyan.model.jit_cache import held_folder

_here: Final = Path(__file__).parent
_sources: Final = (
    "jit.py",
    "simd.py",
    "argument_table.py",
    "file_looks.py",
    "meeting.py",
    "kernels.py",
    "fused_layout.py",
    "fused_attention.py",
    "fused_rows.py",
    "fused_experts.py",
    "fused_code.py",
)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that other compiled ones call; Python cannot.

    Numbers are IEEE: nothing is reordered, so a sum has one order, which is the one that is written.
    """
    options: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # which numba's types do not know
    return numba.njit(error_model="numpy", **options)(function)


def entry(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that Python calls: compiled when first called, without the interpreter's lock, kept on disk."""
    if folder is None:
        return numba.njit(nogil=True, error_model="numpy")(function)
    held, config.CACHE_DIR = config.CACHE_DIR, str(folder)  # type: ignore[attr-defined]
    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    finally:
        config.CACHE_DIR = held  # type: ignore[attr-defined]


def _cache_name() -> str:
    state = hashlib.sha256(f"{numba.__version__} {llvm.get_host_cpu_name()} ".encode())
    state.update(repr(sorted(llvm.get_host_cpu_features().items())).encode())
    for name in _sources:
        state.update((_here / name).read_bytes())
    return f"jit-{state.hexdigest()[:16]}"


folder: Final = held_folder(_cache_name())  # None: compiled anew by each process
# The vectors are written out: a search for more of them costs seconds and finds nothing.
config.LOOP_VECTORIZE = config.SLP_VECTORIZE = 0  # type: ignore[attr-defined]
