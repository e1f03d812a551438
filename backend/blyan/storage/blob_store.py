"""Content-addressed blobs: put once, map without copying, verified on first touch.

`blobs/<2 hex>/<payload_id>` holds the bytes and `<payload_id>.tiles` beside it the tile index; `partial/` holds what is
on its way in, `pins/` what a sweep must leave. A blob that passed verification is remembered in memory for as long as
(device, inode, size, mtime, ctime) of its file stay the same, and so is one that failed; `verify` always hashes again.
Files are stored read-only.

Limits of this: two changes within one tick of the kernel's clock (up to 10 ms) look like one; and pages come from the
file when first touched, so truncating a mapped file, or a disk that cannot read it, ends the process with SIGBUS
instead of an error. `put` never does that: it renames a new file into place, and the old pages stay.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Generator, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, TypeAlias

from blyan.primitives import limits
from blyan.primitives.digest import Bytes
from blyan.primitives.errors import BlockCorrupt, IntegrityFault, InvalidInput, NotFound
from blyan.primitives.ids import PayloadId
from blyan.storage import durable, partial, space
from blyan.storage.blob_check import identity_of, map_and_check, read_index
from blyan.storage.blob_faults import corrupted, full, no_room
from blyan.storage.blob_folder import BlobFolder, prepare_writing
from blyan.storage.blob_memory import BlobMemory, VerifiedBlob
from blyan.storage.blob_reader import BlobReader
from blyan.storage.partial import PartialBlob
from blyan.storage.space import SpaceLimits
from blyan.storage.tile import TileHasher, TileIndex

BlobState: TypeAlias = Literal["verified", "unverified", "corrupt"]

_stored_mode: Final = 0o444  # nothing ever writes into a stored file
_room_asked_every: Final = 64 * limits.MIB


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """What `put` made durable."""

    payload: PayloadId
    length: int  # bytes


@dataclass(frozen=True, slots=True)
class Swept:
    """A blob that a sweep removed, or would."""

    payload: PayloadId
    length: int  # bytes


class BlobStore(BlobFolder):
    """The blobs under one folder. Threads may share it: verification of one blob at a time, reads freely."""

    def __init__(self, folder: Path, *, writable: bool = False, limit: SpaceLimits | None = None) -> None:
        super().__init__(folder, limit or SpaceLimits())
        self._memory = BlobMemory()
        self.bytes_verified = 0  # hashed and found whole since this store was opened
        self._writable = writable
        self._lock = threading.Lock()  # held while a blob is verified and while what is remembered changes
        if writable:
            prepare_writing(folder)

    def put(
        self, chunks: Iterable[Bytes], *, expected: PayloadId | None = None, bytes_max: int = limits.payload_bytes_max
    ) -> StoredBlob:
        """Store a payload, hashed while written, and return its id.

        Steps, each durable before the next: (1) temporary file, (2) tile index under its name, (3) blob under its
        name. A crash before 3 leaves no blob; an index without a blob is harmless and is replaced. Bytes that are
        here already and whole are kept, and made durable; corrupt ones are replaced, so putting again repairs;
        `BlockCorrupt` if a folder is where a file belongs or the other way round.
        """
        hasher = TileHasher()
        length = asked = 0
        name = f"{threading.get_ident()}"
        temporaries = [durable.temporary_path(self.folder, each) for each in (name, name + partial.index_suffix)]
        try:
            with durable.writing(self.folder, name, _stored_mode) as file:
                for chunk in chunks:
                    length += len(chunk)
                    if length > bytes_max:
                        raise InvalidInput(f"payload: expected at most {bytes_max} bytes, found more")
                    if length > asked:
                        asked = length + _room_asked_every
                        self.want_room(length, written=length - len(chunk))
                    hasher.update(chunk)
                    file.write(chunk)
                index = hasher.finish()
                payload = index.payload_id
                if expected is not None and payload != expected:
                    raise IntegrityFault(f"payload: expected {expected}, computed {payload}")
            if not self._is_whole(payload, index):
                with durable.writing(self.folder, name + partial.index_suffix, _stored_mode) as file:
                    file.write(index.encode())
                with self.counting():  # nobody else takes the room that was asked for
                    coming = space.bytes_at(temporaries)
                    gone = space.bytes_at((self.path(payload), self.index_path(payload)))
                    self.want_room(max(coming - gone, 0), written=coming)
                    self.publish(payload, *temporaries)
            return StoredBlob(payload, length)
        except OSError as reason:
            if reason.errno in no_room:
                raise full(self.folder, reason) from None
            raise
        finally:
            for temporary in temporaries:
                durable.discard(temporary)

    def begin(self, payload: PayloadId, length: int, index_raw: bytes) -> PartialBlob:
        """Begin or resume a payload that comes in subtiles; its tile index is checked against the id first.

        `IntegrityFault` for another payload's index, `BeingFetched` while somebody else takes it in, `StorageFull`
        where there is no room for all of it.
        """
        index = TileIndex.decode(index_raw, length, payload)
        folder = self.folder / partial.folder_name
        own = partial.paths(folder, payload)
        with self.counting(*own):
            more = partial.bytes_of(index) - space.bytes_at(own)
            if more > 0:
                self.want_room(more)
            try:
                return PartialBlob(folder, payload, index, self)
            except OSError as reason:
                if reason.errno in no_room:
                    durable.discard(folder / payload)
                    raise full(self.folder, reason) from None
                raise

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
        """Hash a payload again whatever is remembered, remember the result, and look at its tile index too.

        A damaged index alone is `BlockCorrupt` here, though the blob is served: its bytes are what its id says. In a
        store that writes it is durable afterwards, also where a killed process gave it its name.
        """
        with self._lock:
            blob = self._verify(payload)
        path = self.index_path(payload)
        try:
            read_index(path, payload, len(blob.mapping))
        except (OSError, ValueError, IntegrityFault) as reason:
            raise corrupted(payload, path, f"expected its tile index, found {reason}", []) from None
        if self._writable:
            durable.fsync_folder(path.parent)
        return blob

    @contextmanager
    def reading(self, payload: PayloadId) -> Generator[BlobReader, None, None]:
        """A payload open to be read in pieces, each verified; faults as `open`'s, and remembered as its are."""
        with BlobReader(self.path(payload), self.index_path(payload), payload) as reader:
            fault = None
            try:
                yield reader
            except BlockCorrupt as reason:
                fault = reason
                raise
            finally:
                with self._lock:
                    self.bytes_verified += reader.bytes_verified
                    self._memory.was_read(payload, reader, fault)

    def unmap(self, payload: PayloadId) -> None:
        """Let a mapping go; its pages go with the last tensor over it. The next `open` hashes again."""
        with self._lock:
            self._memory.unmap(payload)

    def state(self, payload: PayloadId) -> tuple[BlobState, BlockCorrupt | None]:
        """What is known about a payload without hashing it now; an absent one is corrupt."""
        try:
            identity = identity_of(self.stat(payload))
        except (NotFound, BlockCorrupt) as reason:
            return "corrupt", BlockCorrupt(reason.message, detail=reason.detail, hint=reason.hint)
        fault = self._memory.fault(payload, identity)
        if fault is not None:
            return "corrupt", fault
        return ("verified" if self._memory.is_whole(payload, identity) else "unverified"), None

    @property
    def corrupt_count(self) -> int:
        """Blobs that were found corrupt and not whole since."""
        return self._memory.corrupt_count

    def sweep(self, keep: Collection[PayloadId], *, dry_run: bool = False) -> list[Swept]:
        """Remove every blob that is neither in `keep` nor pinned. What is mapped stays mapped until it is let go."""
        kept = {*keep, *self.pins()}
        swept = [Swept(payload, self.size(payload)) for payload in self.payloads() if payload not in kept]
        self.give_up([] if dry_run else [blob.payload for blob in swept])
        return swept

    def give_up(self, payloads: Collection[PayloadId]) -> None:
        """Remove these blobs but those that are pinned; what is not here is not missed."""
        for payload in set(payloads) - self.pins().keys():
            durable.remove(self.path(payload))  # first: an index that a crash leaves is harmless
            durable.remove(self.index_path(payload))
            with self._lock:
                self._memory.forget(payload)
        self.recount()

    def _known(self, payload: PayloadId) -> VerifiedBlob | None:
        """The blob if its file is the one that was verified, none if it has to be hashed; a known fault is raised."""
        identity = identity_of(self.stat(payload))
        fault = self._memory.fault(payload, identity)
        if fault is not None:
            raise fault
        return self._memory.mapped(payload, identity)

    def _verify(self, payload: PayloadId) -> VerifiedBlob:
        self._memory.unmap(payload)
        found = self.stat(payload)
        try:
            blob = VerifiedBlob(
                payload, map_and_check(self.path(payload), self.index_path(payload), payload, found, self._pool)
            )
        except BlockCorrupt as fault:
            self._memory.found_corrupt(payload, identity_of(found), fault)
            raise
        self._memory.found_whole(payload, identity_of(found), blob)
        self.bytes_verified += len(blob.mapping)
        return blob

    @cached_property
    def _pool(self) -> Executor | None:
        threads = min(len(os.sched_getaffinity(0)), limits.verify_threads_max)
        return ThreadPoolExecutor(threads, "blyan-hash") if threads > 1 else None

    def _is_whole(self, payload: PayloadId, index: TileIndex) -> bool:
        try:
            return self.size(payload) == index.length and bool(self.verify(payload))
        except (NotFound, BlockCorrupt, OSError):
            return False
