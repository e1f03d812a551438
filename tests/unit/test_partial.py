"""Payloads that come in subtiles: verified before they are written, resumable, never half a blob."""

import os
import tempfile
from pathlib import Path

import pytest

from blyan.primitives.errors import IntegrityFault, InvalidInput, StorageFull
from blyan.primitives.ids import PayloadId
from blyan.primitives.limits import subtile_bytes
from blyan.storage import durable
from blyan.storage.blob_store import BlobStore
from blyan.storage.partial import PartialBlob
from blyan.storage.space import SpaceLimits
from blyan.storage.tile import TileIndex, index_of, subtile_slice

DATA = os.urandom(20 * subtile_bytes + 777)
INDEX = index_of(DATA)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs", writable=True)


def begin(store: BlobStore, index: TileIndex = INDEX) -> PartialBlob:
    return store.begin(index.payload_id, index.length, index.encode())


def piece(number: int) -> bytes:
    return DATA[subtile_slice(number)]


def files(store: BlobStore) -> list[str]:
    return sorted(path.name for path in (store.folder / "partial").iterdir())


def test_subtiles_in_any_order_become_a_blob(store: BlobStore) -> None:
    """And nothing of the way there is left."""
    incoming = begin(store)
    assert incoming.missing() == list(range(21))
    for number in reversed(range(21)):
        incoming.write(number, piece(number))
    incoming.finish()
    assert bytes(store.verify(INDEX.payload_id).mapping) == DATA
    assert oct(store.path(INDEX.payload_id).stat().st_mode & 0o777) == "0o444"
    assert files(store) == []


def test_bytes_that_do_not_match_are_refused_and_change_nothing(store: BlobStore) -> None:
    """The message names the subtile; a short, long or misplaced one is no better."""
    incoming = begin(store)
    wrong = bytearray(piece(3))
    wrong[5] ^= 1
    for number, data in ((3, bytes(wrong)), (3, piece(4)), (3, piece(3)[:-1]), (20, piece(3)), (3, b"")):
        with pytest.raises(IntegrityFault, match=f"subtile {number} of {INDEX.payload_id}"):
            incoming.write(number, data)
    for number in (-1, 21):
        with pytest.raises(InvalidInput, match="expected 0 to 20"):
            incoming.write(number, piece(0))
    assert incoming.missing() == list(range(21))
    with pytest.raises(InvalidInput, match="found 21 missing"):
        incoming.finish()


