"""The joint checkpoint: one promise over three chains, its commit, and what crashes and hands may do to it."""

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from blyan.chain.chains import Chains, network_of
from blyan.chain.checkpoint import parse_checkpoint
from blyan.chain.entries import ExpertBody, ModelBody, PayloadReference
from blyan.chain.joint import Head, StateRoot, empty_joint, parse_joint
from blyan.chain.migration import join_notes
from blyan.chain.promise import held_bytes
from blyan.chain.snapshot import encode
from blyan.primitives import canonical, limits
from blyan.primitives.errors import Denied, EntryRefused, IntegrityFault
from blyan.primitives.ids import Digest, PayloadId
from blyan.primitives.keys import Key
from blyan.storage import durable
from blyan.storage.blob_store import BlobStore

KEY = Key.from_seed(bytes(range(32)))
OTHER = Key.from_seed(bytes([7] * 32))
BLOCK = PayloadReference(PayloadId("cd" * 32), 4096, "application/vnd.blyan.tensorblock")
HEADS = {
    "meta": Head(3, Digest(b"m" * 32)),
    "parameter": Head(9, Digest(b"p" * 32)),
    "dataset": Head(0, Digest(b"d" * 32)),
}
STATE = StateRoot(PayloadId("ab" * 32), 77, {"meta": 2, "parameter": 9, "dataset": 0})


def now() -> int:
    return 1_700_000_000


def opened(folder: Path, key: Key = KEY) -> Chains:
    return Chains(folder / "chain", key.public, BlobStore(folder / "blobs", writable=True))


def grown(folder: Path, *counts: int) -> Chains:
    """One commit of so many experts each, after the genesis."""
    chains = opened(folder)
    genesis = chains.start(KEY, now)
    for count in counts:
        for _ in range(count):
            chains.append(ExpertBody("m", 0, chains.logs["parameter"].size), (genesis,), BLOCK, KEY, now)
        chains.publish(KEY)
    return chains


def stop_before(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The power goes before the file `name` of that chain, or of the folder, is written."""
    write = durable.write_file

    def stop(target: Path, data: bytes, mode: int = 0o644) -> None:
        if str(target).endswith(name):
            raise KeyboardInterrupt
        write(target, data, mode)

    monkeypatch.setattr(durable, "write_file", stop)


def test_what_was_encoded_is_read_again_and_nothing_else_is() -> None:
    """Fields, limits and the author's signature; every single flipped bit is found."""
    path = Path("joint")
    joint = replace(empty_joint("local-x", KEY.public, 5), height=4, heads=HEADS, state=STATE).signed(KEY)
    raw = joint.encode()
    assert parse_joint(raw, path) == joint
    chance = random.Random(3)
    for _ in range(300):
        bad = bytearray(raw)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        with pytest.raises(IntegrityFault, match="joint"):
            parse_joint(bytes(bad), path)


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"height": -1},
        {"height": True},
        {"extra": 1},
        {"network": "Upper Case"},
        {"ledger_root": "ab" * 32},
        {"ledger_root": {"size": 1}},
        {"ledger_root": {"size": -1, "root": "ab" * 32}},
        {"anchor": "ab" * 32},
        {"heads": {"meta": {"size": 1, "root": "ab" * 32}}},
        {"state": {"payload": "ab" * 32, "bytes": 0, "sizes": {"meta": 0, "parameter": 0, "dataset": 0}}},
        {"state": {"payload": "ab" * 32, "bytes": 9, "sizes": {"meta": 1, "parameter": 0, "dataset": 0}}},
        {"state": {"payload": "ab" * 32, "bytes": 9, "sizes": {"meta": 0, "parameter": limits.chain_size_max + 1}}},
    ],
)
def test_a_joint_checkpoint_that_does_not_fit_is_refused_though_signed(change: dict[str, object]) -> None:
    """Unknown fields, wrong types, a state of more entries than there are."""
    value = dict(canonical.decode_object(empty_joint("local-x", KEY.public, 5).signed(KEY).encode(), bytes_max=8192))
    del value["sig"]
    value |= change  # pyright: ignore[reportOperatorIssue]
    raw = canonical.encode({**value, "sig": KEY.sign("joint", canonical.encode(value)).hex()})
    with pytest.raises(IntegrityFault, match="expected"):
        parse_joint(raw, Path("joint"))


