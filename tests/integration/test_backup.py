"""Backup and restore: incremental, beside a running node, whole or not at all, through rotations and crashes."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from blyan.chain.archive import export_archive
from blyan.chain.entries import DatasetBody, ExpertBody, PayloadReference
from blyan.chain.sequencer import Draft
from blyan.node import backup, keys
from blyan.node.backup import Copied, back_up, restore
from blyan.node.config import NodeConfig
from blyan.node.data_directory import open_ground
from blyan.node.joining import import_chains
from blyan.node.writer import WritableGround, rotate
from blyan.primitives import limits
from blyan.primitives.errors import Fault, InvalidInput, NotFound, Unavailable
from blyan.primitives.ids import PayloadId
from blyan.storage import durable
from blyan.storage.blob_store import BlobStore
from nodes import command, fixed_entropy, fixed_seconds, writing
from scenarios import data_of

CHEAP = keys.Cost(1, limits.key_memory_bytes_min)
LENGTH = 3_000


def quiet(_done: int, _total: int) -> None:
    """Progress that nobody watches."""


def append(ground: WritableGround, *experts: int) -> None:
    tip = ground.chains.newest("meta")
    drafts: list[Draft] = []
    for expert in experts:
        stored = ground.store.put([data_of(f"expert {expert}", LENGTH)])
        reference = PayloadReference(stored.payload, stored.length, "application/vnd.blyan.tensorblock")
        drafts.append(Draft(ExpertBody("m", 0, expert), (tip,), reference))
    ground.sequencer.submit(drafts).result()


def publish_dataset(folder: Path) -> PayloadId:
    """One payload that the chains need."""
    with writing(folder) as ground:
        stored = ground.store.put([data_of("records", LENGTH)])
        reference = PayloadReference(stored.payload, stored.length, "application/vnd.blyan.dataset")
        draft = Draft(DatasetBody("d", "CC0-1.0", 1), (ground.chains.newest("meta"),), reference)
        ground.sequencer.submit([draft]).result()
    return stored.payload


def spoil(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(bytes(LENGTH))


def turn(folder: Path, seed: bytes) -> None:
    with writing(folder) as ground:
        rotate(ground, now=fixed_seconds, entropy=lambda n: seed[:n], passphrase=lambda: b"", cost=CHEAP)


def saved(data: Path, *, keys: bool = True) -> Copied:
    return back_up(open_ground(data), data.with_name("backup"), keys=keys, progress=quiet)


def brought_back(data: Path, name: str = "new") -> Copied:
    return restore(NodeConfig(data.with_name(name)), data.with_name("backup"), quiet)


def restored(data: Path, name: str = "new") -> Path:
    folder = data.with_name(name)
    restore(NodeConfig(folder), data.with_name("backup"), quiet)
    return folder


def chain_of(folder: Path) -> dict[str, int]:
    ground = open_ground(folder)
    ground.chains.verify()
    for payload in ground.store.payloads():
        ground.store.verify(payload)
    return {**ground.chains.joint.sizes}


def without_its_beginning(data: Path) -> Path:
    """The same node, with chains that begin at a snapshot."""
    with writing(data) as ground:
        append(ground, *range(300))
        ground.sequencer.close()
        ground.chains.snapshot(ground.key)
        export_archive(ground.chains, data.with_name("archive"), from_snapshot=True)
    folder = data.with_name("joined")
    config = NodeConfig(folder)
    import_chains(config, data.with_name("archive"), None, now=fixed_seconds, entropy=fixed_entropy)
    shutil.copy(keys.node_key(data), keys.node_key(folder))
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with writing(tmp_path / "data") as ground:
        append(ground, 1, 2, 3)
        ground.store.pin(next(ground.store.payloads()), "mine")
    return tmp_path / "data"


def test_a_restored_directory_is_the_one_that_was_saved(data: Path) -> None:
    """Chains, blobs, pins and the key, which goes on writing."""
    assert saved(data).copied == 3
    folder = restored(data)
    assert chain_of(folder) == chain_of(data)
    assert open_ground(folder).store.pins() == open_ground(data).store.pins()
    assert keys.node_key(folder).read_bytes() == keys.node_key(data).read_bytes()
    assert keys.node_key(folder).stat().st_mode & 0o777 == 0o600
    with writing(folder) as ground:
        assert ground.found == ()
        append(ground, 4)


def test_a_second_backup_copies_what_is_new(data: Path) -> None:
    """Also of what was damaged in the backup since."""
    saved(data)
    with writing(data) as ground:
        append(ground, 4)
    rotten = max(data.with_name("backup").glob("blobs/*/*"), key=lambda path: path.stat().st_size)
    spoil(rotten)
    assert saved(data).copied == 2
    assert chain_of(restored(data)) == chain_of(data)


def test_a_backup_beside_a_running_node_is_of_one_moment(data: Path) -> None:
    """Entries that come while it is made are not in it, and it is whole."""
    with writing(data) as ground:
        reader = open_ground(data)
        before = chain_of(data)

        def busy(_done: int, _total: int) -> None:
            append(ground, 10 + ground.chains.logs["parameter"].size)

        back_up(reader, data.with_name("backup"), keys=True, progress=busy)
    assert chain_of(restored(data)) == before != chain_of(data)


def test_a_damaged_blob_is_named_and_the_rest_is_saved(data: Path) -> None:
    """One bad block must not cost all the others."""
    ground = open_ground(data)
    path = ground.store.path(next(ground.store.payloads()))
    spoil(path)
    copied = saved(data)
    assert (copied.copied, len(copied.damaged)) == (2, 1)
    assert str(path) in copied.damaged[0]
    assert chain_of(restored(data)) == open_ground(data).chains.joint.sizes


def test_a_blob_that_rotted_since_the_last_backup_is_named_by_the_next(data: Path) -> None:
    """The backup still has it; the node does not, and must hear of it."""
    saved(data)
    ground = open_ground(data)
    path = ground.store.path(next(ground.store.payloads()))
    spoil(path)
    copied = saved(data)
    assert (copied.copied, len(copied.damaged)) == (0, 1)
    assert str(path) in copied.damaged[0]
    assert command("db", "backup", data.with_name("backup"), data_dir=data).returncode == 7
    assert brought_back(data).damaged == ()


def test_a_blob_that_the_chains_need_and_is_not_there_is_named(data: Path) -> None:
    """By the backup that cannot copy it, and by a restore from one that lacks it."""
    needed = publish_dataset(data)
    saved(data)
    BlobStore(data.with_name("backup") / "blobs").path(needed).unlink()
    back = brought_back(data)
    assert len(back.damaged) == 1 and needed in back.damaged[0] and "dataset d" in back.damaged[0]
    assert chain_of(data.with_name("new")) == chain_of(data)
    assert command("db", "restore", data.with_name("backup"), data_dir=data.with_name("other")).returncode == 7
    open_ground(data).store.path(needed).unlink()
    copied = saved(data)
    assert len(copied.damaged) == 1 and needed in copied.damaged[0] and "dataset d" in copied.damaged[0]
    assert command("db", "backup", data.with_name("backup"), data_dir=data).returncode == 7


def test_a_damaged_blob_of_a_backup_costs_only_itself(data: Path) -> None:
    """Everything else comes back: chains, pins, key and the other blobs; the command says what did not and exits 7."""
    needed = publish_dataset(data)
    saved(data)
    bad = BlobStore(data.with_name("backup") / "blobs").path(needed)
    spoil(bad)
    back = brought_back(data)
    assert (back.blobs, back.copied, len(back.damaged)) == (4, 3, 1)
    assert str(bad) in back.damaged[0]
    folder = data.with_name("new")
    assert chain_of(folder) == chain_of(data)
    assert open_ground(folder).store.pins() == open_ground(data).store.pins()
    with writing(folder) as ground:
        assert ground.may_write
    done = command("db", "restore", data.with_name("backup"), data_dir=data.with_name("other"))
    assert done.returncode == 7 and str(bad) in done.stderr


def test_a_backup_has_the_key_of_its_chains_whatever_is_rotated_beside_it(data: Path) -> None:
    """Rotated after the chains were opened and before the key was read, none is made; later, it is of before."""
    ground = open_ground(data)
    turn(data, bytes([9] * 32))
    with pytest.raises(Unavailable, match=f"key {ground.identity}"):
        back_up(ground, data.with_name("backup"), keys=True, progress=quiet)
    turns = iter([bytes([8] * 32)])
    back_up(
        open_ground(data), data.with_name("backup"), keys=True, progress=lambda *_: [turn(data, seed) for seed in turns]
    )
    assert brought_back(data).may_write
    assert open_ground(data.with_name("new")).may_write


def test_a_restore_says_that_the_key_is_not_the_sequencers(data: Path) -> None:
    """As in a backup of a node that reads another's chains."""
    saved(data)
    path = keys.node_key(data.with_name("backup"))
    path.unlink()
    keys.write_key(path, bytes([9] * 32))
    assert not brought_back(data).may_write
    done = command("db", "restore", data.with_name("backup"), data_dir=data.with_name("other"))
    assert done.returncode == 0 and "only reads" in done.stderr


