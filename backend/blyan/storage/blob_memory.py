"""What a process remembers of the blobs it hashed: which file was whole or corrupt, and the mapping it lies in."""

from __future__ import annotations

import mmap
from dataclasses import dataclass

from blyan.primitives.errors import BlockCorrupt
from blyan.primitives.ids import PayloadId
from blyan.storage.blob_check import Identity
from blyan.storage.blob_reader import BlobReader


@dataclass(frozen=True, slots=True)
class VerifiedBlob:
    """A mapping whose every byte matched `payload` when it was verified. Only `BlobStore` makes one."""

    payload: PayloadId
    mapping: mmap.mmap


class BlobMemory:
    """Verdicts by payload, each of one file as it was. Whoever writes holds the lock of the store."""

    def __init__(self) -> None:
        self._mapped: dict[PayloadId, tuple[Identity, VerifiedBlob]] = {}
        self._whole: dict[PayloadId, Identity] = {}  # every byte matched, and nothing is mapped (any more)
        self._corrupt: dict[PayloadId, tuple[Identity, BlockCorrupt]] = {}

    @property
    def corrupt_count(self) -> int:
        """Blobs that were found corrupt and not whole since."""
        return len(self._corrupt)

    def mapped(self, payload: PayloadId, identity: Identity) -> VerifiedBlob | None:
        """The verified mapping of this very file."""
        held = self._mapped.get(payload)
        return held[1] if held is not None and held[0] == identity else None

    def is_whole(self, payload: PayloadId, identity: Identity) -> bool:
        """Whether every byte of this very file matched."""
        return self.mapped(payload, identity) is not None or self._whole.get(payload) == identity

    def fault(self, payload: PayloadId, identity: Identity) -> BlockCorrupt | None:
        """What was found wrong with this very file, as a new exception."""
        bad = self._corrupt.get(payload)
        if bad is None or bad[0] != identity:
            return None
        return BlockCorrupt(bad[1].message, detail=bad[1].detail, hint=bad[1].hint)

    def found_whole(self, payload: PayloadId, identity: Identity, blob: VerifiedBlob | None) -> None:
        """Every byte matched, in `blob`'s mapping if there is one."""
        self._corrupt.pop(payload, None)
        if blob is not None:
            self._mapped[payload] = (identity, blob)
        self._whole[payload] = identity

    def found_corrupt(self, payload: PayloadId, identity: Identity, fault: BlockCorrupt) -> None:
        """Some byte did not. Of the file as it was before: if it has changed since, nothing will match this."""
        self.forget(payload)
        self._corrupt[payload] = (identity, fault)

    def was_read(self, payload: PayloadId, reader: BlobReader, fault: BlockCorrupt | None) -> None:
        """A reader is done: with a fault, with every byte, or with some, which says nothing new."""
        if fault is not None:
            self.found_corrupt(payload, reader.identity, fault)
        elif reader.read_whole:
            self.found_whole(payload, reader.identity, None)

    def unmap(self, payload: PayloadId) -> None:
        """Let the mapping go and keep the verdict."""
        self._mapped.pop(payload, None)

    def forget(self, payload: PayloadId) -> None:
        """Know nothing of it."""
        self._mapped.pop(payload, None)
        self._whole.pop(payload, None)
        self._corrupt.pop(payload, None)
