"""Archives: chains carried whole, or from a snapshot on; nothing is imported that is not what it promises."""

import random
import shutil
from pathlib import Path

import pytest
import zstandard

from blyan.chain.archive import ImportReport, export_archive, import_archive
from blyan.chain.archive_file import magic
from blyan.chain.chains import Chains
from blyan.chain.checkpoint import Checkpoint, sign_checkpoint
from blyan.chain.commit import import_folder, write_entries, write_promise
from blyan.chain.entries import Entry, ExpertBody, PayloadReference
from blyan.chain.joint import Head, JointCheckpoint, StateRoot
from blyan.chain.merkle import entry_id_of
from blyan.chain.snapshot import encode
from blyan.primitives import limits
from blyan.primitives.errors import Denied, IntegrityFault, InvalidInput, NotFound
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.primitives.keys import Key
from blyan.storage import durable
from blyan.storage.blob_store import BlobStore

KEY = Key.from_seed(bytes(range(32)))
OTHER = Key.from_seed(bytes([7] * 32))
BLOCK = PayloadReference(PayloadId("cd" * 32), 4096, "application/vnd.blyan.tensorblock")


def now() -> int:
    return 1_700_000_000


def store_of(folder: Path) -> BlobStore:
    return BlobStore(folder / "blobs", writable=True)


def opened(folder: Path, key: Key = KEY) -> Chains:
    return Chains(folder / "chain", key.public, store_of(folder))


def grown(folder: Path, count: int, key: Key = KEY) -> Chains:
    chains = opened(folder, key)
    genesis = chains.start(key, now)
    for _ in range(count):
        chains.append(ExpertBody("m", 0, chains.logs["parameter"].size), (genesis,), BLOCK, key, now)
    chains.publish(key)
    return chains


def exported(chains: Chains, *, from_snapshot: bool = False) -> Path:
    file = chains.folder.parent / "archive"
    export_archive(chains, file, from_snapshot=from_snapshot)
    return file


def imported(folder: Path, file: Path, **options: object) -> ImportReport:
    folder.mkdir(exist_ok=True)
    return import_archive(folder / "chain", store_of(folder), file, **options)  # pyright: ignore[reportArgumentType]


