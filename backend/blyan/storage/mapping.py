"""Files in memory without an open descriptor: private, writable pages that go when nothing looks at them any more.

`mmap.mmap` keeps a duplicate of the descriptor for as long as its mapping lives (`trackfd=False` came with Python
3.13), so a model of thousands of blocks would meet RLIMIT_NOFILE. What is not here: verification (`blob_store`) and
tensors (`tensor_block`). mmap(2) is the source, MAP_FIXED and NOTES.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Final

_map_fixed: Final = 0x10  # mmap(2), Linux; the mmap module of Python 3.11 names neither of these
_map_noreserve: Final = 0x4000
_protection: Final = mmap.PROT_READ | mmap.PROT_WRITE

_mmap = ctypes.CDLL(None, use_errno=True).mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]


def trim_heap() -> None:
    """Give the kernel the memory that was freed and that the allocator keeps, where it can: malloc_trim(3) of glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def map_private(handle: int, length: int, offset: int = 0) -> mmap.mmap:
    """`length` bytes (at least 1) of the open file from `offset`, a multiple of pages; the caller may close `handle`.

    Writable, because torch wants a writable buffer, but what is written stays in this process. The pages are unmapped
    when the returned object and every memoryview and tensor over it are gone. `OSError` with the errno of mmap(2).
    """
    # NORESERVE, or mapping more than RAM would fail. An anonymous mapping has no descriptor to keep, and unmaps its
    # range when it is deallocated: the file goes over its pages. (A ctypes array over pages of our own with a
    # finalizer would do too, but the collector calls finalizers before the last tensor of a reference cycle is gone.)
    pages = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | _map_noreserve, prot=_protection)
    address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    flags = mmap.MAP_PRIVATE | _map_noreserve | _map_fixed
    if _mmap(address, length, _protection, flags, handle, offset) != address:
        number = ctypes.get_errno()
        pages.close()
        raise OSError(number, os.strerror(number))
    return pages
