"""The blob store: what is in it is what its name says, or it is refused by name."""

import errno
import gc
import os
import resource
import stat
import time
from concurrent.futures import Executor
from pathlib import Path

import pytest
import torch

from blyan.primitives.errors import BlockCorrupt, Fault, IntegrityFault, InvalidInput, NotFound, Unavailable
from blyan.primitives.ids import PayloadId
from blyan.primitives.limits import subtile_bytes
from blyan.storage import blob_check, durable
from blyan.storage.blob_store import BlobStore
from blyan.storage.mapping import map_private
from blyan.storage.tile import index_of

DATA = bytes(range(256)) * 4096  # four subtiles


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs", writable=True)


def flip(path: Path, at: int) -> None:
    time.sleep(0.02)  # a kernel stamps files with its own tick, up to 10 ms long: make this a later one
    path.chmod(0o644)
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


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def is_mapped(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


def counting_hashes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One element for each time that a stored payload is hashed."""
    hashed: list[int] = []
    plain = blob_check.leaves_of

    def counted(data: memoryview, pool: Executor | None) -> list[bytes]:
        hashed.append(len(data))
        return plain(data, pool)

    monkeypatch.setattr(blob_check, "leaves_of", counted)
    return hashed


def test_an_open_blob_costs_no_descriptor(store: BlobStore) -> None:
    """A model of thousands of experts stays below the limit of open files."""
    payloads = [store.put([bytes([number]) * 5000]).payload for number in range(50)]
    before = open_descriptors()
    blobs = [store.open(payload) for payload in payloads]
    assert all(is_mapped(store.path(payload)) for payload in payloads)
    assert [blob.mapping[4999] for blob in blobs] == list(range(50))
    assert open_descriptors() == before


def test_a_tensor_keeps_its_pages_and_the_last_reference_frees_them(store: BlobStore) -> None:
    """Views outlive the store and the blob; when nothing looks at the pages they are unmapped."""
    payload = store.put([DATA]).payload
    path = store.path(payload)
    again = BlobStore(store.folder)
    view = torch.frombuffer(memoryview(again.open(payload).mapping), dtype=torch.uint8, offset=256)[1:]
    del again
    gc.collect()
    assert is_mapped(path)
    assert bytes(view[:300].tolist()) == DATA[257:557]
    del view
    gc.collect()
    assert not is_mapped(path)


def test_writing_into_a_mapping_never_reaches_the_file(store: BlobStore) -> None:
    """The pages are private."""
    payload = store.put([DATA]).payload
    with store.path(payload).open("rb") as file:
        mapping = map_private(file.fileno(), len(DATA))
    mapping[0] = 77
    assert store.path(payload).read_bytes() == DATA


def test_a_mapping_that_fails_is_an_os_error_and_leaves_nothing(tmp_path: Path) -> None:
    """With the errno of mmap(2): too long for the address space, and not a file."""
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        for length, number in ((1 << 60, errno.ENOMEM), (4096, errno.ENODEV)):
            with pytest.raises(OSError) as caught:
                map_private(handle, length)
            assert caught.value.errno == number
    finally:
        os.close(handle)
    assert not is_mapped(tmp_path)


def test_stored_files_are_read_only(store: BlobStore) -> None:
    """Blob and index, so that a stray write fails where the writer is not root."""
    payload = store.put([DATA]).payload
    files = [path for path in store.folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {payload, payload + ".tiles"}
    assert {stat.S_IMODE(path.stat().st_mode) & 0o333 for path in files} == {0}


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
    """What is remembered lasts as long as device, inode, size, mtime and ctime."""
    payload = store.put([DATA]).payload
    store.open(payload)
    assert store.state(payload)[0] == "verified"
    flip(store.path(payload), 0)
    assert store.state(payload)[0] == "unverified"
    with pytest.raises(BlockCorrupt):
        store.open(payload)


def test_a_restored_mtime_hides_nothing(store: BlobStore) -> None:
    """`utime` cannot set the ctime, so `open` itself sees a flipped bit under the old mtime."""
    payload = store.put([DATA]).payload
    store.open(payload)
    before = store.path(payload).stat()
    flip(store.path(payload), 77)
    os.utime(store.path(payload), ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.state(payload)[0] == "unverified"
    with pytest.raises(BlockCorrupt):
        store.open(payload)


def test_verify_hashes_again_what_is_remembered(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """`open` trusts an unchanged file, `verify` never does."""
    payload = store.put([DATA]).payload
    hashed = counting_hashes(monkeypatch)
    for _ in range(3):
        store.open(payload)
    assert len(hashed) == 1
    store.verify(payload)
    assert len(hashed) == 2


def test_a_known_fault_is_not_hashed_again_until_the_file_changes(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests for a corrupt block do not queue behind hashing; each gets its own fault, and `verify` looks again."""
    payload = store.put([DATA]).payload
    flip(store.path(payload), 0)
    hashed = counting_hashes(monkeypatch)
    faults: list[BlockCorrupt] = []
    for _ in range(3):
        with pytest.raises(BlockCorrupt) as caught:
            store.open(payload)
        faults.append(caught.value)
    assert len(hashed) == 1
    assert len({id(fault) for fault in faults}) == 3
    assert len({(fault.message, fault.hint, str(fault.detail)) for fault in faults}) == 1
    with pytest.raises(BlockCorrupt):
        store.verify(payload)
    assert len(hashed) == 2
    flip(store.path(payload), 0)
    assert bytes(store.open(payload).mapping) == DATA


def test_a_file_that_changes_while_it_is_hashed_is_refused(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was hashed is no longer what is there; nothing is remembered about it either."""
    payload = store.put([DATA]).payload
    plain = blob_check.leaves_of

    def hashed_then_flipped(data: memoryview, pool: Executor | None) -> list[bytes]:
        leaves = plain(data, pool)
        flip(store.path(payload), 3)
        return leaves

    with monkeypatch.context() as patched:
        patched.setattr(blob_check, "leaves_of", hashed_then_flipped)
        with pytest.raises(BlockCorrupt, match="changed while"):
            store.open(payload)
    assert store.state(payload)[0] == "unverified"
    flip(store.path(payload), 3)
    assert bytes(store.open(payload).mapping) == DATA


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
    store.put([DATA])  # and putting again mends the index, so that later damage has a number
    flip(store.path(payload), 2 * subtile_bytes)
    with pytest.raises(BlockCorrupt) as caught:
        store.verify(payload)
    assert caught.value.detail["bad_subtiles"] == [2]


def test_a_truncated_and_an_emptied_file_are_corrupt(store: BlobStore) -> None:
    """Another length cannot be the payload."""
    payload = store.put([DATA]).payload
    store.path(payload).chmod(0o644)
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


def test_a_symbolic_link_in_the_store_is_not_followed_and_putting_again_replaces_it(
    store: BlobStore, tmp_path: Path
) -> None:
    """A planted link is not a blob, even one that leads to the right bytes."""
    payload = store.put([DATA]).payload
    path = store.path(payload)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BlockCorrupt, match="symbolic link") as caught:
        store.open(payload)
    assert caught.value.detail["file"] == str(path)
    assert store.state(payload)[0] == "corrupt"
    store.put([DATA])
    assert not path.is_symlink()
    assert bytes(store.open(payload).mapping) == DATA
    assert (tmp_path / "elsewhere").read_bytes() == DATA
    assert not list(store.folder.rglob(".tmp-*"))


@pytest.mark.parametrize("suffix", ["", ".tiles"])
def test_a_folder_in_the_place_of_a_file_is_named_and_not_removed(store: BlobStore, suffix: str) -> None:
    """Neither reading nor putting again gets past it, and no temporary file stays."""
    payload = index_of(DATA).payload_id
    folder = store.path(payload).with_name(payload + suffix)
    folder.mkdir(parents=True)
    if not suffix:
        with pytest.raises(BlockCorrupt, match="folder") as caught:
            store.open(payload)
        assert caught.value.detail["file"] == str(folder)
    with pytest.raises(BlockCorrupt) as caught:
        store.put([DATA])
    assert caught.value.detail["file"] == str(folder)
    assert list(store.folder.rglob("*")) == [folder.parent, folder]


def test_a_file_in_the_place_of_a_folder_is_named(store: BlobStore) -> None:
    """The two-digit folder cannot be made; the fault says which file is in the way."""
    payload = index_of(DATA).payload_id
    store.path(payload).parent.write_bytes(b"")
    for attempt in (lambda: store.open(payload), lambda: store.put([DATA])):
        with pytest.raises(BlockCorrupt) as caught:
            attempt()
        assert str(caught.value.detail["file"]).startswith(str(store.path(payload).parent))
    assert store.state(payload)[0] == "corrupt"
    assert [path.name for path in store.folder.rglob("*")] == [payload[:2]]


@pytest.mark.parametrize("suffix", ["", ".tiles"])
def test_a_pipe_in_the_store_does_not_stop_the_reader(store: BlobStore, suffix: str) -> None:
    """Opening a pipe waits for a writer that never comes; as an index it is ignored, as a blob refused."""
    payload = store.put([DATA]).payload
    path = store.path(payload).with_name(payload + suffix)
    path.unlink()
    os.mkfifo(path)
    if suffix:
        assert bytes(store.open(payload).mapping) == DATA
    else:
        with pytest.raises(BlockCorrupt, match="regular file"):
            store.open(payload)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EIO])
def test_a_machine_short_of_descriptors_or_memory_is_unavailable_not_corrupt(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The bytes are not at fault and the same call succeeds later; any other reason is the block's."""
    payload = store.put([DATA]).payload
    moment = number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

    def refused(handle: int, length: int) -> object:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr("blyan.storage.blob_check.map_private", refused)
        with pytest.raises(Fault, match=str(store.path(payload))) as caught:
            store.open(payload)
    assert type(caught.value) is (Unavailable if moment else BlockCorrupt)
    assert caught.value.detail["file"] == str(store.path(payload))
    if moment:
        assert bytes(store.open(payload).mapping) == DATA


def test_a_process_out_of_descriptors_is_unavailable(store: BlobStore) -> None:
    """The real limit, not a stand-in for it."""
    payload = store.put([DATA]).payload
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(Unavailable):
            store.open(payload)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert bytes(store.open(payload).mapping) == DATA


def test_opening_for_writing_sweeps_what_a_crash_left(store: BlobStore) -> None:
    """Temporary files of a killed process go; blobs stay."""
    payload = store.put([DATA]).payload
    (store.folder / ".tmp-99-left").write_bytes(b"half")
    again = BlobStore(store.folder, writable=True)
    assert not list(store.folder.glob(".tmp-*"))
    assert bytes(again.open(payload).mapping) == DATA


def test_sweeping_takes_temporary_files_of_that_folder_and_nothing_else(tmp_path: Path) -> None:
    """A folder that is not there has nothing to sweep."""
    for name in (".tmp-1-a", "kept", "inner/.tmp-1-b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    durable.sweep(tmp_path)
    durable.sweep(tmp_path / "absent")
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".tmp-1-b", "inner", "kept"]


def test_a_read_only_leftover_of_the_same_name_is_written_over(tmp_path: Path) -> None:
    """A process id comes round again; what its former bearer left cannot be opened for writing."""
    left = durable.temporary_path(tmp_path, "name")
    left.write_bytes(b"half")
    left.chmod(0o444)
    inode = left.stat().st_ino
    keep = os.open(left, os.O_RDONLY)  # or the file system may give its inode to the new file
    durable.write_file(tmp_path / "name", b"whole", 0o444)
    os.close(keep)
    assert (tmp_path / "name").read_bytes() == b"whole"
    assert (tmp_path / "name").stat().st_ino != inode
