"""Mapping a stored blob and hashing the mapping itself, tile by tile on several threads.

The hashing reads the pages for the first time, so that reading from the disk and hashing overlap. A blob without a
valid tile index is hashed whole: the index is derived from the bytes, not the other way round.
"""

from __future__ import annotations

import mmap
import os
import stat
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from blyan.primitives import limits
from blyan.primitives.digest import Bytes, digest_bytes
from blyan.primitives.errors import IntegrityFault
from blyan.primitives.ids import PayloadId
from blyan.storage import durable
from blyan.storage.blob_faults import corrupted, not_opened
from blyan.storage.mapping import map_private
from blyan.storage.tile import TileIndex, differing, subtile_count, subtile_leaves

Identity: TypeAlias = tuple[int, int, int, int, int]

_kinds: Final = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder"}


def identity_of(found: os.stat_result) -> Identity:
    """What changes when a file does: device, inode, size, mtime, ctime.

    ctime too: `utime` sets the mtime, but nothing short of the clock sets the ctime.
    """
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@dataclass(frozen=True, slots=True)
class BlobWatch:
    """A file and what it was like when its bytes were verified."""

    path: str
    identity: Identity

    @property
    def unchanged(self) -> bool:
        """Whether it still is; a file that is gone or cannot be looked at is not."""
        try:
            found = os.stat(self.path, follow_symlinks=False)  # noqa: PTH116 - a Path costs ten times as much
        except OSError:
            return False
        return identity_of(found) == self.identity


def map_and_check(
    path: Path, index_path: Path, payload: PayloadId, found: os.stat_result, pool: Executor | None
) -> mmap.mmap:
    """Map the file and hash the mapping; `BlockCorrupt` unless it is the payload and stayed as it was `found`."""
    kind = stat.S_IFMT(found.st_mode)
    if kind != stat.S_IFREG:
        raise corrupted(payload, path, f"expected a regular file, found {_kinds.get(kind, 'a special file')}", [])
    if not 0 < found.st_size <= limits.payload_bytes_max:
        raise corrupted(payload, path, f"expected some bytes, found {found.st_size}", [])
    try:
        # NONBLOCK: a pipe that took the file's place just now must not stop us
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            _expect_unchanged(path, payload, found, handle)  # before: a mapping past a file's end cannot be read
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_SEQUENTIAL)  # twice the read-ahead while we hash
            mapping = map_private(handle, found.st_size)
            _check(path, index_path, payload, memoryview(mapping), pool)
            _expect_unchanged(path, payload, found, handle)
        finally:
            os.close(handle)
    except OSError as reason:
        raise not_opened(payload, path, reason) from None
    return mapping


def read_index(index_path: Path, payload: PayloadId, length: int) -> TileIndex:
    """The checked tile index of a stored blob; `OSError`, `ValueError` or `IntegrityFault` if it is none."""
    raw = durable.read_limited(index_path, digest_bytes * subtile_count(length))
    return TileIndex.decode(raw, length, payload)


def leaves_of(data: Bytes, pool: Executor | None) -> list[bytes]:
    """The leaf of every subtile of a payload in memory, one task per tile."""
    view, step = memoryview(data), limits.tile_bytes
    tiles = [view[at : at + step] for at in range(0, len(view), step)]
    if pool is None or len(tiles) < 2:
        return subtile_leaves(view)
    return [leaf for leaves in pool.map(subtile_leaves, tiles) for leaf in leaves]


def _check(path: Path, index_path: Path, payload: PayloadId, view: memoryview, pool: Executor | None) -> None:
    leaves = leaves_of(view, pool)
    if TileIndex(len(view), tuple(leaves)).payload_id == payload:
        return  # whatever its index says
    try:
        expected = read_index(index_path, payload, len(view)).leaves
    except (OSError, ValueError, IntegrityFault):
        others = f"expected the bytes of that id, found {len(view)} others (and no valid tile index)"
        raise corrupted(payload, path, others, []) from None
    bad = differing(leaves, expected)
    words = ", ".join(map(str, bad[:8])) + (" …" if len(bad) > 8 else "")
    raise corrupted(payload, path, f"subtile {words} of {len(leaves)} does not match", bad)


def _expect_unchanged(path: Path, payload: PayloadId, found: os.stat_result, handle: int) -> None:
    if identity_of(os.fstat(handle)) != identity_of(found):
        raise corrupted(payload, path, "the file changed while it was verified", [])
