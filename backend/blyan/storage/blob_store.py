"""Content-addressed blobs: put once, map without copying, verified on first touch.

`blobs/<2 hex>/<payload_id>` holds the bytes and `<payload_id>.tiles` beside it the tile index. A blob that passed
verification is remembered in memory for as long as (device, inode, size, mtime, ctime) of its file stay the same, and
so is one that failed; `verify` always hashes again. Files are stored read-only.

Limits of this: two changes within one tick of the kernel's clock (up to 10 ms) look like one; and pages come from the
file when first touched, so truncating a mapped file, or a disk that cannot read it, ends the process with SIGBUS
instead of an error. `put` never does that: it renames a new file into place, and the old pages stay.
What is not here: resumable partial objects, pins and sweeping of blobs (they come with transfers).
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from blyan.primitives import limits
from blyan.primitives.digest import Bytes, digest_bytes
from blyan.primitives.errors import BlockCorrupt, Fault, IntegrityFault, InvalidInput, NotFound, Unavailable
from blyan.primitives.ids import PayloadId
from blyan.storage import durable
from blyan.storage.mapping import map_private
from blyan.storage.tile import TileHasher, TileIndex, index_of, subtile_count

BlobState: TypeAlias = Literal["verified", "unverified", "corrupt"]
_Identity: TypeAlias = tuple[int, int, int, int, int]

_index_suffix: Final = ".tiles"
_stored_mode: Final = 0o444  # nothing ever writes into a stored file
_of_the_moment: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_kinds: Final = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder"}
_put_back: Final = "`blyan init` (built-in model) or `blyan model import` again replaces it"


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """What `put` made durable."""

    payload: PayloadId
    length: int  # bytes


@dataclass(frozen=True, slots=True)
class VerifiedBlob:
    """A mapping whose every byte matched `payload` when it was verified. Only `BlobStore` makes one."""

    payload: PayloadId
    mapping: mmap.mmap


class BlobStore:
    """The blobs under one folder. Threads may share it: verification of one blob at a time, reads freely."""

    def __init__(self, folder: Path, *, writable: bool = False) -> None:
        self.folder = folder
        self._verified: dict[PayloadId, tuple[_Identity, VerifiedBlob]] = {}
        self._corrupt: dict[PayloadId, tuple[_Identity, BlockCorrupt]] = {}
        self._lock = threading.Lock()  # held while a blob is verified and while the two tables change
        if writable:
            durable.make_folder(folder)
            durable.sweep(folder)

    def path(self, payload: PayloadId) -> Path:
        """Where the bytes of this payload are, or would be."""
        return self.folder / payload[:2] / payload

    def size(self, payload: PayloadId) -> int:
        """Bytes of a stored payload; `NotFound` if it is not here, `BlockCorrupt` if its place cannot be looked at."""
        return self._stat(payload).st_size

    def put(
        self, chunks: Iterable[Bytes], *, expected: PayloadId | None = None, bytes_max: int = limits.payload_bytes_max
    ) -> StoredBlob:
        """Store a payload, hashed while written, and return its id.

        Steps, each durable before the next: (1) temporary file, (2) tile index under its name, (3) blob under its
        name. A crash before 3 leaves no blob; an index without a blob is harmless and is replaced. Bytes that are
        here already and whole are kept; corrupt ones are replaced, so putting again repairs; `BlockCorrupt` if a
        folder is where a file belongs or the other way round.
        """
        hasher = TileHasher()
        length = 0
        name = f"{threading.get_ident()}"
        temporaries = [durable.temporary_path(self.folder, each) for each in (name, name + _index_suffix)]
        try:
            with durable.writing(self.folder, name, _stored_mode) as file:
                for chunk in chunks:
                    length += len(chunk)
                    if length > bytes_max:
                        raise InvalidInput(f"payload: expected at most {bytes_max} bytes, found more")
                    hasher.update(chunk)
                    file.write(chunk)
                index = hasher.finish()
                payload = index.payload_id
                if expected is not None and payload != expected:
                    raise IntegrityFault(f"payload: expected {expected}, computed {payload}")
            if not self._is_whole(payload, index):
                with durable.writing(self.folder, name + _index_suffix, _stored_mode) as file:
                    file.write(index.encode())
                self._publish(payload, *temporaries)
            return StoredBlob(payload, length)
        finally:
            for temporary in temporaries:
                temporary.unlink(missing_ok=True)

    def read(self, payload: PayloadId, *, bytes_max: int) -> bytes:
        """Verified bytes of a small payload."""
        blob = self.open(payload)
        if len(blob.mapping) > bytes_max:
            raise InvalidInput(f"payload {payload}: expected at most {bytes_max} bytes, found {len(blob.mapping)}")
        return bytes(blob.mapping)

    def open(self, payload: PayloadId) -> VerifiedBlob:
        """Map a payload without copying; hashed if nothing is known about its file as it is now.

        `BlockCorrupt` names the file and, where bytes differ, subtiles; `NotFound` if it is absent; `Unavailable` if
        the process is out of descriptors or memory.
        """
        known = self._known(payload)
        if known is not None:
            return known
        with self._lock:
            return self._known(payload) or self._verify(payload)

    def verify(self, payload: PayloadId) -> VerifiedBlob:
        """Hash a payload again whatever is remembered, and remember the result."""
        with self._lock:
            return self._verify(payload)

    def state(self, payload: PayloadId) -> tuple[BlobState, BlockCorrupt | None]:
        """What is known about a payload without hashing it now; an absent one is corrupt."""
        try:
            identity = _identity(self._stat(payload))
        except (NotFound, BlockCorrupt) as reason:
            return "corrupt", BlockCorrupt(reason.message, detail=reason.detail, hint=reason.hint)
        held = self._verified.get(payload)
        if held is not None and held[0] == identity:
            return "verified", None
        bad = self._corrupt.get(payload)
        if bad is not None and bad[0] == identity:
            return "corrupt", bad[1]
        return "unverified", None

    def _known(self, payload: PayloadId) -> VerifiedBlob | None:
        """The blob if its file is the one that was verified, none if it has to be hashed; a known fault is raised."""
        identity = _identity(self._stat(payload))
        held = self._verified.get(payload)
        if held is not None and held[0] == identity:
            return held[1]
        bad = self._corrupt.get(payload)
        if bad is not None and bad[0] == identity:
            raise BlockCorrupt(bad[1].message, detail=bad[1].detail, hint=bad[1].hint)
        return None

    def _stat(self, payload: PayloadId) -> os.stat_result:
        try:
            return self.path(payload).stat(follow_symlinks=False)
        except OSError as reason:
            raise _not_opened(payload, self.path(payload), reason) from None

    def _verify(self, payload: PayloadId) -> VerifiedBlob:
        self._verified.pop(payload, None)
        found = self._stat(payload)
        try:
            blob = VerifiedBlob(payload, self._mapped_and_checked(payload, found))
        except BlockCorrupt as fault:
            # Of the file as it was before: if it has changed since, nothing will match this, and it is hashed again.
            self._corrupt[payload] = (_identity(found), fault)
            raise
        self._corrupt.pop(payload, None)
        self._verified[payload] = (_identity(found), blob)
        return blob

    def _mapped_and_checked(self, payload: PayloadId, found: os.stat_result) -> mmap.mmap:
        """Map the file and hash the mapping itself; `BlockCorrupt` unless it is the payload and stayed as found."""
        kind = stat.S_IFMT(found.st_mode)
        if kind != stat.S_IFREG:
            raise _corrupted(
                payload, self.path(payload), f"expected a regular file, found {_kinds.get(kind, 'a special file')}", []
            )
        if not 0 < found.st_size <= limits.payload_bytes_max:
            raise _corrupted(payload, self.path(payload), f"expected some bytes, found {found.st_size}", [])
        try:
            # NONBLOCK: a pipe that took the file's place just now must not stop us
            handle = os.open(self.path(payload), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                self._expect_unchanged(payload, found, handle)  # before: a mapping past a file's end cannot be read
                mapping = map_private(handle, found.st_size)
                self._check(payload, mapping)
                self._expect_unchanged(payload, found, handle)
            finally:
                os.close(handle)
        except OSError as reason:
            raise _not_opened(payload, self.path(payload), reason) from None
        return mapping

    def _expect_unchanged(self, payload: PayloadId, found: os.stat_result, handle: int) -> None:
        if _identity(os.fstat(handle)) != _identity(found):
            raise _corrupted(payload, self.path(payload), "the file changed while it was verified", [])

    def _check(self, payload: PayloadId, mapping: mmap.mmap) -> None:
        length = len(mapping)
        try:
            raw = durable.read_limited(self._index_path(payload), digest_bytes * subtile_count(length))
            index = TileIndex.decode(raw, length, payload)
        except (OSError, ValueError, IntegrityFault):
            if index_of(memoryview(mapping)).payload_id != payload:
                raise _corrupted(
                    payload,
                    self.path(payload),
                    f"expected the bytes of that id, found {length} others (and no valid tile index)",
                    [],
                ) from None
            return  # the bytes are right; only the index, which is derived from them, is not
        bad = index.bad_subtiles(memoryview(mapping))
        if bad:
            words = ", ".join(map(str, bad[:8])) + (" …" if len(bad) > 8 else "")
            raise _corrupted(payload, self.path(payload), f"subtile {words} of {len(index.leaves)} does not match", bad)

    def _publish(self, payload: PayloadId, blob: Path, index: Path) -> None:
        target = self.path(payload)
        try:
            durable.make_folder(target.parent)
            for path in (target, self._index_path(payload)):  # before either is replaced
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            durable.publish(index, self._index_path(payload))
            durable.publish(blob, target)
        except (FileExistsError, IsADirectoryError, NotADirectoryError) as reason:
            path = reason.filename2 or reason.filename
            raise BlockCorrupt(
                f"block {payload} cannot be stored: {reason.strerror} at {path}",
                detail={"payload": payload, "file": str(path), "bad_subtiles": []},
                hint=f"this program did not put it there: move {path} away, then {_put_back}",
            ) from None

    def _index_path(self, payload: PayloadId) -> Path:
        return self.folder / payload[:2] / (payload + _index_suffix)

    def _is_whole(self, payload: PayloadId, index: TileIndex) -> bool:
        try:
            whole = self.size(payload) == index.length and bool(self.verify(payload))
            return whole and self._index_path(payload).read_bytes() == index.encode()
        except (NotFound, BlockCorrupt, OSError):
            return False


def _identity(found: os.stat_result) -> _Identity:
    # ctime too: `utime` sets the mtime, but nothing short of the clock sets the ctime
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _corrupted(payload: PayloadId, path: Path, why: str, bad_subtiles: list[int]) -> BlockCorrupt:
    return BlockCorrupt(
        f"block {payload} is corrupt: {why} in {path}",
        detail={"payload": payload, "file": str(path), "bad_subtiles": bad_subtiles},
        hint=f"the file changed after it was stored: check the disk, then {_put_back}",
    )


def _not_opened(payload: PayloadId, path: Path, reason: OSError) -> Fault:
    detail = {"payload": payload, "file": str(path)}
    if isinstance(reason, FileNotFoundError):
        hint = "import the model again to put the block back"
        return NotFound(f"block {payload} is not here: expected {path}", detail=detail, hint=hint)
    if reason.errno in _of_the_moment:
        hint = "raise the limits of open files (ulimit -n) and mappings (vm.max_map_count), or run less beside"
        return Unavailable(f"block {payload}: expected to map {path}, {reason.strerror}", detail=detail, hint=hint)
    return _corrupted(payload, path, f"expected to open it, {reason.strerror}", [])