def test_a_backup_goes_into_no_folder_that_is_something_else(data: Path, tmp_path: Path) -> None:
    """A data directory least of all; nor into a backup of another network."""
    with writing(tmp_path / "other") as ground:
        append(ground, 1)
    before = {path: path.read_bytes() for path in (tmp_path / "other").rglob("*") if path.is_file()}
    for target in (tmp_path / "other", data):
        with pytest.raises(InvalidInput, match="absent, empty or an earlier backup"):
            back_up(open_ground(data), target, keys=True, progress=quiet)
    assert {path: path.read_bytes() for path in (tmp_path / "other").rglob("*") if path.is_file()} == before


def test_a_restore_goes_into_no_folder_that_is_not_empty(data: Path, tmp_path: Path) -> None:
    """Nor from one that is no backup; `node.toml` may be there before."""
    saved(data)
    with pytest.raises(InvalidInput, match="absent or empty"):
        restored(data, "data")
    with pytest.raises(NotFound, match="found no BACKUP"):
        restore(NodeConfig(tmp_path / "new"), tmp_path / "data", quiet)
    (tmp_path / "new").mkdir()
    (tmp_path / "new/node.toml").touch()
    chain_of(restored(data))


@pytest.mark.parametrize("joined", [False, True])
def test_a_backup_follows_a_rotation(data: Path, joined: bool) -> None:
    """The restored node writes with the new key; also where only a snapshot vouches for what came before."""
    if joined:
        data = without_its_beginning(data)
    saved(data)
    turn(data, bytes([9] * 32))
    saved(data)
    folder = restored(data)
    with writing(folder) as ground:
        assert (ground.may_write, len(ground.chains.state.former)) == (True, 1)
        assert ground.chains.first["parameter"] == (256 if joined else 0)
        append(ground, 4)


