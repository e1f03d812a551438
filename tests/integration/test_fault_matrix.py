"""Every fault of a node that others ask, at moments drawn by seeds, and a table of what came of the answers.

Of expert nodes, of stages of a pipeline, and of nodes that generate whole answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import ROOT, git
from forked import Nursery
from swarm_faults import (
    FAULTS,
    FIRST,
    SECOND,
    answers_alone,
    asked_most,
    kill,
    passed,
    restored,
    slow,
    stage_calls,
    stop,
    swallow,
    throttle,
)
from swarm_nodes import (
    Heard,
    Keep,
    Swarm,
    SwarmNode,
    ask,
    every,
    everything,
    linked_among,
    nothing,
    of_layers,
    part_of_builtin,
)

PROMPTS = ["What is 12 plus 30?", "Tell me about you", "안녕하세요", "Spell the word apple backwards, please"]
TOKENS = 90
PAGE = ROOT / "docs/benchmarks/faults.md"
HEAD = """# Faults of other nodes in the middle of answers

Written by `scripts/test --long` (tests/integration/test_fault_matrix.py). A gateway and the nodes that it asks are
processes of their own, links through a proxy. The seed draws prompt, node and the token after which it falls. An answer
is right if it is token for token that of one node with everything; its pause is the longest wait between two of its
tokens.
"""
TABLE = """| fault | seeds | answers right | longest pause, ms | middle one, ms |
|---|---|---|---|---|
"""
SEEDS = int(os.environ.get("FAULT_SEEDS", "10"))
QUICK = (kill, stop, swallow)  # after which an answer goes on within a second, wherever it was


@dataclass(frozen=True)
class Scene:
    """Which nodes there are, and what they do."""

    words: str
    plan: str
    role: str
    keeps: tuple[Keep, ...]  # of each node
    trunk: bool | tuple[range, ...]  # or of which layers each node has it
    asked: int  # how many of them an answer needs
    pause_max_s: float = 3.0  # of any fault


SCENES = {
    "Expert nodes": Scene(
        "A gateway without experts, four expert nodes, each expert on two of them.",
        "auto",
        "expert",
        tuple(every(4, number, (number + 1) % 4) for number in range(4)),
        False,
        4,
    ),
    "Stages": Scene(
        "A gateway without layers, two stages with each half of them. One that is asked falls.",
        "pipeline",
        "stage",
        (of_layers(FIRST), of_layers(SECOND)) * 2,
        (FIRST, SECOND) * 2,
        2,
    ),
    "Delegates": Scene(
        "A gateway without experts, three nodes with everything, of which one generates the answer. That one falls.",
        "static_delegate",
        "expert",
        (everything,) * 3,
        True,
        1,
    ),
}


@contextlib.contextmanager
def swarm_of(root: Path, scene: Scene) -> Iterator[Swarm]:
    """Its nodes, linked to each other where they must be."""
    part_of_builtin(root / "gateway", nothing, True)
    for number, keep in enumerate(scene.keeps):
        trunk = scene.trunk if isinstance(scene.trunk, bool) else scene.trunk[number]
        part_of_builtin(root / f"node{number}", keep, trunk)
    with Nursery() as nursery:
        nodes = [SwarmNode(root / f"node{number}", nursery, roles=scene.role) for number in range(len(scene.keeps))]
        gateway = SwarmNode(root / "gateway", nursery, plan=scene.plan, metrics__listen="127.0.0.1:0")
        with Swarm(gateway, nodes) as swarm:
            if scene.plan == "pipeline":
                linked_among(nodes)
            yield swarm


def answer(swarm: Swarm, prompt: str, at: dict[int, Callable[[], object]] | None = None) -> Heard:
    return asyncio.run(ask(swarm.gateway.url, prompt, at=at, max_tokens=TOKENS, ignore_eos=True))


def drawn(swarm: Swarm, scene: Scene, fault: Callable[[Swarm, int], None], seed: int) -> tuple[str, Heard]:
    """A prompt, and its answer with a fault in it."""
    chance = random.Random(f"{fault.__name__} {seed}")
    prompt, place, after = chance.choice(PROMPTS), chance.randrange(scene.asked), chance.randrange(1, TOKENS - 20)
    if scene.plan == "pipeline":
        linked_among(swarm.experts)
    before, calls = passed(swarm), stage_calls(swarm)

    def strike() -> None:
        if scene.plan == "pipeline":  # by calls: trials of the others take bytes too
            since = [now - then for now, then in zip(stage_calls(swarm), calls, strict=True)]
            asked = [at for at, count in enumerate(since) if count]
            assert asked, "stages are asked"
            struck = asked[place % len(asked)]
        else:
            everybody = scene.asked == len(swarm.experts)
            struck = place if everybody else asked_most(swarm, before, scene.asked)[place]
        fault(swarm, struck)

    heard = answer(swarm, prompt, {after: strike})
    restored(swarm)
    return prompt, heard


def matrix(root: Path, scene: Scene, seeds: int) -> list[str]:
    """The rows of the table; `AssertionError` for an answer that is not right, or a pause that is long."""
    expected = answers_alone(root / "whole", PROMPTS, TOKENS)
    rows: list[str] = []
    complaints: list[str] = []
    with swarm_of(root, scene) as swarm:
        for prompt in PROMPTS:
            answer(swarm, prompt)
        for fault in [*FAULTS, slow, throttle]:
            found = [drawn(swarm, scene, fault, seed) for seed in range(1, seeds + 1)]
            right = sum(heard.error is None and heard.tokens == expected[prompt].tokens for prompt, heard in found)
            pauses = sorted(heard.pause * 1000 for _, heard in found)
            middle, longest = pauses[len(pauses) // 2], pauses[-1]
            rows.append(f"| {fault.__name__} | 1 to {seeds} | {right} of {seeds} | {longest:.0f} | {middle:.0f} |")
            print(rows[-1], flush=True)
            most = 1000 if fault in QUICK else scene.pause_max_s * 1000
            if right != seeds or longest >= most:
                complaints.append(f"{rows[-1]} errors {[heard.error for _, heard in found if heard.error]}")
    assert not complaints, "\n".join(complaints)
    return rows


def write(title: str, scene: Scene, rows: list[str]) -> None:
    """Put a scene's table in its place on the page, and leave those of the others."""
    commit = git("rev-parse", "--short=12", "HEAD") or "no commit"
    if git("status", "--porcelain", "--untracked-files=no"):
        commit += " and changes"
    date = dt.datetime.now(tz=dt.UTC).date().isoformat()
    sections = {each.partition("\n")[0]: each for each in PAGE.read_text().split("\n## ")[1:]}
    sections[title] = f"{title}\n\n{scene.words} {date}, commit {commit}.\n\n{TABLE}" + "\n".join(rows) + "\n"
    PAGE.write_text(HEAD + "".join(f"\n## {sections[each].strip()}\n" for each in SCENES if each in sections))


@pytest.mark.long
@pytest.mark.parametrize("title", SCENES)
def test_each_fault_at_ten_moments(tmp_path: Path, title: str) -> None:
    """Writes its part of docs/benchmarks/faults.md."""
    rows = matrix(tmp_path, SCENES[title], SEEDS)
    if SEEDS == 10:
        write(title, SCENES[title], rows)
