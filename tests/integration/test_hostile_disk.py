"""Disks that are full, read-only, or prepared by somebody: nothing acknowledged is lost, nothing is written through."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from blyan.chain.entries import ExpertBody, PayloadReference
from blyan.chain.sequencer import Draft
from blyan.node.data_directory import open_ground
from blyan.primitives.errors import Fault, StorageFull
from blyan.primitives.ids import PayloadId
from blyan.primitives.limits import subtile_bytes
from blyan.storage.blob_store import BlobStore
from blyan.storage.tile import index_of, subtile_slice
from nodes import command, writing
from scenarios import data_of

pytestmark = pytest.mark.slow

DISK_BYTES = 8 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real tmpfs of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = f"size={DISK_BYTES}"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        if os.environ.get("CI") == "true" and os.geteuid() == 0 and b"permission denied" not in done.stderr.lower():
            pytest.fail(f"mount: {done.stderr.decode()}")
        pytest.skip("no right to mount a tmpfs here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def filling(store: BlobStore) -> Iterator[PayloadId]:
    """Payloads as they are stored, more than the disk has room for."""
    for number in range(100):
        yield store.put([data_of(f"blob {number}", 700_000)]).payload


def drafts(ground, count: int) -> list[Draft]:
    payload = index_of(b"x").payload_id
    block = PayloadReference(payload, 1, "application/vnd.blyan.tensorblock")
    genesis = ground.chains.newest("meta")
    return [Draft(ExpertBody("m", 0, number), (genesis,), block) for number in range(count)]


def test_a_full_disk_refuses_and_loses_nothing(small_disk: Path) -> None:
    """Blobs until it is full, then entries; what was acknowledged is there, and freed room is used again."""
    folder = small_disk / "data"
    acknowledged: list[PayloadId] = []
    with writing(folder) as ground:
        with pytest.raises(StorageFull, match="expected room"):
            acknowledged.extend(filling(ground.store))
        assert len(acknowledged) > 5
        assert sorted(ground.store.payloads()) == sorted(acknowledged)
        assert not list((folder / "blobs").glob(".tmp-*"))
        index = index_of(data_of("incoming", 5 * subtile_bytes))
        with pytest.raises(StorageFull):
            ground.store.begin(index.payload_id, index.length, index.encode())
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            continue
    before = open_ground(folder).chains.joint.sizes
    with contextlib.suppress(OSError, Fault), writing(folder) as ground:
        ground.sequencer.submit(drafts(ground, 50)).result()
        pytest.fail("there was no room for entries")
    ground = open_ground(folder)
    assert ground.chains.joint.sizes == before
    ground.chains.verify(processes=0)
    for payload in acknowledged:
        ground.store.verify(payload)
    filler.unlink()
    with writing(folder) as ground:
        assert len(ground.sequencer.submit(drafts(ground, 50)).result()) == 50
        assert len(ground.store.sweep(())) >= len(acknowledged)
        ground.store.put([data_of("again", 2_000_000)])
    open_ground(folder).chains.verify(processes=0)


def test_a_disk_that_fills_in_the_midst_of_a_payload_keeps_what_came(small_disk: Path) -> None:
    """Its room was taken at the beginning, so that somebody else's bytes cannot stop it."""
    folder = small_disk / "data"
    data = data_of("incoming", 10 * subtile_bytes)
    index = index_of(data)
    with writing(folder) as ground:
        incoming = ground.store.begin(index.payload_id, index.length, index.encode())
        with pytest.raises(StorageFull):
            list(filling(ground.store))
        for number in range(10):
            incoming.write(number, data[subtile_slice(number)])
        ground.store.sweep(())
        incoming.sync()
        incoming.finish()
        assert bytes(ground.store.verify(index.payload_id).mapping) == data


