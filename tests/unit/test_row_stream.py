"""Rows of large blocks: all of them in order, and damage by its place."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from blyan.primitives import limits
from blyan.primitives.errors import BlockCorrupt
from blyan.primitives.ids import PayloadId
from blyan.storage.blob_reader import BlobReader
from blyan.storage.blob_store import BlobStore
from blyan.storage.row_stream import Group, Ring, Table, rows_at_once

ROW = 3_000  # bytes: no subtile ends where a row does
ROWS = 8_000
OFFSET = 7 * 512
WHOLE = [[Table(OFFSET, ROW, ROWS)]]


def stored(folder: Path) -> tuple[BlobStore, PayloadId, bytes]:
    data = np.random.default_rng(4).bytes(OFFSET + ROW * ROWS)
    store = BlobStore(folder, writable=True)
    return store, store.put([data]).payload, data


def rows_of(store: BlobStore, payload: PayloadId, groups: Sequence[Group] = WHOLE) -> list[bytes]:
    """The rows of each table of the last group."""
    ring = Ring(time.monotonic)
    found = [bytearray() for _ in groups[-1]]
    try:
        with store.reading(payload) as reader, ring.stream(reader, groups, keep_cached=True) as blocks:
            for block in blocks:
                for number, piece in enumerate(block.pieces):
                    found[number] += piece
    finally:
        ring.close()
    return [bytes(table) for table in found]


def damage(store: BlobStore, payload: PayloadId, data: bytes, at: int) -> None:
    path = store.path(payload)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes([data[at] ^ 1]))


def test_rows_come_whole_and_in_order(tmp_path: Path) -> None:
    store, payload, data = stored(tmp_path)
    assert rows_of(store, payload) == [data[OFFSET:]]


def test_a_matrix_and_its_scales_come_together_though_neither_ends_where_a_subtile_does(tmp_path: Path) -> None:
    store, payload, data = stored(tmp_path)
    scales, rows = 7, 5_000  # bytes of a row of the second table, which lies behind the first
    behind = OFFSET + ROW * rows
    found = rows_of(store, payload, [[Table(OFFSET, ROW, rows), Table(behind, scales, rows)]])
    assert found == [data[OFFSET:behind], data[behind : behind + scales * rows]]


def test_who_leaves_early_ends_the_stream_and_the_next_one_begins_anew(tmp_path: Path) -> None:
    store, payload, data = stored(tmp_path)
    ring = Ring(time.monotonic)
    try:
        for _ in range(3):
            with store.reading(payload) as reader:
                with ring.stream(reader, WHOLE, keep_cached=True) as blocks:
                    first = bytes(next(blocks).pieces[0])
                assert first == data[OFFSET:][: len(first)]
    finally:
        ring.close()


def test_blocks_before_the_damage_still_come_though_it_was_met_before_they_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, payload, data = stored(tmp_path)
    block = rows_at_once(ROW) * ROW
    damage(store, payload, data, 3 * block + block // 2)
    met, read = threading.Event(), BlobReader.read

    def seen(reader: BlobReader, into: memoryview, subtile: int) -> None:
        try:
            read(reader, into, subtile)
        except BlockCorrupt:
            met.set()
            raise

    monkeypatch.setattr(BlobReader, "read", seen)
    ring = Ring(time.monotonic)
    came = bytearray()
    try:
        with (
            store.reading(payload) as reader,
            ring.stream(reader, WHOLE, keep_cached=True) as blocks,
            suppress(BlockCorrupt),
        ):
            for found in blocks:
                assert met.wait(10)
                came += found.pieces[0]
    finally:
        ring.close()
    assert data[OFFSET:][: 3 * block] == came


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_damage_is_named_wherever_in_a_block_it_lies(tmp_path: Path, share: float) -> None:
    store, payload, data = stored(tmp_path)
    at = int((len(data) - 1) * share)
    damage(store, payload, data, at)
    with pytest.raises(BlockCorrupt, match=f"subtile {at // limits.subtile_bytes} "):
        rows_of(store, payload)
