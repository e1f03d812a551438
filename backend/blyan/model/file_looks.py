"""Looks at the files behind a step's weights, many in one call and without the interpreter: are they what they were?

Python's `stat` costs more than the system call that it makes, and a small step would spend a fifth of its time on it.
Without `statx` (Linux has it) the plain looks of `storage/blob_check` are taken.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
from llvmlite import ir
from numba import types
from numpy.typing import NDArray

from blyan.model.jit import compiled, entry
from blyan.model.simd import at_address, call, instruction
from blyan.storage.blob_check import BlobWatch

# statx(2): the folder that is meant by a plain path, no link is followed, the fields that every stat has
_here, _no_link, _basic = -100, 0x100, 0x7FF
# where in its 256 bytes: in numbers of eight bytes
_inode, _size, _changed, _changed_ns, _modified, _modified_ns, _device = 4, 5, 12, 13, 14, 15, 17
_told: Final = 7  # numbers that tell one file from another
_low = 0xFFFF_FFFF
_nanoseconds: Final = 1_000_000_000
_i8, _i32, _i64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)


@instruction
def _statx(_typing: Any, path: Any, room: Any) -> Any:
    """Look at the file whose name lies at `path`; 0 if that went well."""

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        where, into = (at_address(builder, address, _i8) for address in arguments)
        fixed = ir.Constant(_i32, _here), where, ir.Constant(_i32, _no_link), ir.Constant(_i32, _basic)
        return builder.sext(call(builder, "statx", _i32, *fixed, into), _i64)

    return types.int64(types.int64, types.int64), code


@compiled
def _same(path, before, room):
    if _statx(path, room.ctypes.data) != 0:
        return False
    return (
        room[_device] == before[0]
        and room[_inode] == before[1]
        and room[_size] == before[2]
        and room[_modified] == before[3]
        and room[_modified_ns] & _low == before[4]
        and room[_changed] == before[5]
        and room[_changed_ns] & _low == before[6]
    )


@entry
def all_same(always, paths, before, chosen, layers, rows, experts, seen, room):
    """Whether the first `always` files are what they were, and those of the experts in chosen[:layers, :rows]."""
    for file in range(always):
        if not _same(paths[file], before[file], room):
            return False
    good = True
    for layer in range(layers):
        for row in range(rows):
            for place in range(chosen.shape[2]):
                file = always + layer * experts + chosen[layer, row, place]
                if good and paths[file] != 0 and not seen[file]:
                    seen[file] = 1
                    good = _same(paths[file], before[file], room)
    seen[:] = 0
    return good


class Watch(Protocol):
    """Tells whether something is what it was: a file, or what stands for one."""

    @property
    def unchanged(self) -> bool:
        """Whether it is."""
        ...


class FileLooks:
    """The files of a model: `always` looked at, then those of each layer's experts, None for one that is not here."""

    def __init__(self, always: Sequence[Watch], experts: Sequence[Sequence[Watch | None]]) -> None:
        self._always, self._experts = always, experts
        all_of_them = [*always, *(watch for layer in experts for watch in layer)]
        watches = [watch for watch in all_of_them if watch is None or isinstance(watch, BlobWatch)]
        able = sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "statx")
        self._native = able and len(watches) == len(all_of_them)
        if not self._native:
            return
        self._names = [ctypes.create_string_buffer(os.fsencode(watch.path)) if watch else None for watch in watches]
        self._paths = np.array([ctypes.addressof(name) if name else 0 for name in self._names], np.int64)
        before = [_numbers_of(watch) if watch else (0,) * _told for watch in watches]
        self._before = np.array(before, np.int64).reshape(-1, _told)
        self._seen = np.zeros(len(watches), np.uint8)
        self._room = np.zeros(32, np.int64)

    def unchanged(self, chosen: NDArray[np.int64], rows: int) -> bool:
        """Whether those that are always looked at are what they were, and the experts of the first rows.

        `chosen` is [layers or more, rows or more, top_k], contiguous.
        """
        layers = len(self._experts)
        if not self._native:
            return self._unchanged_plainly(chosen[:layers, :rows])
        count = len(self._experts[0]) if layers else 0
        always, looks = len(self._always), (self._paths, self._before)
        return bool(all_same(always, *looks, chosen, layers, rows, count, self._seen, self._room))

    def _unchanged_plainly(self, chosen: NDArray[np.int64]) -> bool:
        if not all(watch.unchanged for watch in self._always):
            return False
        for watches, picks in zip(self._experts, chosen, strict=True):
            for expert in set(picks.ravel().tolist()):
                watch = watches[expert]
                if watch is not None and not watch.unchanged:
                    return False
        return True


def _numbers_of(watch: BlobWatch) -> tuple[int, ...]:
    """Device, inode, size, and both times in seconds and nanoseconds, as `statx` tells them."""
    device, inode, size, modified, changed = watch.identity
    packed = os.major(device) | os.minor(device) << 32
    return packed, inode, size, *divmod(modified, _nanoseconds), *divmod(changed, _nanoseconds)