def notes_of(chains: Chains) -> list[bytes]:
    return [log.checkpoint_note() for log in chains.logs.values()]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 experts, a snapshot, and 300 more."""
    folder = tmp_path_factory.mktemp("source")
    grown(folder, 300).snapshot(KEY)
    grown(folder, 300)
    return folder


def test_a_full_archive_makes_the_same_chains(source: Path, tmp_path: Path) -> None:
    """Same joint checkpoint, same notes, same state; even the snapshot is made again from the entries."""
    chains = opened(source)
    report = imported(tmp_path, exported(chains))
    again = opened(tmp_path)
    assert (again.joint, encode(again.state), notes_of(again)) == (chains.joint, encode(chains.state), notes_of(chains))
    assert (report.added, report.first["parameter"]) == ({"meta": 1, "parameter": 600, "dataset": 0}, 0)
    assert again.verify() == chains.verify()
    assert not import_folder(tmp_path / "chain").exists()


def test_joining_from_a_snapshot_holds_what_came_after(source: Path, tmp_path: Path) -> None:
    """The state is complete, proofs of what is held work, and what is not says how to get it."""
    chains = opened(source)
    report = imported(tmp_path, exported(chains, from_snapshot=True))
    joined = opened(tmp_path, OTHER)
    assert (joined.joint, encode(joined.state)) == (chains.joint, encode(chains.state))
    log = joined.logs["parameter"]
    assert (report.first["parameter"], log.first) == (256, 256)
    assert list(log.entries(256, 600)) == list(chains.logs["parameter"].entries(256, 600))
    assert log.node(8, 1) == chains.logs["parameter"].node(8, 1)
    assert joined.verify()[1].signatures == 344
    for asked in (lambda: list(log.entries(0, 1)), lambda: log.node(0, 3), lambda: log.edge_at(3)):
        with pytest.raises(NotFound, match="begin at entry 256") as refused:
            asked()
        assert "full archive" in str(refused.value.hint)
    with pytest.raises(NotFound):
        exported(joined)


def test_a_joined_node_follows_and_is_filled_later(source: Path, tmp_path: Path) -> None:
    """Later archives extend it; a full one brings what lies before, and then it is as if it had always been there."""
    shutil.copytree(source, tmp_path / "source")
    imported(tmp_path, exported(opened(source), from_snapshot=True))
    newer = grown(tmp_path / "source", 500)
    report = imported(tmp_path, exported(newer, from_snapshot=True))
    assert (report.added["parameter"], opened(tmp_path).joint) == (500, newer.joint)
    report = imported(tmp_path, exported(newer))
    assert (report.added["parameter"], report.first["parameter"]) == (256, 0)
    assert not (tmp_path / "chain/held").exists()
    assert opened(tmp_path).verify() == newer.verify()
    assert files_of(tmp_path / "chain/parameter/tile/0").keys() >= {"000", "001", "002", "003"}


def test_an_import_that_adds_nothing_changes_nothing(source: Path, tmp_path: Path) -> None:
    """An older archive of the same network never takes entries away."""
    shutil.copytree(source, tmp_path / "source")
    older = exported(opened(tmp_path / "source"))
    newer = grown(tmp_path / "source", 5)
    before = files_of(tmp_path / "source/chain")
    report = imported(tmp_path / "source", older)
    assert (set(report.added.values()), report.height) == ({0}, newer.joint.height)
    assert files_of(tmp_path / "source/chain") == before


def test_two_histories_of_one_network_do_not_mix(source: Path, tmp_path: Path) -> None:
    """The sequencer signed both; the node keeps what it has and says so."""
    shutil.copytree(source, tmp_path / "a")
    shutil.copytree(source, tmp_path / "b")
    grown(tmp_path / "a", 1)
    forked = opened(tmp_path / "b")
    forked.append(ExpertBody("fork", 0, 0), (forked.newest("meta"),), BLOCK, KEY, now)
    forked.append(ExpertBody("fork", 0, 1), (forked.newest("meta"),), BLOCK, KEY, now)
    forked.publish(KEY)
    before = files_of(tmp_path / "a/chain")
    with pytest.raises(IntegrityFault, match="two histories"):
        imported(tmp_path / "a", exported(forked))
    assert files_of(tmp_path / "a/chain") == before


def test_another_network_and_a_gap_are_refused(source: Path, tmp_path: Path) -> None:
    """And the folder stays as it was."""
    grown(tmp_path / "other", 1, OTHER)
    with pytest.raises(InvalidInput, match="expected network"):
        imported(tmp_path / "other", exported(opened(source)))
    grown(tmp_path / "behind", 3)
    shutil.copytree(tmp_path / "behind", tmp_path / "ahead")
    grown(tmp_path / "ahead", 300).snapshot(KEY)
    with pytest.raises(InvalidInput, match="begin at or below entry 3") as refused:
        imported(tmp_path / "behind", exported(opened(tmp_path / "ahead"), from_snapshot=True))
    assert "full archive" in str(refused.value.hint)
    assert opened(tmp_path / "behind").joint.sizes["parameter"] == 3


def test_only_a_trusted_key_may_vouch(source: Path, tmp_path: Path) -> None:
    """The caller's, or the one that the network is named after."""
    file = exported(opened(source), from_snapshot=True)
    with pytest.raises(Denied, match=OTHER.public):
        imported(tmp_path, file, trust=OTHER.public)
    imported(tmp_path, file, trust=KEY.public)


@pytest.mark.parametrize("from_snapshot", [False, True])
def test_any_flipped_bit_of_an_archive_is_found_and_named(source: Path, tmp_path: Path, from_snapshot: bool) -> None:
    """200 of them; nothing is left behind."""
    file = exported(opened(source), from_snapshot=from_snapshot)
    good = file.read_bytes()
    bad_file = tmp_path / "bad"
    chance = random.Random(5)
    for _ in range(200):
        bad = bytearray(good)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        bad_file.write_bytes(bad)
        with pytest.raises(IntegrityFault, match=str(bad_file)):
            imported(tmp_path, bad_file)
        assert not (tmp_path / "chain").exists()
        assert not import_folder(tmp_path / "chain").exists()


