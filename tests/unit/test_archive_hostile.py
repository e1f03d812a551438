"""Archives that were made to hurt or to say one thing in two ways: refused before they take room, for what they are."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
import zstandard

from blyan.chain.archive import export_archive, import_archive
from blyan.chain.archive_file import ArchiveHeader, end_line, magic, write_archive
from blyan.chain.chains import Chains
from blyan.chain.commit import import_folder
from blyan.chain.entries import ExpertBody, PayloadReference
from blyan.chain.joint import Head, JointCheckpoint, empty_root
from blyan.chain.merkle import RightEdge
from blyan.chain.tile_files import TileFiles
from blyan.primitives.errors import IntegrityFault, StorageFull
from blyan.primitives.ids import Digest, PayloadId
from blyan.primitives.keys import Key
from blyan.storage.blob_store import BlobStore
from blyan.storage.space import SpaceLimits

KEY = Key.from_seed(bytes(range(32)))
BLOCK = PayloadReference(PayloadId("cd" * 32), 4096, "application/vnd.blyan.tensorblock")
FRAME_BYTES = 6  # magic, descriptor, window


def now() -> int:
    return 1_700_000_000


def grown(folder: Path, count: int, model: str = "m") -> Chains:
    chains = Chains(folder / "chain", KEY.public, BlobStore(folder / "blobs", writable=True))
    genesis = chains.start(KEY, now)
    for _ in range(count):
        chains.append(ExpertBody(model, 0, chains.logs["parameter"].size), (genesis,), BLOCK, KEY, now)
    chains.publish(KEY)
    return chains


def imported(folder: Path, file: Path, limit: SpaceLimits | None = None) -> None:
    folder.mkdir(exist_ok=True)
    import_archive(folder / "chain", BlobStore(folder / "blobs", writable=True, limit=limit), file)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("good")
    export_archive(grown(folder, 300), folder / "archive")
    return (folder / "archive").read_bytes()


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of every bundle that is written from now on."""
    sizes: list[int] = []
    write = TileFiles.write_bundle

    def write_bundle(self: TileFiles, number: int, entries: list[bytes]) -> None:
        sizes.append(sum(map(len, entries)))
        write(self, number, entries)

    monkeypatch.setattr(TileFiles, "write_bundle", write_bundle)
    return sizes


def archive_of(file: Path, size: int, entries: Iterable[bytes]) -> None:
    """An archive that promises `size` entries of the meta chain, signed like any other."""
    heads = dict.fromkeys(("parameter", "dataset"), Head(0, empty_root))
    joint = JointCheckpoint(
        f"local-{KEY.public[:16]}", 0, 1, {"meta": Head(size, Digest(bytes(32))), **heads}, None, now(), KEY.public
    ).signed(KEY)
    edges = {name: RightEdge(0, [[]]) for name in joint.heads}
    with file.open("wb") as out:
        write_archive(out, ArchiveHeader(joint.encode(), dict.fromkeys(joint.heads, b"x"), edges, 0), [], entries)


@pytest.mark.parametrize(
    ("entry", "words"),
    [(b"x" * 32_768, "JSON"), (b"{}", "entry type")],
)
def test_what_is_no_entry_is_refused_before_anything_is_written(
    tmp_path: Path, written: list[int], entry: bytes, words: str
) -> None:
    """A few kilobytes stand for very many bytes: none of them may reach the disk."""
    archive_of(tmp_path / "bomb", 2_000, [entry] * 2_000)
    assert (tmp_path / "bomb").stat().st_size < 50_000
    with pytest.raises(IntegrityFault, match="entry 0 of chain meta") as found:
        imported(tmp_path / "new", tmp_path / "bomb")
    assert words in found.value.message
    assert written == []
    assert not import_folder(tmp_path / "new/chain").exists()


def test_an_entry_of_another_chain_or_network_is_refused_before_it_is_written(
    tmp_path: Path, written: list[int]
) -> None:
    """Well-formed alone is not enough."""
    raw = next(iter(grown(tmp_path / "a", 1).logs["parameter"].entries(0, 1)))
    other = Key.from_seed(bytes([7] * 32))
    chains = Chains(tmp_path / "b/chain", other.public, BlobStore(tmp_path / "b/blobs", writable=True))
    chains.start(other, now)
    strange = next(iter(chains.logs["meta"].entries(0, 1)))
    written.clear()
    for entry, words in ((raw, "expected one of its own, found one of parameter"), (strange, "network")):
        archive_of(tmp_path / "bad", 300, [entry] * 300)
        with pytest.raises(IntegrityFault, match=words):
            imported(tmp_path / "new", tmp_path / "bad")
    assert written == []


