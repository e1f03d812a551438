"""Verifying blobs: on several threads, with their indexes."""

import os
from pathlib import Path

import pytest

from blyan.primitives.errors import BlockCorrupt
from blyan.primitives.limits import subtile_bytes
from blyan.storage import blob_check
from blyan.storage.blob_store import BlobStore
from blyan.storage.tile import index_of

DATA = bytes(range(256)) * 4096  # four subtiles


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs", writable=True)


def flip(path: Path, at: int) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_verify_names_a_damaged_index_that_serving_does_without(store: BlobStore) -> None:
    """Whoever fetches tiles from here would be given it; putting the payload again mends it."""
    payload = store.put([DATA]).payload
    index = store.path(payload).with_name(f"{payload}.tiles")
    whole = index.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), None):
        index.unlink()
        if damaged is not None:
            index.write_bytes(damaged)
        with pytest.raises(BlockCorrupt) as caught:
            store.verify(payload)
        assert caught.value.detail["file"] == str(index)
        assert bytes(store.open(payload).mapping) == DATA
        store.put([DATA])
        store.verify(payload)


def test_many_tiles_are_hashed_on_several_threads_and_each_damage_is_named(store: BlobStore) -> None:
    """Nine tiles and a rest: the same answer as one thread gives."""
    data = os.urandom(9 * 16 * subtile_bytes + 1000)
    payload = store.put([data]).payload
    assert store.verify(payload)
    for at in (0, 5 * 16 * subtile_bytes, len(data) - 1):
        flip(store.path(payload), at)
    with pytest.raises(BlockCorrupt) as caught:
        store.verify(payload)
    assert caught.value.detail["bad_subtiles"] == [0, 80, 144]
    assert blob_check.leaves_of(data, None) == list(index_of(data).leaves)