@pytest.mark.parametrize("cut", [0, 5, 17, 30, -5, -1])
def test_a_truncated_or_extended_archive_is_found(source: Path, tmp_path: Path, cut: int) -> None:
    """Wherever it ends."""
    raw = exported(opened(source)).read_bytes()
    for bad in (raw[:cut], raw + b"x", raw + zstandard.compress(b"more")):
        (tmp_path / "bad").write_bytes(bad)
        with pytest.raises(IntegrityFault, match="archive"):
            imported(tmp_path, tmp_path / "bad")


@pytest.mark.parametrize(
    "body",
    [
        (limits.archive_header_bytes_max + 1).to_bytes(4, "little"),
        b"\xff\xff\xff\xff",
        (2).to_bytes(4, "little") + b"{}",
        (2).to_bytes(4, "little") + b"[]",
        (4).to_bytes(4, "little") + b"null",
    ],
)
def test_hostile_headers_are_refused_before_anything_is_allocated(tmp_path: Path, body: bytes) -> None:
    """A length beyond its limit, and values that are no header."""
    (tmp_path / "bad").write_bytes(magic + zstandard.compress(body))
    with pytest.raises(IntegrityFault, match="archive"):
        imported(tmp_path, tmp_path / "bad")


def test_a_symbolic_link_is_not_followed(source: Path, tmp_path: Path) -> None:
    """An archive is a file."""
    (tmp_path / "link").symlink_to(exported(opened(source)))
    with pytest.raises(InvalidInput, match="symbolic link"):
        imported(tmp_path, tmp_path / "link")


