"""Chains: what was published is provable, what was not may not appear, and damage has a name."""

import errno
import hashlib
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from blyan.chain.chains import Chains, network_of
from blyan.chain.checkpoint import Checkpoint, parse_checkpoint, sign_checkpoint
from blyan.chain.entries import Entry, ExpertBody, GenesisBody, ModelBody, PayloadReference
from blyan.chain.merkle import Digest, RightEdge, leaf_hash
from blyan.chain.snapshot import encode
from blyan.chain.tile_audit import verify_tiles
from blyan.primitives import limits
from blyan.primitives.errors import Denied, EntryRefused, IntegrityFault, InvalidInput, Unavailable
from blyan.primitives.ids import PayloadId
from blyan.primitives.keys import Key
from blyan.storage import durable
from blyan.storage.blob_store import BlobStore

KEY = Key.from_seed(bytes(range(32)))
OTHER = Key.from_seed(bytes([7] * 32))
BLOCK = PayloadReference(PayloadId("cd" * 32), 4096, "application/vnd.blyan.tensorblock")


def now() -> int:
    return 1_700_000_000


def naive_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1 as it is written: split at the largest power of two below n."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


def opened(folder: Path, author: Key = KEY) -> Chains:
    return Chains(folder, author.public, BlobStore(folder / "blobs", writable=True))


def filled(folder: Path, count: int) -> Chains:
    chains = opened(folder)
    chains.start(KEY, now)
    add_experts(chains, "m", range(count))
    return chains


def add_experts(chains: Chains, model: str, numbers: range) -> None:
    genesis = chains.start(KEY, now)
    for number in numbers:
        chains.append(ExpertBody(model, 0, number), (genesis,), BLOCK, KEY, now)
    chains.publish(KEY)


def model_of(chains: Chains, version: str = "1.0.0") -> ModelBody:
    parameter = chains.logs["parameter"].checkpoint
    return ModelBody("m", version, "qwen3_moe", parameter.size, parameter.root.hex())


def add_model(chains: Chains, body: ModelBody) -> None:
    chains.append(body, (chains.newest("parameter"),), BLOCK, KEY, now)
    chains.publish(KEY)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 255, 256, 257, 511, 513, 700])
def test_roots_are_those_of_rfc_6962(count: int) -> None:
    """The right edge gives the root that the recursive definition gives."""
    leaves = [random.Random(n).randbytes(20) for n in range(count)]
    edge = RightEdge()
    for leaf in leaves:
        edge.append(leaf_hash(leaf))
    assert edge.root() == naive_root(leaves)


def test_known_root_of_rfc_6962_test_data() -> None:
    """The eight-leaf root of the certificate-transparency reference vectors."""
    leaves = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    edge = RightEdge()
    for leaf in leaves:
        edge.append(leaf_hash(bytes.fromhex(leaf)))
    assert edge.root().hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


def test_what_was_published_is_there_after_opening_again(tmp_path: Path) -> None:
    """Sizes, roots, state and every signature survive, over several tiles and publishes."""
    chains = filled(tmp_path, 300)
    chains.append(ExpertBody("m", 1, 0), (chains.newest("parameter"),), BLOCK, KEY, now)
    chains.publish(KEY)
    add_model(chains, model_of(chains))
    again = opened(tmp_path)
    assert again.logs["parameter"].checkpoint == chains.logs["parameter"].checkpoint
    assert encode(again.state) == encode(chains.state)
    reports = {report.chain: report for report in again.verify()}
    assert (reports["meta"].size, reports["parameter"].signatures, reports["dataset"].size) == (2, 301, 0)
    entries = list(again.logs["parameter"].entries(0, 301))
    assert naive_root(entries).hex() == reports["parameter"].root


def test_what_was_staged_and_not_published_is_gone(tmp_path: Path) -> None:
    """Only a checkpoint makes entries visible."""
    chains = filled(tmp_path, 3)
    chains.append(ExpertBody("m", 9, 9), (chains.newest("parameter"),), BLOCK, KEY, now)
    assert opened(tmp_path).logs["parameter"].checkpoint.size == 3


