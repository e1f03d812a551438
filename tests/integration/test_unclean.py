"""A writer that did not end cleanly: what the next one finds, does and says; and a rotation that was cut short."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from blyan.chain.chains import Chains
from blyan.chain.entries import ExpertBody, PayloadReference
from blyan.chain.sequencer import Draft
from blyan.node import keys
from blyan.node.config import NodeConfig
from blyan.node.writer import WritableGround, claimed, left_unclean, marker_name, opened, rotate
from blyan.primitives import limits
from blyan.primitives.errors import Denied, Fault, IntegrityFault
from blyan.storage import durable
from nodes import SEED, fixed_entropy, fixed_seconds, serving, writing
from scenarios import data_of

CHEAP = keys.Cost(1, limits.key_memory_bytes_min)
NEXT = bytes([9] * 32)
LENGTH = 600_000


def append(ground: WritableGround, expert: int) -> None:
    stored = ground.store.put([data_of(f"expert {expert}", LENGTH)])
    reference = PayloadReference(stored.payload, stored.length, "application/vnd.blyan.tensorblock")
    ground.sequencer.submit([Draft(ExpertBody("m", 0, expert), (ground.chains.newest("meta"),), reference)]).result()


def cut_off(folder: Path) -> None:
    """The marker as a killed process leaves it."""
    (folder / marker_name).touch()


def test_the_marker_stands_before_the_first_write_and_goes_after_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a new directory too."""
    written: list[str] = []
    whole = durable.publish
    monkeypatch.setattr(
        durable, "publish", lambda temporary, target: (written.append(target.name), whole(temporary, target))
    )
    with writing(tmp_path) as ground:
        append(ground, 1)
        assert (tmp_path / marker_name).exists()
    assert written[0] == marker_name
    assert not (tmp_path / marker_name).exists()


@pytest.mark.parametrize("reason", [Denied("no"), KeyboardInterrupt(), ValueError()])
def test_an_error_of_the_caller_is_no_unclean_end(tmp_path: Path, reason: BaseException) -> None:
    """Chains and blobs are whole or absent at any moment that Python code can be left."""
    with writing(tmp_path) as ground:
        append(ground, 1)
    with pytest.raises(type(reason)), writing(tmp_path):
        raise reason
    assert not (tmp_path / marker_name).exists()


