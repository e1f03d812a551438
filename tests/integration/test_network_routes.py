"""The routes that say what a node knows of its swarm: two real nodes, one without half of the experts."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from aiohttp.test_utils import TestClient

from blyan.api import network_schemas, schemas
from blyan.api.state import node_key
from blyan.node.swarm_secret import write_swarm
from blyan.primitives.ids import PublicKey
from nodes import install_builtin, serving, serving_with
from swarm_in_process import SOURCES
from swarm_nodes import CODE, SECRET, part_of_builtin, room_for

MODEL = "blyan-genesis"
Folders = tuple[Path, Path, str]
OPEN: dict[str, object] = {"listen": "127.0.0.1:0"}


async def json_at(client: TestClient, path: str) -> Any:
    answer = await client.get(path)
    assert answer.status == 200, await answer.text()
    return await answer.json()


async def until(client: TestClient, true: Callable[[Any], bool]) -> Any:
    """What /network/nodes says once it is so."""
    async with asyncio.timeout(15):
        while True:
            said = await json_at(client, "/network/nodes")
            if true(said):
                return said
            await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Experts 0 to 4 with the trunk; experts 3 to 7 and nothing else; what those take."""
    base = tmp_path_factory.mktemp("swarm")
    part_of_builtin(base / "gateway", lambda _, expert: expert < 5, trunk=True)
    manifest = part_of_builtin(base / "expert", lambda _, expert: expert >= 3, trunk=False)
    return base / "gateway", base / "expert", room_for(base / "expert", manifest)


@pytest.fixture
async def two(folders: Folders) -> AsyncIterator[tuple[TestClient, TestClient]]:
    """Both, with a link between them; neither takes more than it has."""
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(serving_with(SOURCES, folders[0], network=OPEN))
        (url,) = (await json_at(gateway, "/network/nodes"))["self"]["urls"]
        other = {**OPEN, "join": (f"{url}#{CODE}",), "roles": ("expert",), "memory": folders[2]}
        expert = await stack.enter_async_context(serving_with(SOURCES, folders[1], network=other))
        await until(gateway, lambda said: said["linked"] == 1 and said["peers"][0]["rtt_seconds"] is not None)
        yield gateway, expert


async def ask(client: TestClient) -> str:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "12 + 34"}], "temperature": 0}
    answer = await (await client.post("/v1/chat/completions", json=body)).json()
    return answer["choices"][0]["message"]["content"]


async def test_nodes_says_what_was_measured_of_a_peer_and_why_it_is_asked(two: tuple[TestClient, TestClient]) -> None:
    gateway, expert = two
    assert await ask(gateway) == "12 + 34 = 46"
    said = await json_at(gateway, "/network/nodes")
    jsonschema.validate(said, network_schemas.nodes)
    (peer,) = said["peers"]
    theirs = (await json_at(expert, "/network/nodes"))["self"]
    assert peer["node"] == theirs["node"]
    assert peer["calls"] == theirs["answered"]["messages"] == said["self"]["asked"]["messages"] > 0
    assert peer["rows"] == theirs["answered"]["rows"]
    assert (peer["share"], peer["breaker"], peer["link"]["dialled"]) == (1.0, "closed", False)
    assert peer["seconds"] > 0 < peer["rtt_seconds"]
    assert peer["rows_per_s"] > 0 < peer["expert_bytes"]
    peering = gateway.server.app[node_key].peering
    big = partial(peering.registry.measurements.transferred, PublicKey(peer["node"]), 8_000_000, 4.0, 1.0)
    await asyncio.wrap_future(peering.ask(big))
    (again,) = (await json_at(gateway, "/network/nodes"))["peers"]
    assert again["bytes_per_s"] == 2_000_000, "large transfers tell of it, and single tokens do not"
    assert peer["reason"]["code"] in ("share", "newcomer")
    assert peer["holds"] == [
        {"model": MODEL, "manifest": said["models"][0]["manifest"], "trunk": False, "experts": 4 * 5}
    ]
    (model,) = said["models"]
    assert (model["here"], model["experts"], model["trunk"], model["alone"]) == (20, 32, True, 12)
    assert (model["nobody"], model["missing"]) == (0, [])


