"""Ten expert nodes of which a third die: every answer is right while each expert has a live holder."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from nodes import install_builtin, serving
from swarm_nodes import Swarm, SwarmNode, ask, every, nothing, part_of_builtin

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

PROMPTS = ["What is 12 plus 30?", "Tell me about you", "Hello"]
NODES, COPIES, DYING = 10, 4, 3
OPTIONS = {"max_tokens": 60, "ignore_eos": True}


async def answers_of_one(data_dir: Path) -> list[list[str]]:
    """The tokens of each prompt's answer by a node that holds everything."""
    install_builtin(data_dir)
    async with serving(data_dir) as client:
        whole = str(client.make_url("/")).rstrip("/")
        return [(await ask(whole, prompt, **OPTIONS)).tokens for prompt in PROMPTS]


@pytest.mark.parametrize("seed", [1])
async def test_a_third_of_ten_nodes_die_while_three_answers_are_written(tmp_path: Path, seed: int) -> None:
    """One after the other, drawn by the seed, by SIGKILL; what remains answers the same questions once more."""
    part_of_builtin(tmp_path / "gateway", nothing, True)
    folders = [tmp_path / f"expert{number}" for number in range(NODES)]
    for number, folder in enumerate(folders):  # of eight experts in a layer: each is on four nodes, in a row
        part_of_builtin(folder, every(NODES, *((number - back) % NODES for back in range(COPIES))), False)
    expected = await answers_of_one(tmp_path / "whole")
    dying = random.Random(seed).sample(range(NODES), DYING)
    experts = [SwarmNode(folder) for folder in folders]
    swarm = Swarm(SwarmNode(tmp_path / "gateway"), experts, direct=True)
    await asyncio.to_thread(swarm.__enter__)
    try:
        pauses: list[float] = []
        kills = {10 + 12 * place: experts[number].kill for place, number in enumerate(dying)}
        for at in ({}, kills, {}):
            asked = [ask(swarm.gateway.url, each, at={} if n else at, **OPTIONS) for n, each in enumerate(PROMPTS)]
            heard = await asyncio.gather(*asked)
            assert [answer.error for answer in heard] == [None] * len(PROMPTS)
            assert [answer.tokens for answer in heard] == expected
            pause = max(answer.pause for answer in heard)
            print(f"seed {seed}: {len(at)} of {NODES} nodes killed: longest pause {pause * 1000:.0f} ms")
            pauses.append(pause)
        assert pauses[1] < max(3, 3 * pauses[0]), pauses
        assert [node.running for node in experts].count(False) == DYING
    finally:
        await asyncio.to_thread(swarm.__exit__)