def stopping(monkeypatch: pytest.MonkeyPatch, steps: int) -> Callable[[], int]:
    """Every rename counts as a step; `KeyboardInterrupt` instead of number `steps`."""
    done = 0
    whole = durable.publish

    def publish(temporary: Path, target: Path) -> None:
        nonlocal done
        if done == steps:
            raise KeyboardInterrupt
        done += 1
        whole(temporary, target)

    monkeypatch.setattr(durable, "publish", publish)
    return lambda: done


def test_a_backup_that_is_cut_off_leaves_the_one_before_or_this_one(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut before each rename, between two backups with a rotation in between: what is restored can write."""
    saved(data)
    shutil.copytree(data.with_name("backup"), data.with_name("first"))
    old = chain_of(data)
    turn(data, bytes([9] * 32))
    with writing(data) as ground:
        append(ground, 4)
    new = chain_of(data)
    found: list[dict[str, int]] = []
    for steps in range(100):
        shutil.rmtree(data.with_name("backup"))
        shutil.copytree(data.with_name("first"), data.with_name("backup"))
        stopping(monkeypatch, steps)
        try:
            saved(data)
            break
        except KeyboardInterrupt:
            pass
        finally:
            monkeypatch.undo()
        folder = restored(data, f"after-{steps}")
        found.append(chain_of(folder))
        with writing(folder) as ground:
            assert ground.may_write
            append(ground, 5)
    assert len(found) > 5 and found == sorted(found, key=lambda sizes: sizes["parameter"])
    assert (found[0], found[-1]) == (old, new)


def test_a_first_backup_that_was_cut_off_is_none_and_can_be_gone_on_with(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until `BACKUP` is written."""
    stopping(monkeypatch, 9)
    with pytest.raises(KeyboardInterrupt):
        saved(data)
    monkeypatch.undo()
    with pytest.raises(NotFound):
        restored(data)
    saved(data)
    assert chain_of(restored(data)) == chain_of(data)


def test_a_restore_that_is_cut_off_opens_nothing_and_begins_anew(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut before every third rename."""
    saved(data)
    expected = chain_of(data)
    for steps in range(0, 100, 3):
        folder = data.with_name("new")
        stopping(monkeypatch, steps)
        try:
            restored(data)
            break
        except KeyboardInterrupt:
            pass
        finally:
            monkeypatch.undo()
        if steps > 0:  # the first is that of `.restore`
            with pytest.raises(Unavailable, match="restore"):
                open_ground(folder)
            with pytest.raises(Unavailable, match="restore"), writing(folder):
                pass
        assert chain_of(restored(data)) == expected
        shutil.rmtree(folder)
    assert steps > 8


def test_while_a_rotation_waits_to_be_settled_nothing_is_saved(data: Path) -> None:
    """Which of two keys is the node's is for a start to find out."""
    keys.write_key(keys.next_key(data), bytes([9] * 32))
    with pytest.raises(Unavailable, match="rotation"):
        saved(data)


def test_any_flipped_bit_of_a_backup_is_found(data: Path) -> None:
    """In every kind of file; one of blobs and pins costs itself, any other all: what was restored is never half."""
    saved(data)
    folder = data.with_name("backup")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".tiles"]
    assert {path.name for path in files} >= {"BACKUP", "chains.archive", "node.key"}
    chance = random.Random(3)
    for number, path in enumerate([*files * 4, *[folder / "BACKUP"] * 40]):
        good = path.read_bytes()
        bad = bytearray(good)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        path.chmod(0o600)
        path.write_bytes(bad)
        target = f"bad-{number}"
        if "blobs" in path.parts:
            [said] = brought_back(data, target).damaged
            assert str(path) in said
            chain_of(data.with_name(target))
        else:
            with pytest.raises(Fault) as found:
                restored(data, target)
            assert str(path) in found.value.message
            with pytest.raises(Fault):
                open_ground(data.with_name(target))
        path.write_bytes(good)
    restored(data)


def test_what_a_backup_holds_is_what_its_documents_say(data: Path) -> None:
    """Nothing else; keys for the owner alone."""
    saved(data)
    folder = data.with_name("backup")
    assert {path.name for path in folder.iterdir()} == backup._names - backup.saved_names  # there is neither here
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in (folder / "keys").iterdir()] == ["node.key"]
