"""Content-addressed blobs: put once, map without copying, verified on first touch.

`blobs/<2 hex>/<payload_id>` holds the bytes and `<payload_id>.tiles` beside it the tile index. A blob that passed
verification is remembered in memory for as long as (device, inode, size, mtime) of its file stay the same; `verify`
always hashes again. What is not here: resumable partial objects, pins and sweeping (they come with transfers).
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from blyan.primitives import limits
from blyan.primitives.digest import Bytes, digest_bytes
from blyan.primitives.errors import BlockCorrupt, IntegrityFault, InvalidInput, NotFound
from blyan.primitives.ids import PayloadId
from blyan.storage import durable
from blyan.storage.tile import TileHasher, TileIndex, index_of, subtile_count

BlobState: TypeAlias = Literal["verified", "unverified", "corrupt"]
_Identity: TypeAlias = tuple[int, int, int, int]

_map_noreserve: Final = 0x4000  # mmap(2), Linux; the mmap module of Python 3.11 does not name it
_index_suffix: Final = ".tiles"


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
            for leftover in folder.glob(f"{durable.temporary_prefix}*"):
                leftover.unlink()

    def path(self, payload: PayloadId) -> Path:
        """Where the bytes of this payload are, or would be."""
        return self.folder / payload[:2] / payload

    def size(self, payload: PayloadId) -> int:
        """Bytes of a stored payload; `NotFound` if it is not here."""
        return self._stat(payload).st_size

    def put(
        self, chunks: Iterable[Bytes], *, expected: PayloadId | None = None, bytes_max: int = limits.payload_bytes_max
    ) -> StoredBlob:
        """Store a payload, hashed while written, and return its id.

        Steps, each durable before the next: (1) temporary file, (2) tile index under its name, (3) blob under its
        name. A crash before 3 leaves no blob; an index without a blob is harmless and is replaced. Bytes that are
        here already and whole are kept; corrupt ones are replaced, so putting again repairs.
        """
        hasher = TileHasher()
        length = 0
        temporary = durable.temporary_path(self.folder, f"{threading.get_ident()}")
        try:
            with durable.writing(self.folder, f"{threading.get_ident()}") as file:
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
            target = self.path(payload)
            if self._is_whole(payload, length):
                return StoredBlob(payload, length)
            durable.make_folder(target.parent)
            with durable.writing(self.folder, payload + _index_suffix) as file:
                file.write(index.encode())
            durable.publish(durable.temporary_path(self.folder, payload + _index_suffix), self._index_path(payload))
            durable.publish(temporary, target)
            return StoredBlob(payload, length)
        finally:
            temporary.unlink(missing_ok=True)

    def read(self, payload: PayloadId, *, bytes_max: int) -> bytes:
        """Verified bytes of a small payload."""
        blob = self.open(payload)
        if len(blob.mapping) > bytes_max:
            raise InvalidInput(f"payload {payload}: expected at most {bytes_max} bytes, found {len(blob.mapping)}")
        return bytes(blob.mapping)

    def open(self, payload: PayloadId) -> VerifiedBlob:
        """Map a payload without copying; hashed if not yet verified. `BlockCorrupt` names file and subtiles."""
        held = self._verified.get(payload)
        identity = _identity(self._stat(payload))
        if held is not None and held[0] == identity:
            return held[1]
        with self._lock:
            held = self._verified.get(payload)
            if held is not None and held[0] == identity:
                return held[1]
            return self._verify(payload)

    def verify(self, payload: PayloadId) -> VerifiedBlob:
        """Hash a payload again whatever is remembered, and remember the result."""
        with self._lock:
            return self._verify(payload)

    def state(self, payload: PayloadId) -> tuple[BlobState, BlockCorrupt | None]:
        """What is known about a payload without hashing it now; an absent one is corrupt."""
        try:
            identity = _identity(self._stat(payload))
        except NotFound as reason:
            return "corrupt", BlockCorrupt(reason.message, detail=reason.detail, hint=reason.hint)
        held = self._verified.get(payload)
        if held is not None and held[0] == identity:
            return "verified", None
        bad = self._corrupt.get(payload)
        if bad is not None and bad[0] == identity:
            return "corrupt", bad[1]
        return "unverified", None

    def _stat(self, payload: PayloadId) -> os.stat_result:
        path = self.path(payload)
        try:
            return path.stat(follow_symlinks=False)
        except FileNotFoundError:
            raise NotFound(
                f"block {payload} is not here: expected {path}",
                detail={"payload": payload, "file": str(path)},
                hint="import the model again to put the block back",
            ) from None

    def _verify(self, payload: PayloadId) -> VerifiedBlob:
        self._verified.pop(payload, None)
        self._stat(payload)
        handle = os.open(self.path(payload), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            identity = _identity(os.fstat(handle))
            blob = VerifiedBlob(payload, self._mapped_and_checked(payload, handle))
        except BlockCorrupt as fault:
            self._corrupt[payload] = (_identity(os.fstat(handle)), fault)
            raise
        finally:
            os.close(handle)
        self._corrupt.pop(payload, None)
        self._verified[payload] = (identity, blob)
        return blob

    def _mapped_and_checked(self, payload: PayloadId, handle: int) -> mmap.mmap:
        """Map the open file and hash the mapping itself; `BlockCorrupt` unless it is the payload."""
        length = os.fstat(handle).st_size
        if not 0 < length <= limits.payload_bytes_max:
            raise self._corrupted(payload, f"expected some bytes, found {length}", [])
        # MAP_PRIVATE and writable (torch wants a writable buffer, no page is ever written); NORESERVE, or mapping
        # more than RAM would fail.
        mapping = mmap.mmap(
            handle, length, flags=mmap.MAP_PRIVATE | _map_noreserve, prot=mmap.PROT_READ | mmap.PROT_WRITE
        )
        try:
            raw = durable.read_limited(self._index_path(payload), digest_bytes * subtile_count(length))
            index = TileIndex.decode(raw, length, payload)
        except (OSError, ValueError, IntegrityFault):
            if index_of(memoryview(mapping)).payload_id != payload:
                raise self._corrupted(
                    payload, f"expected the bytes of that id, found {length} others (and no valid tile index)", []
                ) from None
            return mapping  # the bytes are right; only the index, which is derived from them, is not
        bad = index.bad_subtiles(memoryview(mapping))
        if bad:
            words = ", ".join(map(str, bad[:8])) + (" …" if len(bad) > 8 else "")
            raise self._corrupted(payload, f"subtile {words} of {len(index.leaves)} does not match", bad)
        return mapping

    def _corrupted(self, payload: PayloadId, why: str, bad_subtiles: list[int]) -> BlockCorrupt:
        path = self.path(payload)
        return BlockCorrupt(
            f"block {payload} is corrupt: {why} in {path}",
            detail={"payload": payload, "file": str(path), "bad_subtiles": bad_subtiles},
            hint="the file changed after it was stored: check the disk, then `blyan init` (built-in model) or "
            "`blyan model import` again replaces it",
        )

    def _index_path(self, payload: PayloadId) -> Path:
        return self.folder / payload[:2] / (payload + _index_suffix)

    def _is_whole(self, payload: PayloadId, length: int) -> bool:
        try:
            return self.size(payload) == length and bool(self.verify(payload))
        except (NotFound, BlockCorrupt):
            return False


def _identity(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