def test_an_export_that_fails_leaves_no_file(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is wholly there or not at all."""
    chains = opened(source)
    monkeypatch.setattr(type(chains.logs["meta"]), "entries", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_archive(chains, tmp_path / "archive")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", [0, 9, 14, 19, 22, 25, 27, 29])
def test_a_crash_of_an_import_leaves_what_was_there(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """Before any write; importing again succeeds, and `recover` clears up."""
    shutil.copytree(source, tmp_path / "source")
    file = exported(opened(tmp_path / "source"), from_snapshot=True)
    imported(tmp_path, file)
    newer = exported(grown(tmp_path / "source", 500))
    done = 0
    write = durable.write_file

    def stop_before(target: Path, data: bytes, mode: int = 0o644) -> None:
        nonlocal done
        if done == stop:
            raise KeyboardInterrupt
        done += 1
        write(target, data, mode)

    with monkeypatch.context() as patched:
        patched.setattr(durable, "write_file", stop_before)
        patched.setattr(durable, "remove_tree", lambda _path: None)  # a crash clears nothing up
        with pytest.raises(KeyboardInterrupt):
            imported(tmp_path, newer)
    chains = opened(tmp_path)
    assert chains.joint.sizes["parameter"] in (600, 1100)
    chains.verify()
    chains.recover(OTHER)
    assert not import_folder(tmp_path / "chain").exists()
    imported(tmp_path, newer)
    assert opened(tmp_path).verify() == opened(tmp_path / "source").verify()
    assert not opened(tmp_path).lagging


def test_any_flipped_bit_of_a_joined_folder_is_found_and_named(source: Path, tmp_path: Path) -> None:
    """Also where the entries below are not here to compare with."""
    imported(tmp_path, exported(opened(source), from_snapshot=True))
    files = sorted(path for path in (tmp_path / "chain").rglob("*") if path.is_file())
    assert {"held", "joint", "checkpoint", "001"} <= {path.name for path in files}
    chance = random.Random(7)
    for _ in range(100):
        path = chance.choice(files)
        good = path.read_bytes()
        bad = bytearray(good)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        path.write_bytes(bad)
        with pytest.raises(IntegrityFault, match=f"{path}[^0-9/]"):
            opened(tmp_path).verify()
        path.write_bytes(good)
    opened(tmp_path).verify()


def test_an_import_over_what_was_never_begun_takes_its_place(source: Path, tmp_path: Path) -> None:
    """A crash before the first promise leaves a folder in which nothing was promised."""
    (tmp_path / "chain").mkdir(parents=True)
    (tmp_path / "chain/.tmp-1-joint").write_bytes(b"half")
    imported(tmp_path, exported(opened(source)))
    assert opened(tmp_path).joint == opened(source).joint


def test_an_archive_of_rotated_chains_is_whole_by_itself_and_from_a_snapshot_by_trust(tmp_path: Path) -> None:
    """A full one shows how the key came to be; a snapshot does not, so somebody must say whom to trust."""
    chains = grown(tmp_path / "source", 300)
    chains.rotate(KEY, OTHER, now)
    chains.snapshot(OTHER)
    full, part = exported(chains), tmp_path / "part"
    export_archive(chains, part, from_snapshot=True)
    imported(tmp_path / "full", full)
    assert opened(tmp_path / "full").state.sequencer == OTHER.public
    with pytest.raises(Denied, match="named after"):
        imported(tmp_path / "joined", part)
    imported(tmp_path / "joined", part, trust=OTHER.public)
    assert opened(tmp_path / "joined").verify()[0].signatures == 2


def forged(chains: Chains, key: Key, claimed: PublicKey) -> Path:
    """An archive from a snapshot that claims `claimed` as sequencer, signed by `key`, with one entry more."""
    genesis = chains.newest("meta")
    unsigned = Entry(chains.network, key.public, 10_000, (genesis,), ExpertBody("m", 0, 9), BLOCK, now())
    raw = unsigned.signed(key).encode()
    chains.state.apply(unsigned.signed(key), entry_id_of(raw))
    chains.state.sequencer = claimed
    new = write_entries(chains.logs, {"parameter": [raw]})
    heads = dict(chains.joint.heads) | {"parameter": Head(new["parameter"].edge.size, new["parameter"].edge.root())}
    stored = chains.store.put([encode(chains.state)])
    root = StateRoot(stored.payload, stored.length, {name: head.size for name, head in heads.items()})
    joint = JointCheckpoint(chains.network, 0, chains.joint.height + 1, heads, root, now(), key.public).signed(key)
    notes = {
        name: sign_checkpoint(Checkpoint(chains.logs[name].origin, head.size, head.root), key)
        for name, head in heads.items()
    }
    write_promise(chains.folder, chains.logs, joint, notes, new)
    return exported(Chains(chains.folder, key.public, chains.store), from_snapshot=True)


@pytest.mark.parametrize("snapshot_before", [False, True])
def test_a_key_whose_time_is_over_does_not_take_over_who_knows_of_the_rotation(
    tmp_path: Path, snapshot_before: bool
) -> None:
    """Its snapshot says that it is the sequencer still; our own entries say otherwise."""
    (tmp_path / "honest").mkdir()
    chains = grown(tmp_path / "honest", 300)
    chains.rotate(KEY, OTHER, now)
    if snapshot_before:
        chains.snapshot(OTHER)
    shutil.copytree(tmp_path / "honest", tmp_path / "evil")
    archive = forged(opened(tmp_path / "evil", OTHER), KEY, KEY.public)
    before = (tmp_path / "honest/chain/joint").read_bytes()
    for trust in (None, KEY.public):
        with pytest.raises(
            IntegrityFault, match=r"two histories|state after|a promised entry refused|joint checkpoint"
        ):
            imported(tmp_path / "honest", archive, trust=trust)
    assert (tmp_path / "honest/chain/joint").read_bytes() == before
    opened(tmp_path / "honest", OTHER).verify()


def test_a_newer_archive_from_a_snapshot_extends_who_has_an_older_one(tmp_path: Path) -> None:
    """The snapshot is computed from what is here, and agrees."""
    (tmp_path / "source").mkdir()
    chains = grown(tmp_path / "source", 300)
    chains.snapshot(KEY)
    imported(tmp_path / "reader", exported(chains, from_snapshot=True))
    genesis = chains.newest("meta")
    for number in range(20):
        chains.append(ExpertBody("m", 1, number), (genesis,), BLOCK, KEY, now)
    chains.snapshot(KEY)
    chains.append(ExpertBody("m", 2, 0), (genesis,), BLOCK, KEY, now)
    chains.publish(KEY)
    report = imported(tmp_path / "reader", exported(chains, from_snapshot=True))
    assert report.added == {"meta": 0, "parameter": 21, "dataset": 0}
    assert opened(tmp_path / "reader").state.sizes == chains.state.sizes
    opened(tmp_path / "reader").verify()
