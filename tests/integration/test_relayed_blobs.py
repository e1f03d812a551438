"""A node that only a relay reaches is a source of blocks as others are: verified, and over few connections."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from swarm_in_process import Member, answer, experts_of, joined, serving_member, until
from swarm_nodes import everything, nothing, part_of_builtin


async def test_experts_are_taken_from_a_node_that_only_a_relay_reaches(tmp_path: Path) -> None:
    """Its tunnels end with the fetch; and the relay, which holds none of them, asks it in the same way."""
    part_of_builtin(tmp_path / "relay", nothing, trunk=True)
    part_of_builtin(tmp_path / "hidden", everything, trunk=False)
    async with contextlib.AsyncExitStack() as stack:

        async def member(folder: Path, **network: Any) -> Member:
            return (await stack.enter_async_context(serving_member(folder, **network)))[0]

        relay = await member(tmp_path / "relay", relay=True)
        hidden = await member(
            tmp_path / "hidden", join=(relay.join_url,), roles=("expert",), through_relays=True, memory="1GiB"
        )
        way = f"relay:{relay.peering.identity.key.public}"
        await until(lambda: hidden.peering.summary.urls == (way,), "a way through the relay")
        taker = await member(joined(tmp_path / "taker"), join=(relay.join_url,), roles=("expert",), memory="1GiB")
        await until(lambda: len(experts_of(taker)) == 32, "every expert taken", 30)
        assert relay.peering.reach.host is not None
        assert relay.peering.reach.host.carried_bytes > 25_000_000, "through the relay, all of them"
        await until(lambda: taker.peering.reach.tunnels.count <= 2, "no way kept but those of links")
        assert await answer(relay) == "12 + 30 = 42"
