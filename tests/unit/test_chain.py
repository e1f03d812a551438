"""Chains: what was published is provable, what was not may not appear, and damage has a name."""

import hashlib
import random
import shutil
from pathlib import Path

import pytest

from blyan.chain.chains import Chains
from blyan.chain.checkpoint import Checkpoint, parse_checkpoint, sign_checkpoint
from blyan.chain.entries import (
    Entry,
    ExpertBody,
    GenesisBody,
    ModelBody,
    PayloadReference,
    TokenizerBody,
    TrunkBody,
    parse_entry,
)
from blyan.chain.merkle import Digest, RightEdge, leaf_hash
from blyan.chain.state import State
from blyan.chain.validity import check
from blyan.primitives.errors import EntryRefused, IntegrityFault, MalformedEntry
from blyan.primitives.ids import EntryId, PayloadId
from blyan.primitives.keys import Key

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


def filled(folder: Path, count: int) -> Chains:
    chains = Chains(folder, KEY.public)
    genesis = chains.start(KEY, now)
    for number in range(count):
        chains.append(ExpertBody("m", 0, number), (genesis,), BLOCK, KEY, now)
    chains.publish(KEY)
    return chains


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
    chains.append(ModelBody("m", "1.0.0", "qwen3_moe", 301, "ab" * 32), (chains.newest("parameter"),), BLOCK, KEY, now)
    chains.publish(KEY)
    again = Chains(tmp_path, KEY.public)
    assert again.logs["parameter"].checkpoint == chains.logs["parameter"].checkpoint
    assert again.state == chains.state
    reports = {report.chain: report for report in again.verify()}
    assert (reports["meta"].size, reports["parameter"].signatures, reports["dataset"].size) == (2, 301, 0)
    entries = list(again.logs["parameter"].entries(0, 301))
    assert naive_root(entries).hex() == reports["parameter"].root


def test_what_was_staged_and_not_published_is_gone(tmp_path: Path) -> None:
    """Only a checkpoint makes entries visible."""
    chains = filled(tmp_path, 3)
    chains.append(ExpertBody("m", 9, 9), (chains.newest("parameter"),), BLOCK, KEY, now)
    assert Chains(tmp_path, KEY.public).logs["parameter"].checkpoint.size == 3


@pytest.mark.parametrize(("kept", "count"), [(1, 3), (255, 256), (256, 300)])
def test_leftovers_of_a_crash_before_the_checkpoint_are_overwritten(tmp_path: Path, kept: int, count: int) -> None:
    """Bundles and tiles beyond the checkpoint belong to nobody; other entries may take their place."""
    filled(tmp_path / "a", kept)
    before = (tmp_path / "a" / "parameter" / "checkpoint").read_bytes()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    chains = Chains(tmp_path / "b", KEY.public)
    for number in range(kept, count):
        chains.append(ExpertBody("lost", 0, number), (chains.newest("parameter"),), BLOCK, KEY, now)
    chains.publish(KEY)
    for path in (tmp_path / "b" / "parameter").rglob("*"):  # everything but the commit reached the disk
        if path.is_file() and path.name != "checkpoint":
            target = tmp_path / "a" / "parameter" / path.relative_to(tmp_path / "b" / "parameter")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    assert (tmp_path / "a" / "parameter" / "checkpoint").read_bytes() == before
    chains = Chains(tmp_path / "a", KEY.public)
    assert chains.logs["parameter"].checkpoint.size == kept
    for number in range(kept, count):
        chains.append(ExpertBody("found", 0, number), (chains.newest("parameter"),), BLOCK, KEY, now)
    chains.publish(KEY)
    assert Chains(tmp_path / "a", KEY.public).verify()[1].size == count


def test_any_flipped_bit_of_what_a_checkpoint_promises_is_found(tmp_path: Path) -> None:
    """Entries, hash tiles and checkpoints: 200 random flips, each an `IntegrityFault`."""
    filled(tmp_path, 300)
    log = Chains(tmp_path, KEY.public).logs["parameter"].folder
    files = sorted(
        [
            log / "checkpoint",
            log / "tile/entries/000",
            log / "tile/0/000",
            log / "tile/entries/001.p/44",
            log / "tile/0/001.p/44",
            log / "tile/1/000.p/1",
            tmp_path / "meta" / "checkpoint",
        ]
    )
    chance = random.Random(1)
    for _ in range(200):
        path = chance.choice(files)
        good = path.read_bytes()
        bad = bytearray(good)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        path.write_bytes(bad)
        with pytest.raises(IntegrityFault):
            Chains(tmp_path, KEY.public).verify()
        path.write_bytes(good)
    Chains(tmp_path, KEY.public).verify()


def test_a_chain_that_lost_its_entries_is_refused(tmp_path: Path) -> None:
    """A missing parameter chain leaves the model's parents unknown."""
    chains = filled(tmp_path, 2)
    chains.append(ModelBody("m", "1.0.0", "qwen3_moe", 2, "ab" * 32), (chains.newest("parameter"),), BLOCK, KEY, now)
    chains.publish(KEY)
    shutil.rmtree(tmp_path / "parameter")
    with pytest.raises(IntegrityFault, match="unknown ones at the head of meta"):
        Chains(tmp_path, KEY.public)


def test_another_key_cannot_have_written_the_log(tmp_path: Path) -> None:
    """Checkpoints are read against the node's own key."""
    filled(tmp_path, 1)
    with pytest.raises(IntegrityFault):
        Chains(tmp_path, OTHER.public)


