"""The folder of a blob store: where things lie, what is pinned, how much room it takes. Nothing here hashes a blob."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from blyan.primitives.ids import PayloadId
from blyan.storage import durable, partial, pins, space
from blyan.storage.blob_check import BlobWatch, identity_of
from blyan.storage.blob_faults import misplaced, not_opened
from blyan.storage.space import SpaceLimits, Usage


class BlobFolder:
    """What can be said and changed about blobs without their bytes."""

    def __init__(self, folder: Path, limit: SpaceLimits) -> None:
        self.folder = folder
        self.limit = limit
        self._used: int | None = None  # bytes in the folder, counted when a limit asks for it
        self._account = threading.RLock()  # held while room is asked for and taken

    def path(self, payload: PayloadId) -> Path:
        """Where the bytes of this payload are, or would be."""
        return self.folder / payload[:2] / payload

    def index_path(self, payload: PayloadId) -> Path:
        """Where the tile index of this payload is, or would be."""
        return self.folder / payload[:2] / (payload + partial.index_suffix)

    def stat(self, payload: PayloadId) -> os.stat_result:
        """Of a stored payload's file; `NotFound` if it is not here, `BlockCorrupt` if its place cannot be looked at."""
        try:
            return self.path(payload).stat(follow_symlinks=False)
        except OSError as reason:
            raise not_opened(payload, self.path(payload), reason) from None

    def watch(self, payload: PayloadId) -> BlobWatch:
        """A cheap look at whether a payload's file is still what it is now; faults as `stat`'s."""
        return BlobWatch(str(self.path(payload)), identity_of(self.stat(payload)))

    def size(self, payload: PayloadId) -> int:
        """Bytes of a stored payload; faults as `stat`'s."""
        return self.stat(payload).st_size

    def payloads(self) -> Iterator[PayloadId]:
        """The ids of all stored blobs, in order."""
        return space.stored_payloads(self.folder)

    def unfinished(self) -> Iterator[PayloadId]:
        """The ids of all payloads on their way in."""
        return space.unfinished_payloads(self.folder)

    def verify_unfinished(self, payload: PayloadId) -> None:
        """Hash again what is here of a payload on its way in; `IntegrityFault` names what does not match."""
        partial.check_partial(self.folder / partial.folder_name, payload)

    def usage(self) -> Usage:
        """What this store takes of the disk."""
        return space.usage(self.folder, self.limit)

    def pin(self, payload: PayloadId, why: str) -> None:
        """Keep a payload although no chain names it."""
        pins.pin(self.folder / pins.folder_name, payload, why)

    def unpin(self, payload: PayloadId) -> bool:
        """Let it go; whether it was pinned."""
        return pins.unpin(self.folder / pins.folder_name, payload)

    def pins(self) -> dict[PayloadId, str]:
        """Every pinned payload and why."""
        return pins.pins(self.folder / pins.folder_name)

    def want_room(self, more: int, *, written: int = 0) -> None:
        """Raise `StorageFull` unless `more` bytes may be stored, of which the disk holds `written` already."""
        with self._account:
            if self.limit.bytes_max is not None and self._used is None:
                found = self.usage()
                self._used = found.bytes - found.leftover_bytes  # who writes a temporary file asks for it
            space.want_room(self.folder, self.limit, self._used or 0, more, written)

    @contextmanager
    def counting(self, *paths: Path) -> Generator[None, None, None]:
        """Hold the account while files come and go at `paths`, so that it then says what is there."""
        with self._account:
            before = space.bytes_at(paths)
            try:
                yield
            finally:
                if self._used is not None:
                    self._used += space.bytes_at(paths) - before

    def recount(self) -> None:
        """Count again what is there, when it is next asked for."""
        with self._account:
            self._used = None

    def publish(self, payload: PayloadId, blob: Path, index: Path) -> None:
        """Give a payload and its index their names, the index first; `BlockCorrupt` if something else stands there."""
        target = self.path(payload)
        try:
            durable.make_folder(target.parent, within=self.folder)
            for path in (target, self.index_path(payload)):  # before either is replaced
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            with self.counting(target, self.index_path(payload)):
                durable.publish(index, self.index_path(payload))
                durable.publish(blob, target)
        except (FileExistsError, IsADirectoryError, NotADirectoryError) as reason:
            raise misplaced(payload, reason) from None


def prepare_writing(folder: Path) -> None:
    """Make the folder of a store, clear up what a crash left in it, and make durable what was found."""
    durable.make_folder(folder)
    inner = folder / pins.folder_name, folder / partial.folder_name
    for path in inner:
        durable.refuse_links(path, within=folder)
    for path in (folder.parent, folder, *inner):
        durable.sync_names(path)  # which a killed process may have made and not synced
    durable.sweep(folder)
    durable.sweep(folder / pins.folder_name)
    partial.sweep_partials(folder / partial.folder_name)
