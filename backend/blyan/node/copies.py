"""Hashes copies of experts for questions whether they are here: in one thread of its own, one question after the other.

Blocks are read in pieces, each verified, and not left mapped. Who no longer waits for the answer stops the reading, and
the next question begins only when it has stopped.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from blyan.node.holdings import Hosted
from blyan.primitives import limits
from blyan.primitives.digest import Possession
from blyan.primitives.errors import IntegrityFault, NotFound, Unavailable
from blyan.primitives.ids import PayloadId
from blyan.storage.blob_store import BlobStore

_log = logging.getLogger(__name__)
_piece_bytes: Final = 64 * limits.subtile_bytes


class Copies:
    """For the network's loop; `close` it."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, "blyan-copies")
        self.waiting = 0  # questions, with the one that is hashed

    async def digests(self, hosted: Hosted, bound: bytes, numbers: Collection[int]) -> dict[int, bytes]:
        """By number, of the experts whose blocks are here and whole. `bound` is what `Question.bound` gives."""
        over = threading.Event()
        self.waiting += 1
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._hash, hosted, bound, [*numbers], over)
        work.add_done_callback(self._done)
        try:
            return await asyncio.shield(work)
        finally:
            over.set()

    def close(self) -> None:
        """Nobody asks any more. Not for the loop: it waits for the question that is hashed."""
        self._thread.shutdown(cancel_futures=True)

    def _done(self, work: asyncio.Future[dict[int, bytes]]) -> None:
        self.waiting -= 1
        if not work.cancelled() and (reason := work.exception()) is not None:
            _log.debug("copies: %s", reason)  # which who asked was told of, if they still waited

    def _hash(self, hosted: Hosted, bound: bytes, numbers: list[int], over: threading.Event) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        room = memoryview(bytearray(_piece_bytes))
        for number in numbers:
            try:
                digest = self._digest(hosted.block(number).payload, bound, room, over)
            except (IntegrityFault, NotFound, Unavailable) as reason:
                _log.warning("expert %d of %s cannot be shown: %s", number, hosted.manifest_id[:12], reason.message)
                continue
            if digest is None:
                break
            found[number] = digest
        return found

    def _digest(self, payload: PayloadId, bound: bytes, room: memoryview, over: threading.Event) -> bytes | None:
        """None once nobody waits for it."""
        hasher = Possession(bound)
        with self._store.reading(payload) as reader:
            for at in range(0, reader.length, _piece_bytes):
                if over.is_set():
                    return None
                piece = room[: min(_piece_bytes, reader.length - at)]
                reader.read(piece, at // limits.subtile_bytes)
                hasher.update(piece)
        return hasher.digest()
