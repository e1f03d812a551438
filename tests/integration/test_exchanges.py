"""Three processes whose nodes follow what is used: unused experts leave full nodes for hot ones, and answers go on.

The gateway holds everything and asks others first; two expert nodes hold overlapping parts, so that every expert has
its floor of two and some have three. The clock of placement runs fast by configuration alone.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import aiohttp
import jsonschema
import pytest

from blyan.api import network_schemas
from blyan.node import builtin
from nodes import json_of
from swarm_nodes import Swarm, SwarmNode, ask, every, everything, part_of_builtin

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

FAST = {"use_seconds": "1", "moves_per_hour": "3600"}
TIERS = {"inference__expert_memory": "8MiB", "metrics__listen": "127.0.0.1:0"}  # a third of what each holds


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    root = tmp_path_factory.mktemp("exchanges")
    for name, keep, trunk in (
        ("gateway", everything, True),
        ("one", every(4, 0, 1, 2), False),
        ("two", every(4, 2, 3, 0), False),
    ):
        part_of_builtin(root / name, keep, trunk)
    experts = [SwarmNode(root / name, **FAST, **TIERS) for name in ("one", "two")]
    with Swarm(SwarmNode(root / "gateway", plan="dynamic"), experts, direct=True) as made:
        yield made


async def json_at(node: SwarmNode, path: str) -> Any:
    async with aiohttp.ClientSession(node.url) as session, session.get(path) as response:
        assert response.status == 200
        return await response.json()


async def held(swarm: Swarm) -> dict[tuple[int, int], int]:
    """How many nodes hold each routed expert, by what the gateway hears; it holds all itself."""
    said = await json_at(swarm.gateway, f"/network/experts?model={builtin.name}")
    return {
        (block["layer"], block["expert"]): 1 + len(block["nodes"])
        for block in said["blocks"]
        if block.get("expert") is not None
    }


async def moves(node: SwarmNode) -> list[dict[str, Any]]:
    said = await json_at(node, "/network/moves")
    jsonschema.validate(said, network_schemas.moves)
    return said["moves"]


async def test_unused_experts_give_way_to_hot_ones_while_answers_are_right(swarm: Swarm) -> None:
    fewest, seen, sums = 9, list[list[dict[str, Any]]](), itertools.count(12)
    for _ in range(100):
        left = next(sums)
        heard = await ask(swarm.gateway.url, f"What is {left} plus 30?", stream=False)
        assert heard.text == f"{left} + 30 = {left + 30}"
        fewest = min(fewest, *(await held(swarm)).values())
        seen = [await moves(node) for node in swarm.experts]
        if any(move["move"] == "took" for each in seen for move in each):
            break  # which of the nodes may let go first is their keys' lot
        await asyncio.sleep(0.2)
    assert fewest >= 2, "the floor"
    worth = [move for each in seen for move in each if move["why"] == "worth"]
    assert {move["move"] for move in worth} == {"took", "gave"}
    taken = [move["rows_per_s"] for move in worth if move["move"] == "took"]
    assert min(taken) > 0, "what came is used; by how much it is worth more: unit/test_placement.py"
    assert all(move["others"] >= 2 for move in worth if move["move"] == "gave")


async def test_most_of_what_is_expected_of_a_node_comes_into_its_memory(swarm: Swarm) -> None:
    """Of three times as many experts as fit; a node that is asked nothing has nothing there."""
    for number in range(40):
        await ask(swarm.gateway.url, f"What is {number} plus 7?", stream=False)
        tiers = [expected(node) for node in swarm.experts]
        if all(each["hot"] > 0.5 * sum(each.values()) > 0 for each in tiers):
            return
    raise AssertionError(f"expected most of it hot, found {tiers}")


def expected(node: SwarmNode) -> dict[str, float]:
    """Rows a second by tier, of the metrics."""
    samples = node.metrics()
    return {tier: samples.get(f'blyan_expert_expected_rows{{tier="{tier}"}}', 0.0) for tier in ("hot", "warm", "cold")}


async def test_moves_that_are_not_there_are_not_found(swarm: Swarm) -> None:
    for path, status in (("?model=nothing", 404), ("?latest=0", 400), ("?latest=9999", 400), ("?latest=x", 400)):
        async with aiohttp.ClientSession(swarm.gateway.url) as session:
            assert (await session.get("/network/moves" + path)).status == status
    assert await moves(swarm.gateway) == [], "it takes and gives nothing"


def test_the_trace_of_several_nodes_says_who_held_what_when_and_why(swarm: Swarm) -> None:
    asked = [argument for node in swarm.experts for argument in ("--node", node.url)]
    said = json_of("node", "moves", *asked, "--model", builtin.name, data_dir=swarm.gateway.data_dir)
    assert [each["node"] for each in said["nodes"]] == [node.key for node in swarm.experts]
    assert {(move["move"], move["why"]) for move in said["trace"]} == {("gave", "worth"), ("took", "worth")}
    assert [move["at"] for move in said["trace"]] == sorted(move["at"] for move in said["trace"])
    for each in said["nodes"]:
        counted = sum(entry["experts"] for entry in each["since_start"])
        assert counted == len(each["moves"]), "nothing was forgotten"