def test_every_commit_raises_the_height_and_covers_all_chains(tmp_path: Path) -> None:
    """Height 0 is the promise of nothing, 1 the genesis."""
    chains = grown(tmp_path, 2, 300)
    joint = parse_joint((tmp_path / "chain" / "joint").read_bytes(), Path("joint"))
    assert joint == chains.joint == opened(tmp_path).joint
    assert (joint.height, joint.sizes, joint.author) == (3, {"meta": 1, "parameter": 302, "dataset": 0}, KEY.public)
    assert all(head.root == chains.logs[name].checkpoint.root for name, head in joint.heads.items())


def test_one_commit_over_two_chains_is_seen_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything but the joint checkpoint reached the disk: neither chain has grown."""
    chains = grown(tmp_path, 3)
    parameter = chains.logs["parameter"].checkpoint
    model = ModelBody("m", "1.0.0", "qwen3_moe", parameter.size, parameter.root.hex())
    chains.append(model, (chains.newest("parameter"),), BLOCK, KEY, now)
    chains.append(ExpertBody("m", 1, 1), (chains.newest("meta"),), BLOCK, KEY, now)
    stop_before(monkeypatch, "chain/joint")
    with pytest.raises(KeyboardInterrupt):
        chains.publish(KEY)
    monkeypatch.undo()
    again = opened(tmp_path)
    assert again.joint.sizes == {"meta": 1, "parameter": 3, "dataset": 0}
    (said,) = again.recover(KEY)
    assert "never committed" in said
    assert not list((tmp_path / "chain").rglob("tile/entries/000.p/4"))
    grown(tmp_path, 1)
    assert [report.size for report in opened(tmp_path).verify()] == [1, 4, 0]


@pytest.mark.parametrize("name", ["meta/checkpoint", "parameter/checkpoint", "dataset/checkpoint"])
def test_a_note_that_lags_after_a_crash_is_signed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The promise stands; recovering says what it did, once."""
    stop_before(monkeypatch, name)
    with pytest.raises(KeyboardInterrupt):
        grown(tmp_path, 3)
    monkeypatch.undo()
    assert any("note of chain" in said for said in opened(tmp_path).recover(KEY))
    assert opened(tmp_path).recover(KEY) == []
    grown(tmp_path, 2)
    opened(tmp_path).verify()


def test_a_commit_signs_lagging_notes_before_it_makes_them_lag_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a note is at most one commit behind."""
    chains = grown(tmp_path, 3)
    stop_before(monkeypatch, "parameter/checkpoint")
    chains.append(ExpertBody("m", 1, 1), (chains.newest("meta"),), BLOCK, KEY, now)
    with pytest.raises(KeyboardInterrupt):
        chains.publish(KEY)
    monkeypatch.undo()
    chains = opened(tmp_path)
    assert chains.logs["parameter"].checkpoint_note().split(b"\n")[1] == b"3"
    written: list[str] = []
    write = durable.write_file
    monkeypatch.setattr(
        durable, "write_file", lambda target, data, mode=0o644: (written.append(target.name), write(target, data, mode))
    )
    chains.append(ExpertBody("m", 1, 2), (chains.newest("meta"),), BLOCK, KEY, now)
    chains.publish(KEY)
    assert written.index("checkpoint") < written.index("joint")


def test_an_older_joint_checkpoint_put_back_is_found_by_the_notes(tmp_path: Path) -> None:
    """Going on from it would sign a second history."""
    grown(tmp_path, 3)
    older = (tmp_path / "chain" / "joint").read_bytes()
    grown(tmp_path, 2)
    (tmp_path / "chain" / "joint").write_bytes(older)
    with pytest.raises(IntegrityFault, match=r"parameter/checkpoint: expected at most the 3 .* found .* 5"):
        opened(tmp_path)


def test_an_older_note_of_another_history_is_damage_and_not_lag(tmp_path: Path) -> None:
    """A note that lags must be a beginning of what is promised."""
    grown(tmp_path / "a", 3)
    chains = opened(tmp_path / "b")
    chains.append(ExpertBody("x", 0, 0), (chains.start(KEY, now),), BLOCK, KEY, now)
    chains.publish(KEY)
    shutil.copy(tmp_path / "b/chain/parameter/checkpoint", tmp_path / "a/chain/parameter/checkpoint")
    with pytest.raises(IntegrityFault, match="parameter/checkpoint: expected root"):
        opened(tmp_path / "a")


def test_another_key_cannot_have_made_the_promise(tmp_path: Path) -> None:
    """A rightly signed joint checkpoint by anybody but the sequencer that the chains name."""
    joint = grown(tmp_path, 3).joint
    (tmp_path / "chain" / "joint").write_bytes(replace(joint, author=OTHER.public).signed(OTHER).encode())
    with pytest.raises(IntegrityFault, match=f"expected one by {KEY.public}"):
        opened(tmp_path)


def test_opening_reads_the_right_edge_and_not_the_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a snapshot, a logarithm of the entries: full bundles and tiles left of the edge are not touched."""
    chains = grown(tmp_path, 700)
    chains.snapshot(KEY)
    read: list[str] = []
    limited = durable.read_limited
    monkeypatch.setattr(durable, "read_limited", lambda path, most: (read.append(str(path)), limited(path, most))[1])
    again = opened(tmp_path)
    assert encode(again.state) == encode(chains.state)
    tiles = [path.partition("parameter/tile/")[2] for path in read if "parameter/tile/" in path]
    assert sorted(set(tiles)) == ["0/002.p/188", "1/000.p/2", "entries/002.p/188"]