async def test_experts_says_who_holds_each_and_calls_nothing_corrupt_that_is_elsewhere_on_purpose(
    two: tuple[TestClient, TestClient],
) -> None:
    gateway, expert = two
    said = await json_at(gateway, f"/network/experts?model={MODEL}")
    jsonschema.validate(said, schemas.experts)
    assert [each["reachable"] for each in said["nodes"]] == [True]
    for block in said["blocks"]:
        number = block["expert"]
        assert block["here"] == (number is None or number < 5)
        assert block["nodes"] == ([0] if number is not None and number >= 3 else [])
        assert (block["state"] == "elsewhere") == (not block["here"])
        assert block["bad_subtiles"] == []
    other = await json_at(expert, f"/network/experts?model={MODEL}")
    assert {each["state"] for each in other["blocks"] if each["expert"] is None} == {"elsewhere"}


async def test_what_vanished_without_a_purpose_is_corrupt(tmp_path: Path) -> None:
    install_builtin(tmp_path)
    async with serving(tmp_path) as client:
        blocks = (await json_at(client, f"/network/experts?model={MODEL}"))["blocks"]
        lost = next(each for each in blocks if each["expert"] is not None)
        (tmp_path / lost["file"]).unlink()
        found = (await json_at(client, f"/network/experts?model={MODEL}"))["blocks"]
    assert [each["part"] for each in found if each["state"] == "corrupt"] == [lost["part"]]
    assert [each["part"] for each in found if not each["here"]] == [lost["part"]]


async def test_plan_says_who_would_be_asked_now(two: tuple[TestClient, TestClient]) -> None:
    gateway, _ = two
    said = await json_at(gateway, f"/network/plan?model={MODEL}")
    jsonschema.validate(said, network_schemas.plan)
    assert (said["type"], len(said["nodes"]), len(said["experts"])) == ("dynamic", 1, 32)
    assert {each["by"] for each in said["experts"] if each["expert"] < 5} == {"here"}
    assert {(each["by"], each["node"]) for each in said["experts"] if each["expert"] >= 5} == {("peer", 0)}


async def planned(client: TestClient, **request: int) -> Any:
    """What each plan should give, checked against its schema; predictions by plan."""
    query = "".join(f"&{name}={count}" for name, count in request.items())
    said = await json_at(client, f"/network/plan?model={MODEL}{query}")
    jsonschema.validate(said, network_schemas.plan)
    return said | {"predictions": {each["plan"]: each for each in said["predictions"]}}


async def measured(client: TestClient) -> Any:
    """The same once it has numbers for asking others."""
    async with asyncio.timeout(10):
        while True:
            said = await planned(client, prompt_tokens=20, tokens=12)
            if said["predictions"]["dynamic"]["tokens_per_s"] is not None:
                return said
            await asyncio.sleep(0.05)


async def test_plan_says_how_fast_it_should_be_and_how_far_off_that_was(two: tuple[TestClient, TestClient]) -> None:
    """Nothing before anything was measured; numbers, and after a few answers their error, later."""
    gateway, _ = two
    before = await planned(gateway)
    dynamic, local = before["predictions"]["dynamic"], before["predictions"]["local"]
    assert (before["chosen"], before["error"]["answers"]) == ("dynamic", 0)
    assert (dynamic["tokens_per_s"], dynamic["not_measured"]) == (None, ["steps of 128 tokens with other nodes"])
    assert (local["possible"], local["why"]) == (False, "12 experts are not here")
    for _ in range(4):
        assert await ask(gateway) == "12 + 34 = 46"
    said = await measured(gateway)
    dynamic = said["predictions"]["dynamic"]
    assert (dynamic["not_measured"], len(dynamic["nodes"]), dynamic["offered"]) == ([], 1, True)
    expected = dynamic["first_token_s"] + 11 / dynamic["tokens_per_s"]
    assert dynamic["seconds"] == pytest.approx(expected, rel=1e-4)
    assert 1 <= said["error"]["answers"] == said["error"]["plans"]["dynamic"]["answers"] <= 4