def test_checkpoints_are_signed_notes() -> None:
    """Frozen vector of a C2SP checkpoint, and what is no such checkpoint."""
    checkpoint = Checkpoint("blyan/local-x/meta", 7, Digest(bytes(32)))
    raw = sign_checkpoint(checkpoint, KEY)
    assert raw.decode().startswith(f"blyan/local-x/meta\n7\n{'A' * 43}=\n\n— blyan/local-x/meta ")
    assert parse_checkpoint(raw, "blyan/local-x/meta", KEY.public) == checkpoint
    for bad in (raw[:-10], raw.replace(b"\n7\n", b"\n8\n"), raw.replace(b"\n7\n", b"\n07\n"), b"", raw * 20):
        with pytest.raises(IntegrityFault):
            parse_checkpoint(bad, "blyan/local-x/meta", KEY.public)
    with pytest.raises(IntegrityFault):
        parse_checkpoint(raw, "blyan/local-x/parameter", KEY.public)


def entry(**changes: object) -> Entry:
    values: dict[str, object] = {
        "network": "local-1",
        "author": KEY.public,
        "nonce": 0,
        "parents": (EntryId("ee" * 32),),
        "body": ExpertBody("m", 1, 2),
        "payload": BLOCK,
        "time": now(),
    }
    return Entry(**(values | changes)).signed(KEY)  # pyright: ignore[reportArgumentType]


def test_entries_round_trip_and_their_ids_never_change() -> None:
    """Frozen vector of an entry's id; reading gives the value back."""
    made = entry()
    assert parse_entry(made.encode()) == made
    made.verify_signature()
    assert made.id == "e24e99875953323326633a98eb41cf3e8668648249d5c32901061b96eb3c18db"


def test_a_changed_entry_does_not_verify() -> None:
    """The signature covers every field."""
    raw = entry().encode().replace(b'"expert":2', b'"expert":3')
    with pytest.raises(IntegrityFault):
        parse_entry(raw).verify_signature()


@pytest.mark.parametrize(
    ("found", "changed"),
    [
        (b'"v":1', b'"v":2'),
        (b'"type":"expert"', b'"type":"code"'),
        (b'"chain":"parameter"', b'"chain":"meta"'),
        (b'"nonce":0', b'"nonce":-1'),
        (b'"nonce":0', b'"nonce":true'),
        (b'"expert":2', b'"expert":"2"'),
        (b'"expert":2', b'"expert":2,"more":1'),
        (b'"model":"m"', b'"model":"../m"'),
        (b'"media":"application/vnd.blyan.tensorblock"', b'"media":"a b"'),
        (b'"bytes":4096', b'"bytes":0'),
        (b'"network":"local-1"', b'"network":""'),
        (b'{"author"', b'{"another":1,"author"'),
    ],
)
def test_malformed_entries_are_refused(found: bytes, changed: bytes) -> None:
    """Each differs from a good entry in one field."""
    raw = entry().encode()
    assert found in raw
    with pytest.raises(MalformedEntry):
        parse_entry(raw.replace(found, changed))


def test_entries_above_32_kib_are_refused_unread() -> None:
    """The limit holds for writing and for reading."""
    with pytest.raises(MalformedEntry):
        parse_entry(b" " * 32_769)


def test_a_genesis_has_no_payload_and_a_weight_has_one() -> None:
    """Which types name a blob is part of the type."""
    raw = entry().encode()
    start = raw.index(b'"payload"')
    with pytest.raises(MalformedEntry, match="payload"):
        parse_entry(raw[:start] + raw[raw.index(b'"sig"') :])


def accepted() -> State:
    state = State()
    genesis = entry(body=GenesisBody(1), payload=None, parents=())
    check(genesis, state)
    state.apply(genesis, EntryId("ee" * 32))
    return state


REFUSED = {
    "second genesis": entry(body=GenesisBody(1), payload=None, parents=(), nonce=1),
    "another network": entry(network="local-2"),
    "another author": Entry("local-1", OTHER.public, 0, (EntryId("ee" * 32),), ExpertBody("m", 1, 2), BLOCK, 1),
    "no parent": entry(parents=()),
    "unknown parent": entry(parents=(EntryId("aa" * 32),)),
    "nonce used before": entry(body=ModelBody("m", "1.0.0", "qwen3_moe", 1, "ab" * 32), nonce=0),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_may_not_follow_is_refused(case: str) -> None:
    """Validity denies by default."""
    with pytest.raises(EntryRefused):
        check(REFUSED[case], accepted())


def test_nothing_may_precede_the_genesis() -> None:
    """An empty network accepts a genesis and nothing else."""
    with pytest.raises(EntryRefused, match="genesis"):
        check(entry(), State())


def test_versions_of_a_model_only_rise() -> None:
    """SemVer order, not text order."""
    state = accepted()
    first = entry(body=ModelBody("m", "1.9.0", "qwen3_moe", 1, "ab" * 32), nonce=1)
    state.apply(first, first.id)
    check(entry(body=ModelBody("m", "1.10.0", "qwen3_moe", 1, "ab" * 32), nonce=2), state)
    with pytest.raises(EntryRefused, match=r"above 1\.9\.0, found 1\.2\.0"):
        check(entry(body=ModelBody("m", "1.2.0", "qwen3_moe", 1, "ab" * 32), nonce=2), state)


def test_state_knows_the_newest_block_of_each_part() -> None:
    """Trunk, expert and tokenizer entries fold into (model, part)."""
    state = accepted()
    for body in (TrunkBody("m", "layer.3"), ExpertBody("m", 3, 4), TokenizerBody("m")):
        made = entry(body=body)
        state.apply(made, made.id)
    assert set(state.parts) == {("m", "layer.3"), ("m", "layer.3.expert.4"), ("m", "tokenizer")}
