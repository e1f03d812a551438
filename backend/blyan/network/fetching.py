"""A payload from a peer into the store: its tile index first, then subtile by subtile, each verified as it comes.

What came stays for the next try, also after a kill (`storage/partial`). A wrong byte is refused by payload and subtile,
and nothing has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from blyan.network.client import PeerClient
from blyan.primitives import limits
from blyan.primitives.digest import digest_bytes
from blyan.primitives.errors import IntegrityFault, NotFound
from blyan.primitives.ids import PayloadId
from blyan.storage.blob_store import BlobStore
from blyan.storage.tile import subtile_count

_synced_every: Final = 16 * limits.tile_bytes


async def fetch(
    client: PeerClient, store: BlobStore, payload: PayloadId, length: int, progress: Callable[[int], None]
) -> None:
    """Make the store hold a payload of `length` bytes; `progress` gets bytes as they come, and may raise to stop.

    `PeerFault` names what the peer gave that it should not; `StorageFull`.
    """
    if _is_here(store, payload, length):
        progress(length)
        return
    path = f"/blobs/{payload}"
    index = await client.get(f"{path}/index", digest_bytes * subtile_count(length))
    try:
        coming = store.begin(payload, length, index)
    except IntegrityFault as reason:
        raise client.fault(f"{path}/index", "expected the tile index of that payload", reason.message) from None
    try:
        missing = coming.missing()
        progress(length - sum(_bytes_of(number, length) for number in missing))
        unsynced = 0
        for first, last in _runs(missing):
            begin, end = first * limits.subtile_bytes, min(last * limits.subtile_bytes, length)
            data = memoryview(await client.get(path, end - begin, span=(begin, end)))
            for number in range(first, last):
                at = (number - first) * limits.subtile_bytes
                try:
                    coming.write(number, data[at : at + limits.subtile_bytes])
                except IntegrityFault as reason:
                    coming.sync()
                    raise client.fault(path, "expected the bytes of that payload", reason.message) from None
            unsynced += len(data)
            if unsynced >= _synced_every:
                coming.sync()
                unsynced = 0
            progress(len(data))
        coming.finish()
    finally:
        coming.close()


def _is_here(store: BlobStore, payload: PayloadId, length: int) -> bool:
    """Whether it need not be fetched: it is here, and nothing is known against it."""
    try:
        return store.size(payload) == length and store.state(payload)[0] != "corrupt"
    except (NotFound, IntegrityFault):
        return False


def _bytes_of(number: int, length: int) -> int:
    return min(limits.subtile_bytes, length - number * limits.subtile_bytes)


def _runs(missing: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and end of runs of subtiles that follow each other, none longer than a tile."""
    begin = 0
    for at in range(1, len(missing) + 1):
        if at == len(missing) or missing[at] != missing[at - 1] + 1 or at - begin == limits.subtiles_per_tile:
            yield missing[begin], missing[at - 1] + 1
            begin = at
