"""What an import lets onto the disk before it knows who signed what: well-formed entries of their chain, within limits.

A small file can stand for very many bytes, so that every entry is looked at before it is written, and what is written
is held against the limits of the blob store that the chains lie beside. Order and signatures are for `chain/audit`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from blyan.chain.entries import ChainName, parse_entry
from blyan.primitives import limits
from blyan.primitives.errors import IntegrityFault, MalformedEntry
from blyan.storage.blob_store import BlobStore
from blyan.storage.space import want_room

_asked_every: Final = 256 * limits.KIB
_beside_entry: Final = 34  # bytes: its length in the bundle, its leaf in the hash tile


class Room:
    """What the chains of one import may take: as if they were blobs, for as long as they are imported."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._used = 0 if store.limit.bytes_max is None else store.usage().bytes
        self._taken = 0
        self._asked = 0

    def take(self, length: int) -> None:
        """Count bytes before they are written; `StorageFull` where there is no room for them."""
        self._taken += length
        bytes_max = self._store.limit.bytes_max
        if self._taken >= self._asked or (bytes_max is not None and self._used + self._taken > bytes_max):
            self._asked = self._taken + _asked_every
            want_room(self._store.folder, self._store.limit, self._used + self._taken, 0, 0)


def well_formed(entries: Iterator[bytes], name: ChainName, network: str, first: int, room: Room) -> Iterator[bytes]:
    """The entries as they come; `IntegrityFault` at one that is malformed, of another chain or of another network."""
    for number, raw in enumerate(entries, first):
        where = f"entry {number} of chain {name}"
        try:
            entry = parse_entry(raw)
        except MalformedEntry as reason:
            raise IntegrityFault(f"{where}: {reason.message}") from None
        if entry.chain != name:
            raise IntegrityFault(f"{where}: expected one of its own, found one of {entry.chain}")
        if entry.network != network:
            raise IntegrityFault(f"{where}: expected network {network}, found {entry.network}")
        room.take(len(raw) + _beside_entry)
        yield raw
