"""What a node takes of its swarm: trunks where it answers, experts as memory allows; no last copy is given up."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from blyan.node.holdings import read_held
from blyan.node.peer_addresses import linked_peers
from kept_ports import kept_port
from swarm_in_process import Member, answer, experts_of, joined, serving_member, until
from swarm_nodes import CODE, everything, nothing, part_of_builtin, parts_held

EXPERT_BYTES = 791_000  # of one of the built-in model, a little more


class Keeper:
    """Of ports, for one test."""


async def taking(stack: contextlib.AsyncExitStack, folder: Path, **network: Any) -> Member:
    """A node that has nothing yet, until the stack ends."""
    return (await stack.enter_async_context(serving_member(joined(folder), **network)))[0]


async def test_nodes_that_join_take_what_they_need_and_answer_when_the_first_has_left(tmp_path: Path) -> None:
    """A gateway takes the trunk alone, experts go where there is room; what the first node said they say too."""
    part_of_builtin(tmp_path / "seed", everything, trunk=True)
    async with contextlib.AsyncExitStack() as stack:
        async with contextlib.AsyncExitStack() as first:
            seed, _ = await first.enter_async_context(serving_member(tmp_path / "seed", roles=("gateway", "expert")))
            said = await answer(seed)
            settings: dict[str, Any] = {"join": (seed.join_url,), "memory": f"{28 * EXPERT_BYTES}B"}
            experts = [await taking(stack, tmp_path / name, roles=("expert",), **settings) for name in ("one", "two")]
            gateway = await taking(stack, tmp_path / "gate", join=(seed.join_url,), roles=("gateway",))
            await until(lambda: len(experts_of(experts[0]) | experts_of(experts[1])) == 32, "every expert taken", 30)
            await until(lambda: "blyan-genesis" in gateway.node.models, "the model at the gateway", 30)
            assert max(map(len, map(experts_of, experts))) <= 28, "no more than memory allows"
            assert not experts_of(gateway)
        await until(lambda: len(gateway.links) == 2, "the first node gone")
        assert await answer(gateway) == said == "12 + 30 = 42"
        for folder in ("one", "two", "gate"):
            (manifest,) = read_held(tmp_path / folder)
            found, parts = parts_held(tmp_path / folder, manifest)
            assert len(parts) < len(found.blocks), f"{folder} does not hold all of it"


@pytest.mark.parametrize("announced", [(), ("live",)], ids=["nowhere else", "at its second address"])
async def test_blocks_come_from_where_a_node_answers_not_from_where_it_says_it_is(
    tmp_path: Path, announced: tuple[str, ...]
) -> None:
    """As behind a port that is forwarded; and the address that answered is the one that is remembered first."""
    part_of_builtin(tmp_path / "seed", everything, trunk=True)
    keeper = Keeper()
    ports = [kept_port(keeper) for _ in "ab"]
    live, dead = (f"wss://127.0.0.1:{port}" for port in ports)
    said = (dead, *(live for _ in announced))
    join = (f"{live}#{CODE}",)
    async with (
        serving_member(tmp_path / "seed", listen=f"127.0.0.1:{ports[0]}", announce=said, roles=("expert",)),
        serving_member(joined(tmp_path / "gate"), join=join, roles=("gateway",)) as (member, _),
    ):
        await until(lambda: any(hosted.trunk for hosted in member.peering.holdings.models()), "the trunk taken", 20)
        assert linked_peers(member.peering.links, member.peering.monotonic())[0][0] == live


async def test_a_node_that_dialled_is_asked_at_an_address_that_answers(tmp_path: Path) -> None:
    """Its link came in: of what it announces the first that takes a connection."""
    keeper = Keeper()
    port, gone = (kept_port(keeper) for _ in "ab")
    part_of_builtin(tmp_path / "held", everything, trunk=True)
    said = (f"wss://127.0.0.1:{gone}", f"wss://127.0.0.1:{port}")
    async with (
        serving_member(joined(tmp_path / "gate"), roles=("gateway",)) as (
            one,
            _,
        ),
        serving_member(
            tmp_path / "held", join=(one.join_url,), listen=f"127.0.0.1:{port}", announce=said, roles=("expert",)
        ),
    ):
        await until(lambda: any(hosted.trunk for hosted in one.peering.holdings.models()), "the trunk taken", 20)


async def test_blocks_come_from_a_mirror_where_no_node_gives_them(tmp_path: Path) -> None:
    """A copy of the blobs behind any web server; the node that says what it holds is reached by nobody."""
    keeper = Keeper()
    held = tmp_path / "held"
    part_of_builtin(held, everything, trunk=True)
    site = web.Application()
    site.router.add_static("/copy", held / "blobs")
    gone = f"wss://127.0.0.1:{kept_port(keeper)}"
    async with (
        TestServer(site) as mirror,
        serving_member(joined(tmp_path / "gate"), roles=("gateway",), mirrors=[str(mirror.make_url("/copy/"))]) as (
            gate,
            _,
        ),
        serving_member(held, join=(gate.join_url,), announce=(gone,), roles=("gateway", "expert")),
    ):
        await until(lambda: "blyan-genesis" in gate.node.models, "the model at the gateway", 20)
        assert await answer(gate) == "12 + 30 = 42"


async def test_the_only_copies_are_kept_though_memory_shrank(tmp_path: Path) -> None:
    part_of_builtin(tmp_path / "gate", nothing, trunk=True)
    part_of_builtin(tmp_path / "held", everything, trunk=False)
    async with (
        serving_member(tmp_path / "gate") as (gateway, _),
        serving_member(tmp_path / "held", join=(gateway.join_url,), roles=("expert",), memory="1KiB") as (expert, _),
    ):
        await until(lambda: len(gateway.links) == 1, "a link")
        await asyncio.sleep(4)
        assert len(experts_of(expert)) == 32
        assert await answer(gateway) == "12 + 30 = 42"


async def test_without_memory_nothing_is_taken(tmp_path: Path) -> None:
    part_of_builtin(tmp_path / "seed", everything, trunk=True)
    async with (
        serving_member(tmp_path / "seed") as (seed, _),
        serving_member(joined(tmp_path / "none"), join=(seed.join_url,), roles=("expert",), memory="0") as (expert, _),
    ):
        await until(expert.peering.holdings.models, "the manifest known")
        await asyncio.sleep(2)
        assert not experts_of(expert)