@pytest.mark.parametrize(("kept", "count"), [(0, 1), (0, 300), (1, 3), (255, 256), (256, 300)])
def test_leftovers_of_a_crash_before_the_checkpoint_are_overwritten(tmp_path: Path, kept: int, count: int) -> None:
    """Bundles and tiles beyond the checkpoint belong to nobody; other entries may take their place."""
    filled(tmp_path / "a", kept)
    before = (tmp_path / "a" / "parameter" / "checkpoint").read_bytes()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    chains = opened(tmp_path / "b")
    add_experts(chains, "lost", range(kept, count))
    for path in (tmp_path / "b" / "parameter").rglob("*"):  # everything but the commit reached the disk
        if path.is_file() and path.name not in ("checkpoint", "joint"):
            target = tmp_path / "a" / "parameter" / path.relative_to(tmp_path / "b" / "parameter")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    assert (tmp_path / "a" / "parameter" / "checkpoint").read_bytes() == before
    chains = opened(tmp_path / "a")
    assert chains.logs["parameter"].checkpoint.size == kept
    add_experts(chains, "found", range(kept, count))
    assert opened(tmp_path / "a").verify()[1].size == count


def test_any_flipped_bit_of_what_a_checkpoint_promises_is_found(tmp_path: Path) -> None:
    """Entries, hash tiles and checkpoints: 200 random flips, each an `IntegrityFault`."""
    add_experts(filled(tmp_path, 270), "m", range(270, 300))
    log = opened(tmp_path).logs["parameter"].folder
    files = sorted(
        [
            log / "checkpoint",
            log / "tile/entries/000",
            log / "tile/0/000",
            log / "tile/entries/001.p/44",
            log / "tile/0/001.p/44",
            log / "tile/entries/001.p/14",
            log / "tile/0/001.p/14",
            log / "tile/1/000.p/1",
            tmp_path / "joint",
            tmp_path / "meta" / "checkpoint",
            tmp_path / "dataset" / "checkpoint",
        ]
    )
    chance = random.Random(1)
    for _ in range(200):
        path = chance.choice(files)
        good = path.read_bytes()
        bad = bytearray(good)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        path.write_bytes(bad)
        with pytest.raises(IntegrityFault, match=str(path)):
            opened(tmp_path).verify()
        path.write_bytes(good)
    opened(tmp_path).verify()


@pytest.mark.parametrize("lost", ["joint", "meta/checkpoint", "parameter/checkpoint", "meta", "parameter", "dataset"])
def test_what_a_chain_lost_is_named_and_never_begun_anew(tmp_path: Path, lost: str) -> None:
    """A second history under the same key must never begin over the first."""
    filled(tmp_path, 2)
    path = tmp_path / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(IntegrityFault, match=str(path)):
        opened(tmp_path)


def test_an_older_chain_under_a_newer_promise_is_refused(tmp_path: Path) -> None:
    """Rightly signed as it is."""
    chains = filled(tmp_path, 1)
    shutil.copytree(tmp_path / "parameter", tmp_path / "older")
    add_experts(chains, "m", range(1, 3))
    shutil.rmtree(tmp_path / "parameter")
    (tmp_path / "older").rename(tmp_path / "parameter")
    with pytest.raises(IntegrityFault, match="parameter/tile"):
        opened(tmp_path)


def test_every_chain_begins_with_a_checkpoint_of_nothing(tmp_path: Path) -> None:
    """All three are promised empty before the genesis; a crash at any write of that is taken up again."""
    opened(tmp_path).start(KEY, now)
    raw = (tmp_path / "dataset" / "checkpoint").read_bytes()
    found = parse_checkpoint(raw, f"blyan/{network_of(KEY.public)}/dataset", KEY.public)
    assert (found.size, found.root) == (0, hashlib.sha256(b"").digest())


@pytest.mark.parametrize("writes", range(8))
def test_a_crash_while_the_chains_begin_is_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """The empty promise, three notes of it, then bundle, tile, promise and note of the genesis: stop before each."""
    done: list[Path] = []

    def stop_after(target: Path, data: bytes, mode: int = 0o644, write=durable.write_file) -> None:
        if len(done) == writes:
            raise KeyboardInterrupt
        done.append(target)
        write(target, data, mode)

    monkeypatch.setattr(durable, "write_file", stop_after)
    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path).start(KEY, now)
    monkeypatch.undo()
    filled(tmp_path, 2)
    assert [report.size for report in opened(tmp_path).verify()] == [1, 2, 0]