def test_what_was_synced_is_there_after_a_restart(store: BlobStore) -> None:
    """What was written and not synced is fetched again, and so is all of it if the record is damaged."""
    incoming = begin(store)
    for number in range(10):
        incoming.write(number, piece(number))
    incoming.sync()
    incoming.write(15, piece(15))
    incoming.close()
    again = begin(BlobStore(store.folder, writable=True))
    assert again.missing() == list(range(10, 21))
    again.close()
    have = store.folder / "partial" / f"{INDEX.payload_id}.have"
    raw = bytearray(have.read_bytes())
    for at in range(0, len(raw) * 8, 37):
        raw[at // 8] ^= 1 << at % 8
        have.write_bytes(raw)
        with pytest.raises(IntegrityFault, match=r"\.have"):
            store.verify_unfinished(INDEX.payload_id)
        raw[at // 8] ^= 1 << at % 8
    raw[50] ^= 1
    have.write_bytes(raw)
    assert begin(store).missing() == list(range(21))


def test_a_disk_that_gave_back_other_bytes_is_noticed_before_there_is_a_blob(store: BlobStore) -> None:
    """The damaged subtile is missing again, and fetching it once more completes the payload."""
    incoming = begin(store)
    for number in range(21):
        incoming.write(number, piece(number))
    incoming.sync()
    with (store.folder / "partial" / INDEX.payload_id).open("r+b") as file:
        file.seek(7 * subtile_bytes + 9)
        file.write(b"x")
    with pytest.raises(IntegrityFault, match="others at"):
        store.verify_unfinished(INDEX.payload_id)
    with pytest.raises(IntegrityFault) as caught:
        incoming.finish()
    assert caught.value.detail["bad_subtiles"] == [7]
    assert list(store.payloads()) == []
    assert incoming.missing() == [7]
    incoming.write(7, piece(7))
    incoming.finish()
    assert list(store.payloads()) == [INDEX.payload_id]


def test_an_index_of_another_payload_is_refused_before_anything_is_made(store: BlobStore) -> None:
    """So is one of another length."""
    other = index_of(DATA[:-1])
    for length, raw in ((INDEX.length, other.encode()), (INDEX.length - 1, INDEX.encode()), (INDEX.length, b"")):
        with pytest.raises(IntegrityFault):
            store.begin(INDEX.payload_id, length, raw)
    with pytest.raises(InvalidInput):
        store.begin(INDEX.payload_id, 0, b"")
    assert not (store.folder / "partial").exists()


def test_a_full_store_refuses_before_the_first_byte(tmp_path: Path) -> None:
    """What is on its way in counts in full."""
    store = BlobStore(tmp_path / "blobs", writable=True, limit=SpaceLimits(bytes_max=len(DATA) - 1))
    with pytest.raises(StorageFull, match=r"storage\.bytes_max"):
        begin(store)
    assert not (store.folder / "partial" / INDEX.payload_id).exists()
    store = BlobStore(tmp_path / "blobs", writable=True, limit=SpaceLimits(free_bytes_min=1 << 52))
    with pytest.raises(StorageFull, match=r"storage\.free_bytes_min"):
        begin(store)


def test_abandoning_leaves_nothing(store: BlobStore) -> None:
    """Not even the index."""
    incoming = begin(store)
    incoming.write(0, piece(0))
    incoming.abandon()
    assert files(store) == []
    assert list(store.unfinished()) == []


def test_a_link_or_folder_in_the_place_of_a_partial_file_is_not_written_through(
    store: BlobStore, tmp_path: Path
) -> None:
    """A planted link would write wherever it points."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (store.folder / "partial").mkdir()
    target = store.folder / "partial" / INDEX.payload_id
    target.symlink_to(victim)
    incoming = begin(store)  # without a record of subtiles the link is removed like any stale file
    incoming.close()
    assert victim.read_bytes() == b"mine"
    assert not target.is_symlink()
    target.unlink()
    target.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        begin(store)
    assert victim.read_bytes() == b"mine"


def test_unfinished_payloads_are_listed_and_verified(store: BlobStore) -> None:
    """Each by its id."""
    incoming = begin(store)
    incoming.write(0, piece(0))
    incoming.sync()
    assert list(store.unfinished()) == [INDEX.payload_id]
    store.verify_unfinished(INDEX.payload_id)
    with pytest.raises(IntegrityFault):
        store.verify_unfinished(PayloadId("0" * 64))


def test_what_was_left_read_only_in_the_middle_of_finishing_is_resumed_by_a_user(tmp_path: Path) -> None:
    """A kill, or a full disk, between the change of mode and the rename must not end that fetch for ever."""
    with tempfile.TemporaryDirectory() as place:  # as no folder above `tmp_path` may be entered by a user
        Path(place).chmod(0o777)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = _left_read_only(Path(place))
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _left_read_only(place: Path) -> int:
    if os.getuid() == 0:
        os.setuid(12_345)
    store = BlobStore(place / "blobs", writable=True)
    incoming = begin(store)
    for number in range(21):
        incoming.write(number, piece(number))
    incoming.sync()
    (place / "blobs/partial" / INDEX.payload_id).chmod(0o444)
    incoming.close()
    again = begin(BlobStore(store.folder, writable=True))
    assert again.missing() == []
    again.finish()
    assert oct(store.path(INDEX.payload_id).stat().st_mode & 0o777) == "0o444"
    return 0


def test_what_somebody_is_just_finishing_stays_read_only(store: BlobStore) -> None:
    incoming = begin(store)
    data = store.folder / "partial" / INDEX.payload_id
    data.chmod(0o444)
    with pytest.raises(BlockingIOError):
        durable.regain(data)
    assert data.stat().st_mode & 0o777 == 0o444
    incoming.close()
    durable.regain(data)
    assert data.stat().st_mode & 0o777 == 0o600
