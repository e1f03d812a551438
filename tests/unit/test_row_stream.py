"""Rows of large blocks: all of them in order, and damage by its place."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from blyan.primitives import limits
from blyan.primitives.errors import BlockCorrupt
from blyan.primitives.ids import PayloadId
from blyan.storage.blob_store import BlobStore
from blyan.storage.row_stream import Ring, Table, _Run

ROW = 3_000  # bytes: no subtile ends where a row does
ROWS = 8_000
OFFSET = 7 * 512


def stored(folder: Path) -> tuple[BlobStore, PayloadId, bytes]:
    data = np.random.default_rng(4).bytes(OFFSET + ROW * ROWS)
    store = BlobStore(folder, writable=True)
    return store, store.put([data]).payload, data


def rows_of(store: BlobStore, payload: PayloadId) -> bytes:
    ring = Ring(time.monotonic)
    try:
        with (
            store.reading(payload) as reader,
            ring.stream(reader, [[Table(OFFSET, ROW, ROWS)]], keep_cached=True) as blocks,
        ):
            return b"".join(bytes(block.pieces[0]) for block in blocks)
    finally:
        ring.close()


def test_rows_come_whole_and_in_order(tmp_path: Path) -> None:
    store, payload, data = stored(tmp_path)
    assert rows_of(store, payload) == data[OFFSET:]


def test_who_leaves_early_does_not_wait_for_a_buffer_that_the_reading_thread_took() -> None:
    class Free(queue.SimpleQueue[Any]):
        """The other thread takes the last one between a look and a take."""

        def empty(self) -> bool:
            found = super().empty()
            while not super().empty():
                super().get()
            return found

    run: Any = _Run(cast("Any", None), [], [memoryview(b"")], True, time.monotonic)
    run._free = Free()
    run._free.put(memoryview(b""))
    done: Future[None] = Future()
    done.set_result(None)
    stopping = threading.Thread(target=run.stop, args=(done,), daemon=True)
    stopping.start()
    stopping.join(5)
    assert not stopping.is_alive()
    assert run._free.get() is None


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_damage_is_named_wherever_in_a_block_it_lies(tmp_path: Path, share: float) -> None:
    store, payload, data = stored(tmp_path)
    at = int((len(data) - 1) * share)
    path = store.path(payload)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes([data[at] ^ 1]))
    with pytest.raises(BlockCorrupt, match=f"subtile {at // limits.subtile_bytes} "):
        rows_of(store, payload)
