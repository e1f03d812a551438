"""Every kind of file a node keeps: each of 200 random flipped bits is found by the verify commands, and named."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from blyan.chain.archive import import_archive
from blyan.chain.chains import Chains
from blyan.chain.entries import ExpertBody, PayloadReference
from blyan.chain.sequencer import Draft
from blyan.node.backup import archive_name, back_up
from blyan.node.checkup import check_up
from blyan.node.data_directory import open_ground
from blyan.node.indexing import Finder, Query, folder_name, open_index, open_reader
from blyan.node.keys import node_key, read_key
from blyan.node.schema import schema_of
from blyan.primitives.errors import Fault
from blyan.primitives.limits import subtile_bytes
from blyan.storage.blob_store import BlobStore
from blyan.storage.index import IndexDamaged
from blyan.storage.tile import index_of, subtile_slice
from nodes import command, writing
from scenarios import data_of

pytestmark = pytest.mark.slow

FLIPS = 200
INCOMING = data_of("incoming", 3 * subtile_bytes + 100)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with one of everything, and a backup of it beside."""
    folder = tmp_path_factory.mktemp("flips") / "data"
    with writing(folder) as ground:
        payload = ground.store.put([data_of("blob", 2 * subtile_bytes + 77)]).payload
        ground.store.pin(payload, "kept")
        genesis = ground.chains.newest("meta")
        block = PayloadReference(payload, 2 * subtile_bytes + 77, "application/vnd.blyan.tensorblock")
        ground.sequencer.submit([Draft(ExpertBody("m", 0, n), (genesis,), block) for n in range(300)]).result()
        index = index_of(INCOMING)
        incoming = ground.store.begin(index.payload_id, index.length, index.encode())
        for number in range(4):
            incoming.write(number, INCOMING[subtile_slice(number)])
        incoming.sync()
        incoming.close()
        ground.sequencer.close()
        ground.chains.snapshot(ground.key)
        rows = open_index(folder, ground.chains)
        rows.flush()
        rows.close()
        back_up(open_ground(folder), folder.parent / "backup", keys=True, progress=lambda _done, _total: None)
    return folder


def chain_verify(folder: Path) -> None:
    store = BlobStore(folder / "blobs")
    Chains(folder / "chain", read_key(node_key(folder)).public, store).verify(processes=0)


def blob_verify(folder: Path) -> None:
    store = BlobStore(folder / "blobs")
    for payload in store.payloads():
        store.verify(payload)


def partial_verify(folder: Path) -> None:
    store = BlobStore(folder / "blobs")
    assert list(store.unfinished()) == [index_of(INCOMING).payload_id]
    store.verify_unfinished(index_of(INCOMING).payload_id)


def archive_verify(folder: Path) -> None:
    store = BlobStore(folder.parent / "fresh", writable=True)
    import_archive(folder.parent / "fresh" / "chain", store, folder.parent / "backup" / archive_name)


KINDS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "blob": ("blobs/[0-9a-f][0-9a-f]/" + "[0-9a-f]" * 64, blob_verify),
    "tile index": ("blobs/??/*.tiles", blob_verify),
    "partial object": ("blobs/partial/" + "[0-9a-f]" * 64, partial_verify),
    "partial object's index": ("blobs/partial/*.tiles", partial_verify),
    "partial object's bitmap": ("blobs/partial/*.have", partial_verify),
    "pin": ("blobs/pins/*", lambda folder: BlobStore(folder / "blobs").pins()),
    "entry bundles": ("chain/*/tile/entries/**/*", chain_verify),
    "hash tiles": ("chain/*/tile/[0-9]/**/*", chain_verify),
    "notes": ("chain/*/checkpoint", chain_verify),
    "joint checkpoint": ("chain/joint", chain_verify),
    "key": ("keys/node.key", lambda folder: read_key(node_key(folder))),
    "schema": ("SCHEMA", schema_of),
    "archive": ("../backup/chains.archive", archive_verify),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_of_200_flipped_bits_is_found_and_named(original: Path, tmp_path: Path, kind: str) -> None:
    """By the check of that kind of file; the bit put right, nothing is wrong."""
    shutil.copytree(original.parent, tmp_path / "node")
    folder = tmp_path / "node" / "data"
    pattern, verify = KINDS[kind]
    files = sorted(path for path in folder.glob(pattern) if path.is_file())
    assert files, "there is one to flip"
    chance = random.Random(kind)
    for _ in range(FLIPS):
        path = chance.choice(files)
        good, mode = path.read_bytes(), path.stat().st_mode & 0o777
        bad = bytearray(good)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        path.chmod(mode | 0o200)
        path.write_bytes(bad)
        path.chmod(mode)
        name = path.name if ".." in pattern or kind == "pin" else str(path)
        with pytest.raises(Fault) as caught:
            verify(folder)
        said = f"{caught.value.message} {caught.value.detail}"
        assert name in said or str(path.parent) in said, said
        path.chmod(mode | 0o200)
        path.write_bytes(good)
        path.chmod(mode)
    verify(folder)


def test_a_flipped_bit_in_the_index_is_found_or_changes_no_row(original: Path, tmp_path: Path) -> None:
    """It is derived: what RocksDB does not read is no row either. No answer is ever another."""
    shutil.copytree(original.parent, tmp_path / "node")
    folder = tmp_path / "node" / "data"
    files = sorted(path for path in (folder / folder_name).iterdir() if path.is_file() and path.stat().st_size)
    ground = open_ground(folder)
    expected = [each.identity for each in Finder(ground.chains, None).find(Query(model="m", layer=0, expert=7), 9)]
    chance = random.Random(1)
    found = 0
    for _ in range(FLIPS):
        path = chance.choice(files)
        good = path.read_bytes()
        bad = bytearray(good)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        path.write_bytes(bad)
        found += bool([each for each in check_up(ground, deep=False).damage if "index" in each])
        reader = open_reader(folder)
        try:
            answer = Finder(ground.chains, reader).find(Query(model="m", layer=0, expert=7), 9)
            assert [each.identity for each in answer] == expected
        except IndexDamaged:
            pass
        finally:
            if reader is not None:
                reader.close()
        path.write_bytes(good)
    assert found > FLIPS // 10
    assert not check_up(ground, deep=True).damage


@pytest.mark.parametrize("kind", ["blob", "tile index", "partial object", "pin", "entry bundles", "notes", "key"])
def test_the_command_finds_it_too(original: Path, tmp_path: Path, kind: str) -> None:
    """`blyan db check --deep` exits 7 and names the file."""
    shutil.copytree(original.parent, tmp_path / "node")
    folder = tmp_path / "node" / "data"
    path = next(path for path in sorted(folder.glob(KINDS[kind][0])) if path.is_file())
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 16
    mode = path.stat().st_mode & 0o777
    path.chmod(0o644)
    path.write_bytes(raw)
    path.chmod(mode)
    done = command("db", "check", "--deep", data_dir=folder)
    assert done.returncode == 7
    assert str(path) in done.stderr
