"""What a node takes of its swarm: trunks where it answers, experts as memory allows; no last copy is given up."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from blyan.node.holdings import read_held
from swarm_in_process import Member, answer, experts_of, joined, serving_member, until
from swarm_nodes import everything, nothing, part_of_builtin, parts_held

EXPERT_BYTES = 791_000  # of one of the built-in model, a little more


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
            settings: dict[str, Any] = {"join": (seed.join_url,), "memory": f"{22 * EXPERT_BYTES}B"}
            experts = [await taking(stack, tmp_path / name, roles=("expert",), **settings) for name in ("one", "two")]
            gateway = await taking(stack, tmp_path / "gate", join=(seed.join_url,), roles=("gateway",))
            await until(lambda: len(experts_of(experts[0]) | experts_of(experts[1])) == 32, "every expert taken", 30)
            await until(lambda: "blyan-genesis" in gateway.node.models, "the model at the gateway", 30)
            assert max(map(len, map(experts_of, experts))) <= 22, "no more than memory allows"
            assert not experts_of(gateway)
        await until(lambda: len(gateway.links) == 2, "the first node gone")
        assert await answer(gateway) == said == "12 + 30 = 42"
        for folder in ("one", "two", "gate"):
            (manifest,) = read_held(tmp_path / folder)
            found, parts = parts_held(tmp_path / folder, manifest)
            assert len(parts) < len(found.blocks), f"{folder} does not hold all of it"


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