def test_the_snapshot_gives_the_state_that_replay_gives(tmp_path: Path) -> None:
    """And entries after it are folded on top; `verify` computes its root again."""
    chains = grown(tmp_path, 5)
    root = chains.snapshot(KEY)
    assert (root, root.sizes) == (chains.joint.state, {"meta": 1, "parameter": 5, "dataset": 0})
    assert chains.snapshot(KEY) == root
    grown(tmp_path, 3)
    again = opened(tmp_path)
    assert (again.joint.state, again.joint.sizes["parameter"]) == (root, 8)
    assert again.verify()[1].signatures == 8


def test_a_snapshot_that_is_not_what_the_entries_give_is_found(tmp_path: Path) -> None:
    """Opening trusts the sequencer's signature; `verify` trusts nobody."""
    chains = grown(tmp_path, 5)
    chains.state.nonces["parameter", KEY.public] = 99
    chains.snapshot(KEY)
    with pytest.raises(IntegrityFault, match="state after"):
        opened(tmp_path).verify()


def test_times_never_go_back_though_the_clock_does(tmp_path: Path) -> None:
    """Within a run and over a restart."""
    chains = grown(tmp_path, 1)
    for clock in (2_000_000_000, 5):
        chains.append(ExpertBody("m", 1, clock), (chains.newest("meta"),), BLOCK, KEY, lambda clock=clock: clock)
    chains.publish(KEY)
    chains = opened(tmp_path)
    chains.append(ExpertBody("m", 2, 0), (chains.newest("meta"),), BLOCK, KEY, now)
    chains.publish(KEY)
    entries = list(chains.logs["parameter"].entries(0, 4))
    assert [raw.rpartition(b'"time":')[2].split(b",")[0] for raw in entries[1:]] == [b"2000000000"] * 3
    assert chains.joint.time == 2_000_000_000


def test_chains_of_before_the_joint_checkpoint_are_joined(tmp_path: Path) -> None:
    """Everything is verified first; damage leaves them as they were."""
    before = grown(tmp_path, 300).joint
    path = tmp_path / "chain" / "joint"
    path.unlink()
    with pytest.raises(IntegrityFault, match=str(path)):
        opened(tmp_path)
    store = BlobStore(tmp_path / "blobs", writable=True)
    tile = tmp_path / "chain/parameter/tile/0/000"
    good = tile.read_bytes()
    tile.write_bytes(good[:-1] + b"x")
    with pytest.raises(IntegrityFault, match=str(tile)):
        join_notes(tmp_path / "chain", store, KEY, now)
    assert not path.exists()
    tile.write_bytes(good)
    joint = join_notes(tmp_path / "chain", store, KEY, now)
    assert (joint.heads, joint.network) == (before.heads, network_of(KEY.public))
    assert grown(tmp_path, 1).verify()[1].size == 301


