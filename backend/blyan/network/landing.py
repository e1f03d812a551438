"""What came of an answer until it is verified and written: a buffer of a tile, and the payload it goes into."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from blyan.network.pieces import Flight, Item
from blyan.primitives import limits
from blyan.primitives.errors import IntegrityFault
from blyan.storage.blob_store import BlobStore
from blyan.storage.partial import PartialBlob


@dataclass(slots=True, eq=False)
class Coming:
    """A payload on its way into the store."""

    blob: PartialBlob | None  # None for one of a single subtile, which is put at once
    synced_at: float
    writes: int = 0  # threads that write it now
    unsynced: int = 0  # bytes
    syncing: asyncio.Task[None] | None = None
    finishing: bool = False

    def write(
        self, store: BlobStore, item: Item, first: int, view: memoryview, numbers: Sequence[int]
    ) -> tuple[list[int], str]:
        """Verify and write subtiles of a run that begins with `first`: which were right, what is wrong with others."""
        good: list[int] = []
        wrong = ""
        for number in numbers:
            at = (number - first) * limits.subtile_bytes
            try:
                if self.blob is None:
                    store.put([view], expected=item.wanted.payload)
                else:
                    self.blob.write(number, view[at : at + limits.subtile_bytes])
                good.append(number)
            except IntegrityFault as reason:
                wrong = wrong or reason.message
        return good, wrong


class Tank:
    """What came of a flight and has not been dealt with yet."""

    def __init__(self, flight: Flight, buffer: bytearray) -> None:
        self.flight = flight
        self.first = flight.first  # subtile with which the buffer begins
        self._filled = 0  # bytes
        self._buffer = memoryview(buffer)

    @property
    def end(self) -> int:
        """The subtile before which a full buffer ends."""
        return min(self.first + limits.subtiles_per_tile, self.flight.end)

    @property
    def room(self) -> memoryview:
        """Where the next bytes of the answer go."""
        return self._buffer[self._filled : self.flight.item.bytes_of(self.first, self.end)]

    def whole(self) -> tuple[int, memoryview]:
        """The subtile before which ends what came wholly, and its bytes."""
        item, end = self.flight.item, self.first
        while end < self.end and item.bytes_of(self.first, end + 1) <= self._filled:
            end += 1
        return end, self._buffer[: item.bytes_of(self.first, end) if end > self.first else 0]

    def told(self, count: int) -> None:
        """So many bytes came."""
        self._filled += count
        self.flight.got += count

    def empty(self) -> None:
        """What came is dealt with: the buffer goes on with the next tile."""
        self.first, self._filled = self.end, 0