async def test_this_node_alone_is_faster_where_all_experts_are_here(folders: Folders, tmp_path: Path) -> None:
    """And that is said, though another node holds some of them too and answers over loopback."""
    install_builtin(tmp_path)
    write_swarm(tmp_path, SECRET)
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(serving_with(SOURCES, tmp_path, network=OPEN))
        (url,) = (await json_at(gateway, "/network/nodes"))["self"]["urls"]
        other = {**OPEN, "join": (f"{url}#{CODE}",), "roles": ("expert",), "memory": folders[2]}
        await stack.enter_async_context(serving_with(SOURCES, folders[1], network=other))
        await until(gateway, lambda said: said["linked"] == 1 and said["peers"][0]["rtt_seconds"] is not None)
        assert await ask(gateway) == "12 + 34 = 46"
        said = await measured(gateway)
    local, dynamic = said["predictions"]["local"], said["predictions"]["dynamic"]
    assert (said["chosen"], local["offered"], dynamic["offered"]) == ("local", True, False)
    assert said["said"].startswith("local: ")
    assert said["said"].endswith("dynamic")
    assert any("at most" in each for each in dynamic["assumed"])
    assert [said["predictions"][plan]["possible"] for plan in ("static_delegate", "pipeline")] == [False, False]


@pytest.mark.parametrize("query", ["tokens=0", "tokens=x", "prompt_tokens=-1", "prompt_tokens=99999999999"])
async def test_numbers_of_tokens_that_are_none_are_refused_by_name(folders: Folders, query: str) -> None:
    async with serving_with(SOURCES, folders[0], network=OPEN) as gateway:
        answer = await gateway.get(f"/network/plan?model={MODEL}&{query}")
        assert (answer.status, query.partition("=")[0] in (await answer.json())["error"]["message"]) == (400, True)


async def test_experts_that_nobody_holds_are_named_when_their_node_goes(folders: Folders) -> None:
    """In the state of the model and in the plan."""
    async with serving_with(SOURCES, folders[0], network=OPEN) as gateway:
        (model,) = (await json_at(gateway, "/network/nodes"))["models"]
        assert model["nobody"] == 12
        assert sorted(model["missing"]) == [[layer, expert] for layer in range(4) for expert in (5, 6, 7)]
        planned = (await json_at(gateway, f"/network/plan?model={MODEL}"))["experts"]
        assert {each["by"] for each in planned if each["expert"] >= 5} == {"nobody"}


async def test_a_node_that_drains_is_said_to_by_its_peers_and_left_alone(two: tuple[TestClient, TestClient]) -> None:
    """Where another has the expert; it is told to peers at once."""
    gateway, expert = two
    done = await expert.post("/network/drain", json={"draining": True})
    said = await done.json()
    assert not any(said.pop("left").values())
    assert (done.status, said) == (200, {"draining": True, "under_way": 0, "alone": 12})
    said = await until(gateway, lambda said: said["peers"][0]["reason"]["code"] == "draining")
    assert said["peers"][0]["draining"] is True
    assert await ask(gateway) == "12 + 34 = 46"  # nobody else has experts 5 to 7
    await expert.post("/network/drain", json={"draining": False})
    await until(gateway, lambda said: not said["peers"][0]["draining"])


async def test_only_loopback_names_may_drain_a_node_without_accounts(folders: Folders) -> None:
    """As other routes that change a node; what is malformed changes nothing."""
    sections: dict[str, dict[str, object]] = {
        "network": OPEN,
        "http": {"allowed_hosts": ("node.example",)},
    }
    async with serving_with(SOURCES, folders[0], **sections) as gateway:
        for body in ({}, {"draining": 1}, {"draining": True, "more": 1}):
            assert (await gateway.post("/network/drain", json=body)).status == 400
        wish = {"json": {"draining": True}, "headers": {"Host": "node.example"}}
        async with gateway.post("/network/drain", **wish) as answer:
            assert (answer.status, "loopback" in (await answer.json())["error"]["message"]) == (403, True)
        assert (await json_at(gateway, "/network/nodes"))["self"]["draining"] is False


async def test_a_node_without_a_peer_port_says_so(tmp_path: Path) -> None:
    """It is alone; its plan is local; there is nothing to drain."""
    install_builtin(tmp_path)
    async with serving(tmp_path) as client:
        said = await json_at(client, "/network/nodes")
        jsonschema.validate(said, network_schemas.nodes)
        assert (said["swarm"], said["self"], said["peers"]) == (None, None, [])
        planned = await json_at(client, f"/network/plan?model={MODEL}")
        jsonschema.validate(planned, network_schemas.plan)
        assert (planned["type"], {each["by"] for each in planned["experts"]}) == ("local", {"here"})
        moved = await json_at(client, "/network/moves")
        jsonschema.validate(moved, network_schemas.moves)
        assert (moved["node"], moved["role"], moved["moves"]) == (None, False, [])
        assert (await client.post("/network/drain", json={"draining": True})).status == 404