def test_after_a_rotation_the_new_key_signs_everything(tmp_path: Path) -> None:
    """Joint checkpoint and notes of that commit too; the old key may read."""
    chains = grown(tmp_path, 3)
    chains.rotate(KEY, OTHER, now)
    assert (chains.author, chains.joint.author, chains.network) == (OTHER.public, OTHER.public, network_of(KEY.public))
    again = opened(tmp_path, OTHER)
    assert again.recover(OTHER) == []
    for log in again.logs.values():
        parse_checkpoint(log.checkpoint_note(), log.origin, OTHER.public)
    again.append(ExpertBody("m", 1, 1), (again.newest("meta"),), BLOCK, OTHER, now)
    again.publish(OTHER)
    assert [report.size for report in opened(tmp_path).verify()] == [2, 4, 0]
    with pytest.raises(Denied, match=OTHER.public):
        again.append(ExpertBody("m", 1, 2), (again.newest("meta"),), BLOCK, KEY, now)
    with pytest.raises(Denied):
        again.publish(KEY)


@pytest.mark.parametrize("name", ["chain/joint", "meta/checkpoint", "parameter/checkpoint", "dataset/checkpoint"])
def test_a_crash_within_a_rotation_leaves_one_key_or_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Before the commit the old one goes on, after it the new one, which signs what lagged."""
    chains = grown(tmp_path, 3)
    stop_before(monkeypatch, name)
    with pytest.raises(KeyboardInterrupt):
        chains.rotate(KEY, OTHER, now)
    monkeypatch.undo()
    key, wrong = (KEY, OTHER) if name == "chain/joint" else (OTHER, KEY)
    chains = opened(tmp_path)
    assert chains.state.sequencer == key.public
    assert not any("signed" in said for said in chains.recover(wrong))
    assert any("signed" in said for said in chains.recover(key)) == (key is OTHER)
    with pytest.raises(Denied):
        chains.append(ExpertBody("m", 1, 1), (chains.newest("meta"),), BLOCK, wrong, now)
    chains.append(ExpertBody("m", 1, 1), (chains.newest("meta"),), BLOCK, key, now)
    chains.publish(key)
    assert opened(tmp_path).recover(key) == []
    opened(tmp_path).verify()


def test_a_rotation_to_a_key_that_was_used_is_refused(tmp_path: Path) -> None:
    """And leaves no trace."""
    chains = grown(tmp_path, 1)
    chains.rotate(KEY, OTHER, now)
    before = chains.joint
    with pytest.raises(EntryRefused, match="never used"):
        chains.rotate(OTHER, KEY, now)
    assert opened(tmp_path).joint == chains.joint == before
    assert chains.state.sequencer == OTHER.public


def test_the_old_key_cannot_sign_a_promise_after_a_rotation(tmp_path: Path) -> None:
    """Nor a note that is not behind."""
    chains = grown(tmp_path, 1)
    chains.rotate(KEY, OTHER, now)
    joint = replace(chains.joint, height=chains.joint.height + 1, author=KEY.public).signed(KEY)
    (tmp_path / "chain/joint").write_bytes(joint.encode())
    with pytest.raises(IntegrityFault, match=f"expected one by {OTHER.public}"):
        opened(tmp_path)


def test_a_snapshot_carries_the_rotation(tmp_path: Path) -> None:
    """Opening from it knows who may write."""
    chains = grown(tmp_path, 1)
    chains.rotate(KEY, OTHER, now)
    chains.snapshot(OTHER)
    assert opened(tmp_path).state.sequencer == OTHER.public
    with pytest.raises(Denied):
        opened(tmp_path).snapshot(KEY)


@pytest.mark.parametrize("first", [{"parameter": 256}, {"parameter": 7}, {"parameter": -256}, {"parameter": True}])
def test_a_file_held_that_cannot_be_is_named(tmp_path: Path, first: dict[str, int]) -> None:
    """Whole bundles, within what is promised; with its own checksum, for nobody signed it."""
    grown(tmp_path, 3)
    path = tmp_path / "chain/held"
    path.write_bytes(held_bytes({"meta": 0, "parameter": 0, "dataset": 0} | first))  # pyright: ignore[reportArgumentType]
    with pytest.raises(IntegrityFault, match=str(path)):
        opened(tmp_path)


def test_any_flipped_bit_of_held_is_found(tmp_path: Path) -> None:
    """200 of them."""
    grown(tmp_path, 3)
    path = tmp_path / "chain/held"
    good = held_bytes({"meta": 0, "parameter": 0, "dataset": 0})
    path.write_bytes(good)
    opened(tmp_path)
    chance = random.Random(9)
    for _ in range(200):
        bad = bytearray(good)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        path.write_bytes(bad)
        with pytest.raises(IntegrityFault, match=str(path)):
            opened(tmp_path)
