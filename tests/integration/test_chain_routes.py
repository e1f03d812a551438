"""The chains over HTTP: static tiles a client can verify with nothing but hashes and the node's key."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from yarl import URL

from blyan.chain.checkpoint import parse_checkpoint
from blyan.chain.entries import ExpertBody, PayloadReference
from blyan.chain.joint import parse_joint
from blyan.chain.merkle import RightEdge, leaf_hash
from blyan.chain.proofs import check_consistency, check_inclusion
from blyan.chain.sequencer import Draft
from blyan.primitives import canonical
from blyan.primitives.errors import IntegrityFault
from blyan.primitives.ids import PayloadId
from blyan.primitives.keys import Key
from nodes import SEED, command, json_of, serving, writing

COUNT = 300


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain")
    block = PayloadReference(PayloadId("cd" * 32), 4096, "application/vnd.blyan.tensorblock")
    with writing(folder) as ground:
        genesis = ground.chains.newest("meta")
        ground.sequencer.submit([Draft(ExpertBody("m", 0, n), (genesis,), block) for n in range(COUNT)]).result()
    return folder


@pytest.fixture
async def client(data_dir: Path) -> AsyncIterator[TestClient]:
    async with serving(data_dir) as made:
        yield made


async def test_tiles_and_checkpoint_are_all_a_mirror_needs(client: TestClient) -> None:
    """Bundles hash to the tiles, tiles to the root, and the note is signed; tiles are immutable."""
    note = await (await client.get("/chain/parameter/checkpoint")).read()
    key = Key.from_seed(SEED)
    checkpoint = parse_checkpoint(note, f"blyan/local-{key.public[:16]}/parameter", key.public)
    edge = RightEdge()
    for name in ("000", f"001.p/{COUNT - 256}"):
        bundle = await client.get(f"/chain/parameter/tile/entries/{name}")
        assert "immutable" in bundle.headers["Cache-Control"]
        raw, at, leaves = await bundle.read(), 0, list[bytes]()
        while at < len(raw):
            length = int.from_bytes(raw[at : at + 2], "big")
            leaves.append(leaf_hash(raw[at + 2 : at + 2 + length]))
            at += 2 + length
        assert await (await client.get(f"/chain/parameter/tile/0/{name}")).read() == b"".join(leaves)
        for leaf in leaves:
            edge.append(leaf)  # pyright: ignore[reportArgumentType]
    assert (edge.size, edge.root()) == (checkpoint.size, checkpoint.root)


async def test_an_empty_chain_promises_that_it_is_empty(client: TestClient) -> None:
    """Size 0 and the root of nothing, signed."""
    note = await (await client.get("/chain/dataset/checkpoint")).read()
    key = Key.from_seed(SEED)
    checkpoint = parse_checkpoint(note, f"blyan/local-{key.public[:16]}/dataset", key.public)
    assert (checkpoint.size, checkpoint.root) == (0, RightEdge().root())


@pytest.mark.parametrize(("index", "size"), [(0, COUNT), (255, COUNT), (299, COUNT), (7, 100), (0, 1)])
async def test_a_proof_verifies_from_hashes_alone(client: TestClient, index: int, size: int) -> None:
    """Against the checkpoint's root, or against an older size's."""
    found = await (await client.get(f"/chain/parameter/proof?index={index}&size={size}")).json()
    raw = canonical.encode(found["entry"])
    assert leaf_hash(raw).hex() == found["leaf"]
    edge = RightEdge()
    every = [await (await client.get(f"/chain/parameter/entries?from={begin}")).json() for begin in (0, 256)]
    for entry in [entry for part in every for entry in part["entries"]][:size]:
        edge.append(leaf_hash(canonical.encode(entry)))
    check_inclusion(leaf_hash(raw), index, size, [bytes.fromhex(beside) for beside in found["path"]], edge.root())


def consistency_holds(found: dict[str, Any]) -> None:
    path = [bytes.fromhex(beside) for beside in found["path"]]
    first, second = bytes.fromhex(found["from_root"]), bytes.fromhex(found["to_root"])
    check_consistency(found["from"], first, found["to"], second, path)


@pytest.mark.parametrize(("begin", "end"), [(1, COUNT), (255, 257), (256, COUNT), (100, 100), (7, 250)])
async def test_a_consistency_proof_verifies_from_hashes_alone(client: TestClient, begin: int, end: int) -> None:
    """Against the roots of both sizes, computed from the leaves; one that was tampered with is refused."""
    answer = await client.get(f"/chain/parameter/consistency?from={begin}&to={end}")
    assert "immutable" in answer.headers["Cache-Control"]
    found = await answer.json()
    consistency_holds(found)
    every = [await (await client.get(f"/chain/parameter/entries?from={at}")).json() for at in (0, 256)]
    leaves = [leaf_hash(canonical.encode(entry)) for part in every for entry in part["entries"]]
    for size, root in ((begin, found["from_root"]), (end, found["to_root"])):
        edge = RightEdge()
        for leaf in leaves[:size]:
            edge.append(leaf)
        assert edge.root().hex() == root
    tampered = [found | {"from_root": "00" * 32}, found | {"to_root": "00" * 32}, found | {"path": ["00" * 32]}]
    tampered += [found | {"path": [*found["path"], "00" * 32]}]
    tampered += [
        found | {"path": [*found["path"][:n], "00" * 32, *found["path"][n + 1 :]]} for n in range(len(found["path"]))
    ]
    for bad in tampered:
        with pytest.raises(IntegrityFault):
            consistency_holds(bad)


async def test_a_consistency_proof_up_to_now_is_not_kept_in_a_cache(client: TestClient) -> None:
    """The next commit makes it another one."""
    answer = await client.get("/chain/parameter/consistency?from=9")
    assert (answer.headers["Cache-Control"], (await answer.json())["to"]) == ("no-cache", COUNT)


async def test_the_joint_checkpoint_is_served_as_it_was_signed(client: TestClient, data_dir: Path) -> None:
    """The bytes on disk, which a client checks with the node's key alone."""
    answer = await client.get("/chain/joint")
    raw = await answer.read()
    assert raw == (data_dir / "chain/joint").read_bytes()
    assert (answer.headers["Cache-Control"], answer.content_type) == ("no-cache", "application/json")
    promised = parse_joint(raw, Path("/chain/joint"))
    assert (promised.author, promised.sizes["parameter"]) == (Key.from_seed(SEED).public, COUNT)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/chain/other/checkpoint", 404),
        ("/chain/parameter/tile/0/002", 404),
        ("/chain/parameter/tile/0/001.p/45", 404),
        ("/chain/parameter/tile/0/001.p/0", 404),
        ("/chain/parameter/tile/0/1", 404),
        ("/chain/parameter/tile/0/x000/000", 404),
        ("/chain/parameter/tile/9/000", 404),
        ("/chain/parameter/tile/..%2f..%2fmeta/checkpoint", 404),
        ("/chain/parameter/entries?from=301", 400),
        ("/chain/parameter/entries?from=0&to=257", 400),
        ("/chain/parameter/entries?from=5&to=4", 400),
        ("/chain/parameter/entries?from=-1", 400),
        ("/chain/parameter/entries?from=" + "9" * 400, 400),
        ("/chain/parameter/proof", 400),
        ("/chain/parameter/proof?index=300", 400),
        ("/chain/parameter/proof?index=5&size=5", 400),
        ("/chain/parameter/proof?index=0&size=301", 400),
        ("/chain/dataset/proof?index=0", 400),
        ("/chain/parameter/consistency", 400),
        ("/chain/parameter/consistency?from=0", 400),
        ("/chain/parameter/consistency?from=9&to=8", 400),
        ("/chain/parameter/consistency?from=9&to=301", 400),
        ("/chain/dataset/consistency?from=0&to=0", 400),
        ("/chain/other/consistency?from=1&to=1", 404),
    ],
)
async def test_nothing_else_is_served(client: TestClient, path: str, status: int) -> None:
    """Beyond the checkpoint, outside the folder, in another spelling."""
    response = await client.session.get(URL(str(client.make_url("/")).rstrip("/") + path, encoded=True))
    assert response.status == status
    assert json.loads(await response.read())["error"]["message"]


