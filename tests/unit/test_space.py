"""What a blob store takes, keeps and lets go."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blyan.primitives.errors import IntegrityFault, InvalidInput, NotFound, StorageFull
from blyan.storage import space
from blyan.storage.blob_store import BlobStore
from blyan.storage.partial import PartialBlob
from blyan.storage.space import SpaceLimits
from blyan.storage.tile import index_of, subtile_slice


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs", writable=True)


def test_usage_counts_what_is_there(store: BlobStore) -> None:
    """Blobs, their indexes, what a crash left, and what the disk still has."""
    before = store.usage()
    assert (before.blobs, before.bytes, before.bytes_max) == (0, 0, None)
    for size in (1, 1000, 600_000):
        store.put([os.urandom(size)])
    (store.folder / ".tmp-1-x").write_bytes(b"abc")
    found = store.usage()
    assert (found.blobs, found.blob_bytes) == (3, 601_001)
    assert found.index_bytes == 32 * (1 + 1 + 3)
    assert found.leftover_bytes == 3
    assert found.bytes == 601_001 + 160 + 3
    assert found.free_bytes > 0


def test_a_payload_beyond_the_limit_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    """What fits is stored; what a sweep frees may be used again."""
    store = BlobStore(tmp_path / "blobs", writable=True, limit=SpaceLimits(bytes_max=10_000))
    first = store.put([os.urandom(6_000)]).payload
    with pytest.raises(StorageFull, match="expected at most 10000 bytes"):
        store.put([os.urandom(6_000)])
    assert list(store.payloads()) == [first]
    assert not list(store.folder.glob(".tmp-*"))
    store.put([os.urandom(3_000)])
    store.sweep(())
    store.put([os.urandom(9_000)])


def begun(store: BlobStore, data: bytes) -> PartialBlob:
    index = index_of(data)
    return store.begin(index.payload_id, index.length, index.encode())


def received(incoming: PartialBlob, data: bytes) -> PartialBlob:
    for number in incoming.missing():
        incoming.write(number, data[subtile_slice(number)])
    return incoming


def test_what_comes_in_counts_when_it_is_allocated(tmp_path: Path) -> None:
    """Not when its bytes have come: three that do not fit together are not begun together."""
    limit = SpaceLimits(bytes_max=1_000_000)
    store = BlobStore(tmp_path / "blobs", writable=True, limit=limit)
    first, *others = (os.urandom(800_000) for _ in range(3))
    begun(store, first).close()
    for data in others:
        with pytest.raises(StorageFull, match="expected at most 1000000 bytes"):
            begun(store, data)
    assert store.usage().bytes <= 1_000_000
    for again in (store, BlobStore(store.folder, writable=True, limit=limit)):
        begun(again, first).close()


def test_of_several_threads_one_gets_the_room(tmp_path: Path) -> None:
    """Asking and taking are one step."""
    store = BlobStore(tmp_path / "blobs", writable=True, limit=SpaceLimits(bytes_max=1_000_000))

    def begin(_: int) -> bool:
        try:
            begun(store, os.urandom(800_000)).close()
        except StorageFull:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(begin, range(8))) == 1


def test_the_account_says_what_is_on_the_disk(tmp_path: Path) -> None:
    """After whatever comes and goes: to the byte, nothing twice."""
    bytes_max = 10_000_000
    one, two, three = (os.urandom(700_000) for _ in range(3))

    def opened() -> BlobStore:
        store = BlobStore(tmp_path / "blobs", writable=True, limit=SpaceLimits(bytes_max=bytes_max))
        store.want_room(0)
        return store

    def agrees(store: BlobStore) -> bool:
        free = bytes_max - store.usage().bytes
        store.want_room(free)
        with pytest.raises(StorageFull):
            store.want_room(free + 1)
        return True

    store = opened()
    payload = store.put([one]).payload
    assert agrees(store)
    store.put([one])
    assert agrees(store)
    begun(store, two).close()
    assert agrees(store)
    incoming = received(begun(store, two), two)
    assert agrees(store)
    incoming.close()
    store = opened()
    received(begun(store, two), two).finish()
    assert agrees(store)
    begun(store, three).abandon()
    assert agrees(store)
    store.path(payload).chmod(0o644)
    store.path(payload).write_bytes(b"damaged")
    store = opened()
    store.put([one])
    assert agrees(store)
    received(begun(store, one), one).finish()
    assert agrees(store)
    store.sweep(())
    assert agrees(store)
    assert store.usage().bytes == 0


def test_bytes_that_are_written_are_not_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk's free space says already that they are there."""

    def free(folder: Path) -> int:
        return 10_000 - sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    monkeypatch.setattr(space, "free_bytes", free)
    store = BlobStore(tmp_path / "blobs", writable=True, limit=SpaceLimits(free_bytes_min=3_000))
    store.put([os.urandom(6_000)])
    with pytest.raises(StorageFull, match="expected 3000 bytes to stay free"):
        store.put([os.urandom(1_000)])


def test_a_sweep_takes_what_nobody_needs_and_nothing_else(store: BlobStore) -> None:
    """Kept, pinned, gone; asked for a dry run it only says so."""
    kept, pinned, gone = (store.put([os.urandom(1000)]).payload for _ in range(3))
    store.pin(pinned, "somebody asked")
    assert [swept.payload for swept in store.sweep([kept], dry_run=True)] == [gone]
    assert sorted(store.payloads()) == sorted([kept, pinned, gone])
    assert [(swept.payload, swept.length) for swept in store.sweep([kept])] == [(gone, 1000)]
    assert sorted(store.payloads()) == sorted([kept, pinned])
    assert not list(store.folder.glob(f"*/{gone}*"))
    with pytest.raises(NotFound):
        store.open(gone)
    assert store.unpin(pinned)
    assert not store.unpin(pinned)
    assert [swept.payload for swept in store.sweep([kept])] == [pinned]


def test_what_is_mapped_outlives_its_sweep(store: BlobStore) -> None:
    """An answer that is being computed is not disturbed."""
    data = os.urandom(300_000)
    blob = store.open(store.put([data]).payload)
    store.sweep(())
    assert bytes(blob.mapping) == data


def test_pins_survive_a_restart_and_a_damaged_one_stops_the_sweep(store: BlobStore) -> None:
    """Guessing what a broken pin meant could lose a payload."""
    payload = store.put([b"data"]).payload
    store.pin(payload, "why not")
    assert BlobStore(store.folder).pins() == {payload: "why not"}
    path = store.folder / "pins" / payload
    for damaged in (b"", b"{}", b'{"why":1}', b'{"why":"x"} ', b"\x00"):
        path.write_bytes(damaged)
        with pytest.raises(IntegrityFault, match=str(path)):
            store.sweep(())
    assert list(store.payloads()) == [payload]
    with pytest.raises(InvalidInput):
        store.pin(payload, "two\nlines")


def test_strange_files_are_no_payloads(store: BlobStore) -> None:
    """They are neither listed nor swept."""
    payload = store.put([b"data"]).payload
    (store.path(payload).parent / "notes.txt").write_text("mine")
    (store.folder / "zz").mkdir()
    (store.folder / "zz" / payload).write_text("not in its folder")
    assert list(store.payloads()) == [payload]
    store.sweep(())
    assert (store.folder / "zz" / payload).exists()


def test_limits_that_make_no_sense_are_refused() -> None:
    """Before anything is stored."""
    for wrong in ({"bytes_max": -1}, {"free_bytes_min": -1}, {"bytes_max": 1 << 60}):
        with pytest.raises(InvalidInput):
            SpaceLimits(**wrong)