def test_an_import_takes_no_more_room_than_the_store_may(tmp_path: Path, written: list[int]) -> None:
    """What is left of `storage.bytes_max` is for the chains too while they are imported; then nothing stays."""
    raw = next(iter(grown(tmp_path / "a", 1).logs["meta"].entries(0, 1)))
    written.clear()
    archive_of(tmp_path / "bomb", 20_000, [raw] * 20_000)
    with pytest.raises(StorageFull, match=r"storage\.bytes_max"):
        imported(tmp_path / "new", tmp_path / "bomb", SpaceLimits(bytes_max=1_000_000))
    assert 0 < sum(written) <= 1_000_000
    assert not import_folder(tmp_path / "new/chain").exists()
    with pytest.raises(StorageFull, match=r"storage\.free_bytes_min"):
        imported(tmp_path / "new", tmp_path / "bomb", SpaceLimits(free_bytes_min=1 << 50))


def test_a_full_disk_is_said_to_be_full(tmp_path: Path, good: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was written until then is gone."""
    (tmp_path / "archive").write_bytes(good)

    def no_space(_files: TileFiles, _number: int, _entries: list[bytes]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(TileFiles, "write_bundle", no_space)
    with pytest.raises(StorageFull, match="No space left"):
        imported(tmp_path / "new", tmp_path / "archive")
    assert not import_folder(tmp_path / "new/chain").exists()


def test_an_import_within_its_limits_goes_through(tmp_path: Path, good: bytes) -> None:
    """And does not count what it wrote against the next one."""
    (tmp_path / "archive").write_bytes(good)
    imported(tmp_path / "new", tmp_path / "archive", SpaceLimits(bytes_max=300_000))
    imported(tmp_path / "new", tmp_path / "archive", SpaceLimits(bytes_max=300_000))


@pytest.mark.parametrize("where", ["begin", "end"])
@pytest.mark.parametrize("what", ["skippable", "empty frame", "zeros", "frame"])
def test_an_archive_is_one_frame_and_nothing_beside_it(tmp_path: Path, good: bytes, where: str, what: str) -> None:
    """A decoder passes over skippable and empty frames; here nothing is passed over."""
    extra = {
        "skippable": b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello",
        "empty frame": zstandard.compress(b""),
        "zeros": bytes(8),
        "frame": zstandard.compress(b"more"),
    }[what]
    at = len(magic) if where == "begin" else len(good) - len(end_line)
    (tmp_path / "bad").write_bytes(good[:at] + extra + good[at:])
    with pytest.raises(IntegrityFault, match=f"{tmp_path / 'bad'}: expected"):
        imported(tmp_path / "new", tmp_path / "bad")


def test_every_bit_of_the_frames_header_and_of_its_end_is_looked_at(tmp_path: Path, good: bytes) -> None:
    """Magic, descriptor and window; the last block's header and the checksum."""
    end = len(good) - len(end_line)
    for at in (*range(len(magic), len(magic) + FRAME_BYTES + 3), *range(end - 4, end)):
        for bit in range(8):
            bad = bytearray(good)
            bad[at] ^= 1 << bit
            (tmp_path / "bad").write_bytes(bad)
            with pytest.raises(IntegrityFault, match="bad"):
                imported(tmp_path / "new", tmp_path / "bad")


@pytest.mark.parametrize("options", [{"write_content_size": True}, {"write_checksum": False}, {"level": 19}])
def test_a_frame_of_another_kind_is_refused(tmp_path: Path, good: bytes, options: dict[str, int]) -> None:
    """With its size, without a checksum, or with another window: one content, one beginning of a frame."""
    stream = zstandard.ZstdDecompressor().decompressobj().decompress(good[len(magic) : -len(end_line)])
    frame = zstandard.ZstdCompressor(**{"write_checksum": True, **options}).compress(stream)  # pyright: ignore[reportArgumentType]
    (tmp_path / "bad").write_bytes(magic + frame + end_line)
    with pytest.raises(IntegrityFault, match="expected a zstd frame"):
        imported(tmp_path / "new", tmp_path / "bad")


def test_two_promises_of_one_height_are_two_histories(tmp_path: Path) -> None:
    """Also where one is the beginning of the other: the sequencer signed two commits with one number."""
    grown(tmp_path / "a", 0)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    ours, theirs = grown(tmp_path / "a", 1).joint, grown(tmp_path / "b", 2)
    export_archive(theirs, tmp_path / "archive")
    assert ours.height == theirs.joint.height
    with pytest.raises(IntegrityFault, match="two histories") as found:
        imported(tmp_path / "a", tmp_path / "archive")
    assert f"commit {ours.height}" in found.value.message
    for joint in (ours, theirs.joint):
        assert joint.heads["parameter"].root.hex() in found.value.message
    assert Chains(tmp_path / "a/chain", KEY.public, BlobStore(tmp_path / "a/blobs")).joint == ours