async def test_what_a_crash_left_beyond_the_checkpoint_is_not_served(client: TestClient, data_dir: Path) -> None:
    """A wider partial tile on disk is not a promise."""
    folder = data_dir / "chain/parameter/tile/0/001.p"
    (folder / "45").write_bytes(bytes(45 * 32))
    try:
        assert (await client.get("/chain/parameter/tile/0/001.p/45")).status == 404
        assert (await client.get("/chain/parameter/tile/0/001.p/44")).status == 200
    finally:
        (folder / "45").unlink()


def test_prove_on_the_command_line(data_dir: Path) -> None:
    """The proof is checked before it is printed; a number beyond the chain is refused."""
    found = json_of("chain", "prove", "parameter", "299", data_dir=data_dir)
    path = [bytes.fromhex(beside) for beside in found["path"]]
    check_inclusion(bytes.fromhex(found["leaf"]), 299, COUNT, path, bytes.fromhex(found["root"]))
    assert command("chain", "prove", "parameter", "300", data_dir=data_dir).returncode == 1
    assert command("chain", "prove", "other", "0", data_dir=data_dir).returncode == 2


def test_prove_consistency_on_the_command_line(data_dir: Path) -> None:
    """As over HTTP; what is no question, or one beyond the chain, is refused."""
    consistency_holds(json_of("chain", "prove", "parameter", "--from", "7", "--to", "250", data_dir=data_dir))
    assert json_of("chain", "prove", "parameter", "--from", "7", data_dir=data_dir)["to"] == COUNT
    for arguments, code in (
        (["--from", "0"], 1),
        (["--from", "301"], 1),
        (["--from", "9", "--to", "8"], 1),
        (["--from", "9", "--to", "301"], 1),
        ([], 2),
        (["5", "--from", "9"], 2),
        (["--to", "9"], 2),
    ):
        assert command("chain", "prove", "parameter", *arguments, data_dir=data_dir).returncode == code