def test_after_a_failed_write_a_log_takes_nothing_until_it_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rename went through, its fsync did not: another checkpoint of that size must not be signed."""
    chains = filled(tmp_path, 3)
    genesis = chains.start(KEY, now)

    def fail(folder: Path, fsync=durable.fsync_folder) -> None:
        if folder.name == "parameter":
            raise OSError(errno.EIO, "disk")
        fsync(folder)

    monkeypatch.setattr(durable, "fsync_folder", fail)
    with pytest.raises(OSError, match="disk"):
        add_experts(chains, "m", range(3, 4))
    monkeypatch.undo()
    with pytest.raises(Unavailable, match="open"):
        chains.publish(KEY)
    with pytest.raises(Unavailable, match="open"):
        chains.append(ExpertBody("m", 1, 1), (genesis,), BLOCK, KEY, now)
    again = opened(tmp_path)
    assert again.logs["parameter"].checkpoint.size == 4
    add_experts(again, "m", range(4, 5))
    assert opened(tmp_path).verify()[1].size == 5


def test_a_reader_keeps_its_view_while_a_writer_fills_its_tiles(tmp_path: Path) -> None:
    """Where a partial tile is gone, the beginning of the full one says the same (C2SP tlog-tiles)."""
    filled(tmp_path, 44)
    reader = opened(tmp_path).logs["parameter"]
    before = list(reader.entries(0, 44)), reader.node(2, 10), verify_tiles(reader)
    add_experts(opened(tmp_path), "m", range(44, 300))
    assert not (tmp_path / "parameter/tile/entries/000.p").exists()
    assert (list(reader.entries(0, 44)), reader.node(2, 10), verify_tiles(reader)) == before


@pytest.mark.parametrize("changes", [{"network": "local-1"}, {"author": OTHER.public}])
def test_a_genesis_of_another_network_or_author_is_damage(tmp_path: Path, changes: dict[str, str]) -> None:
    """Even under the node's own checkpoint."""
    chains = opened(tmp_path)
    chains.publish(KEY)
    ours = Entry(network_of(KEY.public), KEY.public, 0, (), GenesisBody(1), None, now())
    genesis = replace(ours, **changes)  # pyright: ignore[reportArgumentType]
    chains.logs["meta"].stage(genesis.signed(OTHER if "author" in changes else KEY).encode())
    chains.publish(KEY)
    with pytest.raises(IntegrityFault, match="genesis"):
        opened(tmp_path)


def test_another_key_may_read_the_chains_and_not_write_them(tmp_path: Path) -> None:
    """Only the sequencer that the chains name appends and commits."""
    genesis = filled(tmp_path, 1).newest("meta")
    chains = opened(tmp_path, OTHER)
    assert (chains.network, chains.logs["parameter"].size) == (network_of(KEY.public), 1)
    with pytest.raises(Denied, match=KEY.public):
        chains.append(ExpertBody("m", 0, 1), (genesis,), BLOCK, OTHER, now)
    with pytest.raises(Denied):
        chains.publish(OTHER)
    assert chains.logs["parameter"].size == 1


def test_checkpoints_are_signed_notes() -> None:
    """Frozen vector of a C2SP checkpoint, and what is no such checkpoint."""
    checkpoint = Checkpoint("blyan/local-x/meta", 7, Digest(bytes(32)))
    raw = sign_checkpoint(checkpoint, KEY)
    assert raw.decode().startswith(f"blyan/local-x/meta\n7\n{'A' * 43}=\n\n— blyan/local-x/meta ")
    assert parse_checkpoint(raw, "blyan/local-x/meta", KEY.public) == checkpoint
    huge = sign_checkpoint(replace(checkpoint, size=limits.chain_size_max + 1), KEY)
    for bad in (raw[:-10], raw.replace(b"\n7\n", b"\n8\n"), raw.replace(b"\n7\n", b"\n07\n"), b"", raw * 20, huge):
        with pytest.raises(IntegrityFault):
            parse_checkpoint(bad, "blyan/local-x/meta", KEY.public)
    with pytest.raises(IntegrityFault):
        parse_checkpoint(raw, "blyan/local-x/parameter", KEY.public)