def test_a_read_only_disk_is_read_and_not_written(small_disk: Path) -> None:
    """Reading commands work; writing ones say what is wrong and exit 4."""
    folder = small_disk / "data"
    with writing(folder) as ground:
        ground.sequencer.submit(drafts(ground, 3)).result()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    try:
        assert command("chain", "verify", data_dir=folder).returncode == 0
        assert command("chain", "status", data_dir=folder).returncode == 0
        assert command("blob", "verify", "--all", data_dir=folder).returncode == 0
        for verb in (("chain", "snapshot"), ("keys", "rotate", "--yes"), ("db", "rebuild")):
            refused = command(*verb, data_dir=folder)
            assert refused.returncode == 4
            assert "Traceback" not in refused.stderr
            assert "Read-only" in refused.stderr
    finally:
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert command("chain", "snapshot", data_dir=folder).returncode == 0


PLANTED = [
    "LOCK",
    "SCHEMA",
    "WRITING",
    "keys/node.key",
    "chain/joint",
    "chain/meta/checkpoint",
    "chain/parameter/tile/0/000.p/3",
    "chain/parameter/tile/entries/000.p/3",
    "blobs/pins/{payload}",
    "blobs/{short}/{payload}",
    "blobs/{short}/{payload}.tiles",
    "blobs/partial/{payload}",
    "blobs/partial/{payload}.have",
    "chain",
    "blobs",
]


# Another process, and nothing in it that takes long to import.
WRITES = """
import sys
from pathlib import Path
from blyan.node.config import read_config
from blyan.node.writer import opened
from blyan.primitives.clock import system_entropy, system_seconds

with opened(read_config(Path(sys.argv[1]), {}, {}), now=system_seconds, entropy=system_entropy, new=True) as ground:
    payload = ground.store.put([Path(sys.argv[2]).read_bytes()]).payload
    ground.store.pin(payload, "kept")
    ground.chains.recover(ground.key)
"""


def test_what_writes_below_does_so(tmp_path: Path) -> None:
    """Where nothing is planted."""
    (tmp_path / "blob").write_bytes(b"blob")
    subprocess.run([sys.executable, "-c", WRITES, tmp_path / "data", tmp_path / "blob"], check=True, timeout=60)
    assert (tmp_path / "data/blobs/pins" / index_of(b"blob").payload_id).exists()


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_link_is_never_written_through(tmp_path: Path, planted: str) -> None:
    """To a file or folder of the victim, in place of each file and folder of ours."""
    folder, victim = tmp_path / "data", tmp_path / "victim"
    data = data_of("blob", 2 * subtile_bytes)
    index = index_of(data)
    with writing(folder) as ground:
        ground.store.put([data])
        ground.sequencer.submit(drafts(ground, 3)).result()
    path = folder / planted.format(payload=index.payload_id, short=index.payload_id[:2])
    if path.is_dir():
        shutil.copytree(path, victim)
        shutil.rmtree(path)
        held = {each: each.read_bytes() for each in victim.rglob("*") if each.is_file()}
    else:
        victim.write_bytes(b"of somebody else")
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        held = {victim: b"of somebody else"}
    path.symlink_to(victim)
    (tmp_path / "blob").write_bytes(data)
    words = [sys.executable, "-c", WRITES, folder, tmp_path / "blob"]
    subprocess.run(words, capture_output=True, check=False, timeout=60)
    if victim.is_file():
        assert victim.read_bytes() == b"of somebody else"
    else:  # a whole folder, which is refused
        assert {each: each.read_bytes() for each in victim.rglob("*") if each.is_file()} == held


def test_a_second_process_waits_its_turn_and_harms_nothing(tmp_path: Path) -> None:
    """It is told who is there."""
    with writing(tmp_path / "data") as ground:
        ground.sequencer.submit(drafts(ground, 3)).result()
        refused = command("chain", "snapshot", data_dir=tmp_path / "data")
        assert refused.returncode == 75
        assert f"process {os.getpid()}" in refused.stderr
        assert command("chain", "verify", data_dir=tmp_path / "data").returncode == 0
        ground.sequencer.submit(drafts(ground, 3)).result()
    assert command("chain", "snapshot", data_dir=tmp_path / "data").returncode == 0
