"""The blob store: what is in it is what its name says, or it is refused by name."""

import os
from pathlib import Path

import pytest
import torch

from blyan.primitives.errors import BlockCorrupt, IntegrityFault, InvalidInput, NotFound
from blyan.primitives.ids import PayloadId
from blyan.primitives.limits import subtile_bytes
from blyan.storage.blob_store import BlobStore
from blyan.storage.tile import index_of

DATA = bytes(range(256)) * 4096  # four subtiles


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs", writable=True)


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_a_payload_comes_back_without_a_copy(store: BlobStore) -> None:
    """Two openings share one mapping, and a tensor over it lies inside it."""
    payload = store.put([DATA[:1000], DATA[1000:]]).payload
    blob = store.open(payload)
    assert payload == index_of(DATA).payload_id
    assert bytes(blob.mapping) == DATA
    assert store.open(payload) is blob
    view = torch.frombuffer(blob.mapping, dtype=torch.uint8, offset=4096)
    whole = torch.frombuffer(blob.mapping, dtype=torch.uint8)
    assert view.data_ptr() == whole.data_ptr() + 4096


def test_a_flipped_bit_is_found_on_first_touch_and_named(store: BlobStore) -> None:
    """The error has the file and the subtile; the state says corrupt."""
    payload = store.put([DATA]).payload
    flip(store.path(payload), 2 * subtile_bytes + 5)
    with pytest.raises(BlockCorrupt) as caught:
        store.open(payload)
    assert caught.value.detail["bad_subtiles"] == [2]
    assert caught.value.detail["file"] == str(store.path(payload))
    assert store.state(payload)[0] == "corrupt"


def test_a_file_that_changes_after_it_was_verified_is_hashed_again(store: BlobStore) -> None:
    """What is remembered lasts as long as device, inode, size and mtime."""
    payload = store.put([DATA]).payload
    store.open(payload)
    assert store.state(payload)[0] == "verified"
    flip(store.path(payload), 0)
    assert store.state(payload)[0] == "unverified"
    with pytest.raises(BlockCorrupt):
        store.open(payload)


def test_verify_hashes_again_even_when_the_times_lie(store: BlobStore) -> None:
    """A flipped bit under a restored mtime passes the memory of `open`, never `verify`."""
    payload = store.put([DATA]).payload
    store.open(payload)
    before = store.path(payload).stat()
    flip(store.path(payload), 77)
    os.utime(store.path(payload), ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(BlockCorrupt):
        store.verify(payload)


def test_putting_again_repairs(store: BlobStore) -> None:
    """The same bytes replace a damaged file."""
    payload = store.put([DATA]).payload
    flip(store.path(payload), 9)
    store.put([DATA], expected=payload)
    assert bytes(store.open(payload).mapping) == DATA


def test_a_damaged_index_does_not_condemn_whole_bytes(store: BlobStore) -> None:
    """The index is derived from the bytes; bytes that match the id are served without it."""
    payload = store.put([DATA]).payload
    flip(store.path(payload).with_name(payload + ".tiles"), 3)
    assert bytes(store.open(payload).mapping) == DATA


def test_a_truncated_and_an_emptied_file_are_corrupt(store: BlobStore) -> None:
    """Another length cannot be the payload."""
    payload = store.put([DATA]).payload
    for length in (len(DATA) - 1, 0):
        os.truncate(store.path(payload), length)
        with pytest.raises(BlockCorrupt):
            store.open(payload)


def test_bytes_of_another_id_leave_nothing_behind(store: BlobStore) -> None:
    """A mismatch, an empty payload and one above its limit are refused, and the folder is as it was."""
    other = PayloadId("ab" * 32)
    with pytest.raises(IntegrityFault, match=f"expected {other}, computed"):
        store.put([DATA], expected=other)
    with pytest.raises(InvalidInput):
        store.put([])
    with pytest.raises(InvalidInput, match="at most 10 bytes"):
        store.put([DATA], bytes_max=10)
    assert list(store.folder.rglob("*")) == []


def test_a_missing_payload_is_not_found(store: BlobStore) -> None:
    """The error says where it was expected."""
    with pytest.raises(NotFound, match=r"expected .*ab/abab"):
        store.open(PayloadId("ab" * 32))


def test_a_symbolic_link_in_the_store_is_not_followed(store: BlobStore, tmp_path: Path) -> None:
    """A planted link is not a blob, even one that leads to the right bytes."""
    payload = store.put([DATA]).payload
    path = store.path(payload)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        store.open(payload)


def test_opening_for_writing_sweeps_what_a_crash_left(store: BlobStore) -> None:
    """Temporary files of a killed process go; blobs stay."""
    payload = store.put([DATA]).payload
    (store.folder / ".tmp-99-left").write_bytes(b"half")
    again = BlobStore(store.folder, writable=True)
    assert not list(store.folder.glob(".tmp-*"))
    assert bytes(again.open(payload).mapping) == DATA