LIES = {
    "nothing": {"parameter_size": 0, "parameter_root": hashlib.sha256(b"").hexdigest()},
    "more than there is": {"parameter_size": 6},
    "an older size": {"parameter_size": 4},
    "another root": {"parameter_root": "ab" * 32},
}


@pytest.mark.parametrize("case", LIES)
def test_a_model_entry_cannot_lie_about_the_parameter_chain(tmp_path: Path, case: str) -> None:
    """Size and root are those of the parameter chain up to its newest entry among the parents."""
    chains = filled(tmp_path, 5)
    before = replace(chains.logs["meta"].checkpoint), chains.logs["meta"].size
    with pytest.raises(EntryRefused, match="parameter"):
        add_model(chains, replace(model_of(chains), **LIES[case]))  # pyright: ignore[reportArgumentType]
    assert (chains.logs["meta"].checkpoint, chains.logs["meta"].size) == before
    with pytest.raises(EntryRefused, match="parameter"):
        chains.append(model_of(chains), (chains.start(KEY, now),), BLOCK, KEY, now)


def test_a_published_lie_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening asks `validity` again."""
    chains = filled(tmp_path, 5)
    monkeypatch.setattr("blyan.chain.validity.check", lambda *_: None)
    add_model(chains, replace(model_of(chains), parameter_root="ab" * 32))
    monkeypatch.undo()
    with pytest.raises(IntegrityFault, match="parameter root"):
        opened(tmp_path)


def test_models_are_checked_against_the_size_they_were_published_at(tmp_path: Path) -> None:
    """On opening, the parameter chain is folded further than an older model entry knew."""
    chains = filled(tmp_path, 0)
    for number, size in enumerate([1, 3, 255, 256, 300]):
        add_experts(chains, "m", range(chains.logs["parameter"].size, size))
        add_model(chains, model_of(chains, f"1.{number}.0"))
    again = opened(tmp_path)
    assert encode(again.state) == encode(chains.state)
    assert [version.parameter_size for version in again.state.models["m"]] == [1, 3, 255, 256, 300]


@pytest.mark.parametrize(
    "body", [ExpertBody("no such name", 0, 0), ExpertBody("m", -1, 0), ExpertBody("m", 0, 1 << 53)]
)
def test_what_could_not_be_read_back_is_never_staged(tmp_path: Path, body: ExpertBody) -> None:
    """Opening the chains would fail on it for ever."""
    chains = filled(tmp_path, 1)
    with pytest.raises(InvalidInput):
        chains.append(body, (chains.newest("meta"),), BLOCK, KEY, now)
    chains.publish(KEY)
    assert opened(tmp_path).verify()[1].size == 1


@pytest.mark.parametrize(
    "name", ["joint", "held", "meta/checkpoint", "parameter/tile/0/000", "parameter/tile/entries/000"]
)
def test_a_symbolic_link_in_the_place_of_a_file_is_named_and_never_followed(tmp_path: Path, name: str) -> None:
    """Not even to the right bytes; nothing removes it, for it is news."""
    filled(tmp_path, 300)
    path = tmp_path / name
    aside = tmp_path / "aside"
    path.rename(aside) if path.exists() else aside.write_bytes(b"{}")
    path.symlink_to(aside)
    with pytest.raises(IntegrityFault, match=str(path)):
        opened(tmp_path).verify()
    assert path.is_symlink()


def test_a_planted_link_is_not_served_as_a_tile(tmp_path: Path) -> None:
    """Whatever it points to; clearing up after a crash leaves it to be found."""
    chains = filled(tmp_path, 300)
    chains.snapshot(KEY)
    (tmp_path / "secret").write_bytes(b"secret")
    for name in ("0/000", "entries/000.p/7", "entries/x001/001"):
        path = tmp_path / "parameter/tile" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(tmp_path / "secret")
        assert opened(tmp_path).logs["parameter"].tile_file(name) is None
    opened(tmp_path).recover(KEY)
    assert (tmp_path / "parameter/tile/0/000").is_symlink()
    assert (tmp_path / "secret").read_bytes() == b"secret"
