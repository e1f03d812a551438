"""The folder of a blob store: where things lie, what is pinned, how much room it takes. Nothing here hashes a blob."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from blyan.primitives.ids import PayloadId
from blyan.storage import partial, pins, space
from blyan.storage.space import SpaceLimits, Usage


class BlobFolder:
    """What can be said and changed about blobs without their bytes."""

    def __init__(self, folder: Path, limit: SpaceLimits) -> None:
        self.folder = folder
        self.limit = limit
        self._used: int | None = None  # bytes in the folder, counted when a limit asks for it

    def path(self, payload: PayloadId) -> Path:
        """Where the bytes of this payload are, or would be."""
        return self.folder / payload[:2] / payload

    def index_path(self, payload: PayloadId) -> Path:
        """Where the tile index of this payload is, or would be."""
        return self.folder / payload[:2] / (payload + partial.index_suffix)

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

    def want_room(self, more: int) -> None:
        """Raise `StorageFull` unless `more` bytes may be stored."""
        if self.limit.bytes_max is not None and self._used is None:
            self._used = self.usage().bytes
        space.want_room(self.folder, self.limit, self._used or 0, more)

    def taken(self, length: int) -> None:
        """Count bytes that were stored."""
        if self._used is not None:
            self._used += length

    def recount(self) -> None:
        """Count again what is there, when it is next asked for."""
        self._used = None
