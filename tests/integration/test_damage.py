"""A flipped bit in a stored block: never computed with, always named."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from blyan.primitives.limits import subtile_bytes
from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import command, import_into, serving

ASK: dict[str, Any] = {"model": "random", "prompt": "a long enough prompt to need every expert of a layer " * 3}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    save_random_checkpoint(tmp_path / "hf", vocab_size=260, moe_intermediate_size=800)  # experts of three subtiles
    save_byte_tokenizer(tmp_path / "hf")
    import_into(tmp_path / "data", tmp_path / "hf", "random")
    return tmp_path / "data"


async def blocks_of(client: TestClient) -> dict[str, dict[str, Any]]:
    grid = await (await client.get("/network/experts", params={"model": "random"})).json()
    return {block["part"]: block for block in grid["blocks"]}


def flip(data_dir: Path, block: dict[str, Any], at: int) -> None:
    path = data_dir / block["file"]
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0x10
    path.write_bytes(raw)


async def test_a_damaged_expert_is_refused_by_name_while_the_node_runs(data_dir: Path) -> None:
    """The change is seen at the next use: 503 with part, payload, file and subtile; streamed the same."""
    async with serving(data_dir) as client:
        assert (await client.post("/v1/completions", json=ASK)).status == 200
        block = (await blocks_of(client))["layer.2.expert.5"]
        assert block["state"] == "verified"
        flip(data_dir, block, subtile_bytes + 7)
        for stream in (False, True):
            response = await client.post("/v1/completions", json=ASK | {"stream": stream})
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (503, "block_corrupt")
            detail = error["detail"]
            assert (detail["part"], detail["layer"], detail["expert"]) == ("layer.2.expert.5", 2, 5)
            assert (detail["payload"], detail["bad_subtiles"]) == (block["payload"], [1])
            assert detail["file"].endswith(block["payload"])
        found = (await blocks_of(client))["layer.2.expert.5"]
        assert (found["state"], found["bad_subtiles"]) == ("corrupt", [1])


async def test_damage_in_the_middle_of_a_stream_ends_it_with_an_error_event(data_dir: Path) -> None:
    """What was sent stands; then the error, and no [DONE]."""
    asked = ASK | {"stream": True, "max_tokens": 300, "temperature": 0, "ignore_eos": True}
    async with serving(data_dir) as client:
        response = await client.post("/v1/completions", json=asked)
        await response.content.readline()
        for part, block in (await blocks_of(client)).items():
            if part.startswith("layer.3.expert"):
                flip(data_dir, block, 5)
        lines = (await response.read()).decode().strip().split("\n\n")
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "block_corrupt"


async def test_a_damaged_trunk_refuses_the_model_and_not_the_node(data_dir: Path) -> None:
    """The model is listed with the reason, /readyz says so, and repair needs no restart."""
    async with serving(data_dir) as client:
        block = (await blocks_of(client))["layer.1"]
    flip(data_dir, block, 4096)
    async with serving(data_dir) as client:
        card = await (await client.get("/v1/models/random")).json()
        assert card["blyan"]["state"] == "refused"
        assert "layer.1" in card["blyan"]["reason"]["message"]
        ready = await client.get("/readyz")
        assert ready.status == 503
        assert block["payload"] in await ready.text()
        assert (await client.get("/livez")).status == 200
        assert (await client.post("/v1/completions", json=ASK)).status == 503
        flip(data_dir, block, 4096)
        assert (await client.post("/v1/completions", json=ASK)).status == 200


async def test_damage_in_the_trunk_of_a_served_model_shows_in_its_card_and_readiness(data_dir: Path) -> None:
    """Once a request met it, the probes say so; once it is repaired, they say that."""
    async with serving(data_dir) as client:
        block = (await blocks_of(client))["layer.1"]
        assert (await client.post("/v1/completions", json=ASK)).status == 200
        flip(data_dir, block, 4096)
        assert (await client.post("/v1/completions", json=ASK)).status == 503
        assert (await client.get("/readyz")).status == 503
        card = await (await client.get("/v1/models/random")).json()
        assert (card["blyan"]["state"], card["blyan"]["reason"]["detail"]["part"]) == ("refused", "layer.1")
        flip(data_dir, block, 4096)
        assert (await client.get("/readyz")).status == 200
        assert (await client.post("/v1/completions", json=ASK)).status == 200


async def test_a_damaged_tokenizer_is_named_with_its_model(data_dir: Path) -> None:
    """Part and model stand in the detail, as for weights."""
    async with serving(data_dir) as client:
        block = (await blocks_of(client))["tokenizer"]
    flip(data_dir, block, 100)
    async with serving(data_dir) as client:
        error = (await (await client.post("/v1/completions", json=ASK)).json())["error"]
        assert (error["detail"]["model"], error["detail"]["part"]) == ("random", "tokenizer")


async def test_damage_is_found_in_the_background_before_anybody_asks(data_dir: Path) -> None:
    """With `verify_at_start` (the default) every block is hashed after the start."""
    async with serving(data_dir) as client:
        block = (await blocks_of(client))["layer.3.expert.6"]
        for _ in range(500):  # the background thread ends some time after the start
            if (data_dir / "verified").exists():
                break
            await asyncio.sleep(0.02)
    (remembered,) = (data_dir / "verified").iterdir()
    remembered.unlink()
    flip(data_dir, block, 9)
    async with serving(data_dir) as client:
        for _ in range(200):
            states = {part: found["state"] for part, found in (await blocks_of(client)).items()}
            if states["layer.3.expert.6"] == "corrupt" and "unverified" not in states.values():
                break
        assert [part for part, state in states.items() if state != "verified"] == ["layer.3.expert.6"]
    assert not list((data_dir / "verified").iterdir()), "a model with a damaged block is not called verified"


def test_verify_names_file_and_subtile_and_exits_7(data_dir: Path) -> None:
    """On the command line, for a model and for all, as text and as JSON; import repairs."""
    good = command("model", "verify", "random", data_dir=data_dir)
    assert (good.returncode, good.stderr.count("corrupt")) == (0, 0)
    payload = max((data_dir / "blobs").rglob("*"), key=lambda path: path.stat().st_size).name
    flip(data_dir, {"file": f"blobs/{payload[:2]}/{payload}"}, 2 * subtile_bytes + 1)
    for arguments in (["random"], ["--all"]):
        found = command("model", "verify", *arguments, "--json", data_dir=data_dir)
        assert found.returncode == 7
        assert f"subtile 2 of 3 does not match in {data_dir}/blobs/{payload[:2]}/{payload}" in found.stderr
        (corrupt,) = json.loads(found.stdout)["corrupt"]
        assert (corrupt["payload"], corrupt["bad_subtiles"]) == (payload, [2])
    assert command("chat", "hello", "--model", "random", data_dir=data_dir).returncode in (3, 7)
    repaired = command("model", "import", data_dir.parent / "hf", "--name", "random", data_dir=data_dir)
    assert (repaired.returncode, "was there already" in repaired.stdout) == (0, True)
    assert command("model", "verify", "--all", data_dir=data_dir).returncode == 0


def test_a_missing_block_and_a_damaged_manifest_are_named(data_dir: Path) -> None:
    """Exit 7, with what was expected where."""
    listed = json.loads(command("model", "list", "--json", data_dir=data_dir).stdout)
    manifest = listed[0]["manifest"]
    biggest = max((data_dir / "blobs").rglob("*"), key=lambda path: path.stat().st_size)
    biggest.rename(data_dir / "aside")
    missing = command("model", "verify", "random", data_dir=data_dir)
    assert missing.returncode == 7
    assert f"block {biggest.name} is not here" in missing.stderr
    (data_dir / "aside").rename(biggest)
    flip(data_dir, {"file": f"blobs/{manifest[:2]}/{manifest}"}, 20)
    damaged = command("model", "verify", "random", data_dir=data_dir)
    assert damaged.returncode == 7
    assert "random 1.0.0 manifest" in damaged.stderr
