"""Reading a stored payload in pieces, each subtile verified in the memory where it will be used.

Nothing is mapped: what was read cannot change afterwards, a file that shrinks is a fault instead of SIGBUS, and memory
is the caller's buffers. The tile index is checked against the payload id first; without a valid one it is computed from
the bytes, in one pass.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import TracebackType

from blyan.primitives import limits
from blyan.primitives.digest import hash_subtile
from blyan.primitives.errors import IntegrityFault
from blyan.primitives.ids import PayloadId
from blyan.storage.blob_check import identity_of, read_index
from blyan.storage.blob_faults import corrupted, not_opened
from blyan.storage.tile import TileHasher, TileIndex, subtile_count


class BlobReader:
    """One open payload. A context; `read` may be called by several threads at once."""

    def __init__(self, path: Path, index_path: Path, payload: PayloadId) -> None:
        """Open the file; `NotFound`, `BlockCorrupt` or `Unavailable` as `BlobStore.open`."""
        self._path = path
        self._payload = payload
        try:
            # NONBLOCK: a pipe in the file's place must not stop us
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as reason:
            raise not_opened(payload, path, reason) from None
        try:
            found = os.fstat(self._handle)
            if not stat.S_ISREG(found.st_mode) or not 0 < found.st_size <= limits.payload_bytes_max:
                raise corrupted(payload, path, f"expected a file with some bytes, found {found.st_size}", [])
            self.identity = identity_of(found)
            self.length = found.st_size
            self._index = self._read_index(index_path)
            self._seen = bytearray(len(self._index.leaves))  # subtile → 1 once it was verified
        except BaseException:
            os.close(self._handle)
            raise

    def __enter__(self) -> BlobReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, reason: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._handle)

    @property
    def read_whole(self) -> bool:
        """Whether every subtile was read and matched, of a file that is still the one that was opened."""
        return all(self._seen) and identity_of(os.fstat(self._handle)) == self.identity

    @property
    def bytes_verified(self) -> int:
        """Bytes of the payload that were hashed and found whole, each counted once."""
        return min(sum(self._seen) * limits.subtile_bytes, self.length)

    def read(self, into: memoryview, subtile: int) -> None:
        """Fill `into` from the start of a subtile on, and verify it there: whole subtiles, but for the payload's end.

        `BlockCorrupt` names the subtiles that do not match, or where the file ended.
        """
        step, begin = limits.subtile_bytes, subtile * limits.subtile_bytes
        assert len(into) % step == 0 or begin + len(into) == self.length, "whole subtiles"
        self._fill(into, begin)
        bad: list[int] = []
        for number, at in enumerate(range(0, len(into), step), subtile):
            if hash_subtile(into[at : at + step]) == self._index.leaves[number]:
                self._seen[number] = 1
            else:
                bad.append(number)
        if bad:
            words = ", ".join(map(str, bad[:8])) + (" …" if len(bad) > 8 else "")
            raise corrupted(
                self._payload, self._path, f"subtile {words} of {len(self._index.leaves)} does not match", bad
            )

    def read_in_order(self) -> None:
        """Tell the kernel that the file is read from here on in its order.

        Not what is to be read (`POSIX_FADV_WILLNEED`): that fills the page cache page by page, which took three times
        the processor time of reading ahead by itself.
        """
        os.posix_fadvise(self._handle, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def let_go(self, begin: int, length: int) -> None:
        """Tell the kernel that the page cache need not keep these bytes (whole pages of them, unless mapped)."""
        os.posix_fadvise(self._handle, begin, length, os.POSIX_FADV_DONTNEED)

    def _fill(self, into: memoryview, begin: int) -> None:
        done = 0
        while done < len(into):
            try:
                count = os.preadv(self._handle, [into[done:]], begin + done)
            except OSError as reason:
                raise not_opened(self._payload, self._path, reason) from None
            if count == 0:
                at = min(begin + done, os.fstat(self._handle).st_size)
                raise corrupted(
                    self._payload,
                    self._path,
                    f"expected {self.length} bytes, found the end at {at}",
                    [at // limits.subtile_bytes],
                )
            done += count

    def _read_index(self, index_path: Path) -> TileIndex:
        try:
            return read_index(index_path, self._payload, self.length)
        except (OSError, ValueError, IntegrityFault):
            pass  # derived from the bytes instead
        hasher, piece = TileHasher(), memoryview(bytearray(min(limits.tile_bytes, self.length)))
        for begin in range(0, self.length, len(piece)):
            part = piece[: min(len(piece), self.length - begin)]
            self._fill(part, begin)
            hasher.update(part)
            self.let_go(begin, len(part))
        index = hasher.finish()
        assert len(index.leaves) == subtile_count(self.length)
        if index.payload_id != self._payload:
            others = f"expected the bytes of that id, found {self.length} others (and no valid tile index)"
            raise corrupted(self._payload, self._path, others, [])
        return index
