"""A node that generates for others comes to hold what it lacked for that: the next such answer needs nobody else."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from blyan.inference.moves import Move
from lone_expert import ALONE, NEEDS_IT
from nodes import install_builtin, serving
from swarm_in_process import Member, experts_of, serving_member, until
from swarm_nodes import Heard, Keep, ask, everything, nothing, part_of_builtin

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 24}
EXPERT_BYTES = 791_000  # of one of the built-in model, a little more


@contextlib.asynccontextmanager
async def swarm(root: Path, keep: Keep, whole: int = 1, **lead: Any) -> AsyncIterator[tuple[Member, Member]]:
    """A gateway that delegates, and the lead that it asks; `whole` further nodes have all experts."""
    part_of_builtin(root / "gateway", nothing, trunk=True)
    part_of_builtin(root / "lead", keep, trunk=True)
    async with contextlib.AsyncExitStack() as stack:
        gateway, _ = await stack.enter_async_context(serving_member(root / "gateway", plan="static_delegate"))
        join = (gateway.join_url,)
        for number in range(whole):
            part_of_builtin(root / f"rest{number}", everything, trunk=False)
            await stack.enter_async_context(serving_member(root / f"rest{number}", join=join, roles=("expert",)))
        made, _ = await stack.enter_async_context(serving_member(root / "lead", join=join, **lead))
        await until(lambda: len(gateway.links) == len(made.links) == whole + 1, "links of all")
        yield gateway, made


async def alone(folder: Path) -> Heard:
    """What one node that holds everything answers."""
    install_builtin(folder)
    async with serving(folder, inference={"expert_memory": "0B"}) as client:
        return await ask(str(client.make_url("/")).rstrip("/"), NEEDS_IT, **GREEDY)


async def calls_of_an_answer(gateway: Member, lead: Member, expected: Heard | None = None) -> int:
    """Messages to experts elsewhere that the lead sent for one answer."""
    asked, before = gateway.node.answering.delegating, lead.peering.executor.counters.messages
    assert asked is not None, "a node with a peer port"
    own = asked.counters.own
    heard = await ask(gateway.url, NEEDS_IT, **GREEDY)
    assert (heard.error, asked.counters.own) == (None, own), "the lead generated it"
    assert expected is None or (heard.tokens, heard.text) == (expected.tokens, expected.text)
    return lead.peering.executor.counters.messages - before


def moves(member: Member) -> list[Move]:
    return member.peering.demand.moves.latest(99)


async def test_a_lead_fetches_what_it_lacked_and_generates_alone(tmp_path: Path) -> None:
    """It has no other role, and room."""
    expected = await alone(tmp_path / "whole")
    lacked = {ALONE, (0, 1), (2, 5)}
    memory = f"{32 * EXPERT_BYTES}B"
    async with swarm(tmp_path, lambda *each: each not in lacked, memory=memory) as (gateway, lead):
        before = experts_of(lead)
        assert await calls_of_an_answer(gateway, lead, expected) > 0
        await until(lambda: experts_of(lead) > before, "what it lacked")
        for _ in range(5):  # what comes while an answer is computed is called no more
            if not await calls_of_an_answer(gateway, lead, expected):
                break
        assert await calls_of_an_answer(gateway, lead, expected) == 0
        assert {"wished"} == {move.why for move in moves(lead)}


async def test_a_full_lead_gives_up_what_its_answers_do_not_use(tmp_path: Path) -> None:
    """It computes experts for others, and placement left no room: what it gives up three others hold."""
    async with swarm(
        tmp_path, lambda layer, _: layer != ALONE[0], 3, roles=("gateway", "expert"), moves_per_hour=3600
    ) as (gateway, lead):
        count, before = len(experts_of(lead)), experts_of(lead)
        assert await calls_of_an_answer(gateway, lead) > 0
        await until(lambda: experts_of(lead) - before, "something that it lacked")
        await calls_of_an_answer(gateway, lead)
        assert len(experts_of(lead)) <= count
        assert {(move.direction, move.why) for move in moves(lead)} == {("took", "wished"), ("gave", "wished")}
        assert all(move.others >= 2 for move in moves(lead) if move.direction == "gave")


async def test_a_lead_that_holds_no_experts_takes_a_few(tmp_path: Path) -> None:
    """Of the model an eighth, as nobody told it how much."""
    async with swarm(tmp_path, nothing, memory="") as (gateway, lead):
        await calls_of_an_answer(gateway, lead)
        await until(lambda: len(experts_of(lead)) >= 4, "a few experts")
        await calls_of_an_answer(gateway, lead)
        assert len(experts_of(lead)) == 4 == len(moves(lead))
