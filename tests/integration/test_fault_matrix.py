"""Every fault of an expert node at moments drawn by seeds, and a table of what came of the answers."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import ROOT, git
from nodes import install_builtin, serving
from swarm_faults import FAULTS, restored, slow, throttle
from swarm_nodes import Swarm, SwarmNode, ask, every, nothing, part_of_builtin

PROMPTS = ["What is 12 plus 30?", "Tell me about you", "안녕하세요", "Spell the word apple backwards, please"]
TOKENS = 90
PAGE = ROOT / "docs/benchmarks/faults.md"
HEAD = """# Faults of expert nodes in the middle of answers

Written by `scripts/test --long` (tests/integration/test_fault_matrix.py), {date}, commit {commit}. A gateway without
experts, four expert nodes in processes of their own, each expert on two of them, links through a proxy. The seed draws
prompt, node and the token after which it falls. An answer is right if it is token for token that of one node with
everything; its pause is the longest wait between two of its tokens.

| fault | seeds | answers right | longest pause, ms | middle one, ms |
|---|---|---|---|---|
"""


async def answer(url: str, prompt: str, at: dict[int, Callable[[], object]] | None = None):
    return await ask(url, prompt, at=at, max_tokens=TOKENS, ignore_eos=True)


async def answers_of_one(data_dir: Path) -> dict[str, list[str]]:
    install_builtin(data_dir)
    async with serving(data_dir) as client:
        url = str(client.make_url("/")).rstrip("/")
        return {prompt: (await answer(url, prompt)).tokens for prompt in PROMPTS}


def drawn(
    swarm: Swarm, fault: Callable[[Swarm, int], None], seed: int, expected: dict[str, list[str]]
) -> tuple[bool, float]:
    """One answer with a fault in it: whether it is right, and its longest pause in seconds."""
    chance = random.Random(f"{fault.__name__} {seed}")
    prompt, victim, after = chance.choice(PROMPTS), chance.randrange(4), chance.randrange(1, TOKENS - 20)
    heard = asyncio.run(answer(swarm.gateway.url, prompt, {after: lambda: fault(swarm, victim)}))
    time.sleep(5 if fault.__name__ == "swallow" else 0)  # until the link's silence is noticed
    restored(swarm)
    return heard.error is None and heard.tokens == expected[prompt], heard.pause


def matrix(root: Path, seeds: int) -> list[str]:
    """The rows of the table; `AssertionError` for an answer that is not right, or a pause that is long."""
    part_of_builtin(root / "gateway", nothing, True)
    for number in range(4):
        part_of_builtin(root / f"expert{number}", every(4, number, (number + 1) % 4), False)
    expected = asyncio.run(answers_of_one(root / "whole"))
    rows: list[str] = []
    experts = [SwarmNode(root / f"expert{number}") for number in range(4)]
    with Swarm(SwarmNode(root / "gateway"), experts) as swarm:
        for prompt in PROMPTS:
            asyncio.run(answer(swarm.gateway.url, prompt))
        for fault in [*FAULTS, slow, throttle]:
            found = [drawn(swarm, fault, seed, expected) for seed in range(1, seeds + 1)]
            right = sum(each for each, _ in found)
            pauses = sorted(pause * 1000 for _, pause in found)
            middle, longest = pauses[len(pauses) // 2], pauses[-1]
            rows.append(f"| {fault.__name__} | 1 to {seeds} | {right} of {seeds} | {longest:.0f} | {middle:.0f} |")
            print(rows[-1], flush=True)
            assert right == seeds
            assert longest < 3000
    return rows


@pytest.mark.long
def test_each_fault_at_ten_moments(tmp_path: Path) -> None:
    """Writes docs/benchmarks/faults.md."""
    rows = matrix(tmp_path, 10)
    commit = git("rev-parse", "--short=12", "HEAD") or "no commit"
    if git("status", "--porcelain", "--untracked-files=no"):
        commit += " and changes"
    date = dt.datetime.now(tz=dt.UTC).date().isoformat()
    PAGE.write_text(HEAD.format(date=date, commit=commit) + "\n".join(rows) + "\n")