def test_after_a_commit_that_failed_half_way_the_marker_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start finds out what reached the disk."""

    def fail(*_: object) -> None:
        raise OSError(5, "the disk")

    with writing(tmp_path) as ground:
        append(ground, 1)
        monkeypatch.setattr("blyan.chain.chains.write_promise", fail)
        with pytest.raises((OSError, Fault)):
            append(ground, 2)
        monkeypatch.undo()
    assert left_unclean(tmp_path) is not None
    with writing(tmp_path) as ground:
        assert ground.found[0] == "the last process that wrote here did not end cleanly"
        append(ground, 2)
    assert left_unclean(tmp_path) is None
    with writing(tmp_path) as ground:
        assert (ground.found, ground.chains.logs["parameter"].size) == ((), 2)


def test_what_came_since_the_marker_is_hashed_again_and_damage_is_named(tmp_path: Path) -> None:
    """Not repaired: named by the start, refused by those who need it."""
    with writing(tmp_path) as ground:
        append(ground, 1)
        payload = next(ground.store.payloads())
        path = ground.store.path(payload)
    cut_off(tmp_path)
    path.chmod(0o644)
    raw = bytearray(path.read_bytes())
    raw[limits.subtile_bytes] ^= 1
    path.write_bytes(raw)
    with writing(tmp_path) as ground:
        assert "hashed 1 payloads again that were stored since, 1 of them damaged" in ground.found
        assert str(path) in ground.found[-1]
        with pytest.raises(IntegrityFault):
            ground.store.open(payload)


@pytest.mark.parametrize("how", ["its time was set", "the clock went back"])
def test_a_time_that_says_little_does_not_hide_what_changed(tmp_path: Path, how: str) -> None:
    """A file whose mtime is older than the marker is hashed again if it changed after it, or if nobody can tell."""
    with writing(tmp_path) as ground:
        append(ground, 1)
        path = ground.store.path(next(ground.store.payloads()))
    cut_off(tmp_path)
    path.chmod(0o644)
    path.write_bytes(b"\0" * LENGTH)
    if how == "its time was set":
        os.utime(path, (1, 1))
    else:
        marker = tmp_path / marker_name
        later = marker.stat().st_mtime + 3_600
        os.utime(marker, (later, later))
    with writing(tmp_path) as ground:
        assert "hashed 1 payloads again that were stored since, 1 of them damaged" in ground.found


def test_only_after_an_unclean_end_every_folder_is_synced(tmp_path: Path) -> None:
    """Before anything is built on what is there; a clean start stays quick."""
    with writing(tmp_path) as ground:
        append(ground, 1)
        folder = ground.store.path(next(ground.store.payloads())).parent
    whole = durable.fsync_folder
    for cut in (False, True):
        if cut:
            cut_off(tmp_path)
        synced: list[Path] = []
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(durable, "fsync_folder", lambda path, synced=synced: (synced.append(path), whole(path)))
            with claimed(tmp_path):
                pass
        assert ({folder, tmp_path, tmp_path.parent, tmp_path / "chain" / "meta"} <= set(synced)) == cut
        assert len(synced) < 4 or cut


async def test_the_node_says_what_its_start_found(tmp_path: Path) -> None:
    """`/readyz?verbose`, for as long as it runs."""
    with writing(tmp_path):
        pass
    cut_off(tmp_path)
    async with serving(tmp_path) as client:
        found = (await (await client.get("/readyz?verbose&exclude=models")).json())["found_at_start"]
        assert found[0] == "the last process that wrote here did not end cleanly"
    async with serving(tmp_path) as client:
        assert (await (await client.get("/readyz?verbose&exclude=models")).json())["found_at_start"] == []


def test_who_only_changes_files_leaves_an_unclean_end_to_be_cleared_up(tmp_path: Path) -> None:
    """Pinning opens no chains, so it may not say that they are in order."""
    with writing(tmp_path):
        pass
    with claimed(tmp_path):
        pass
    assert not (tmp_path / marker_name).exists()
    cut_off(tmp_path)
    with claimed(tmp_path):
        pass
    assert left_unclean(tmp_path) is not None


def turn(ground: WritableGround) -> None:
    rotate(ground, now=fixed_seconds, entropy=lambda count: NEXT[:count], passphrase=lambda: b"", cost=CHEAP)


@pytest.mark.parametrize("turned", [False, True])
def test_a_rotation_that_was_cut_short_is_undone_or_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turned: bool
) -> None:
    """Before the entry is committed, and after; the chains can be written with the key that is there then."""
    with writing(tmp_path) as ground:
        append(ground, 1)
        old = ground.identity
    whole = Chains.rotate

    def stop(chains: Chains, *arguments: object) -> None:
        if turned:
            whole(chains, *arguments)  # pyright: ignore[reportArgumentType]
        raise KeyboardInterrupt

    monkeypatch.setattr(Chains, "rotate", stop)
    with pytest.raises(KeyboardInterrupt), writing(tmp_path) as ground:
        turn(ground)
    monkeypatch.undo()
    cut_off(tmp_path)
    assert keys.next_key(tmp_path).exists()
    with writing(tmp_path) as ground:
        assert (ground.identity != old) == turned
        assert any("rotation" in sentence for sentence in ground.found)
        append(ground, 2)
        ground.chains.verify()
    assert not keys.next_key(tmp_path).exists()
    with writing(tmp_path) as ground:
        assert (ground.found, ground.may_write, len(ground.chains.state.former)) == ((), True, int(turned))


def test_a_rotation_that_is_refused_leaves_no_key_behind(tmp_path: Path) -> None:
    """To a key that wrote here before."""
    with writing(tmp_path) as ground:
        append(ground, 1)
    same = lambda count: SEED[:count]  # noqa: E731 - the key that the chains have
    with pytest.raises(Fault), writing(tmp_path) as ground:
        rotate(ground, now=fixed_seconds, entropy=same, passphrase=lambda: b"", cost=CHEAP)
    assert not keys.next_key(tmp_path).exists()
    with writing(tmp_path) as ground:
        append(ground, 2)


def test_a_rotated_key_is_kept_as_the_old_one_was(tmp_path: Path) -> None:
    """Under the same passphrase."""
    with writing(tmp_path) as ground:
        append(ground, 1)
    keys.write_encrypted(keys.node_key(tmp_path), SEED, b"secret", fixed_entropy, CHEAP)
    config = NodeConfig(tmp_path)
    with opened(config, now=fixed_seconds, entropy=fixed_entropy, passphrase=lambda: b"secret") as ground:
        rotate(ground, now=fixed_seconds, entropy=lambda count: NEXT[:count], passphrase=lambda: b"secret", cost=CHEAP)
    found = keys.read_key(keys.node_key(tmp_path))
    assert (found.encrypted, found.seed(lambda: b"secret")) == (True, NEXT)
    with pytest.raises(Denied, match="expected a passphrase"), writing(tmp_path):
        pass
    assert not (tmp_path / marker_name).exists()
