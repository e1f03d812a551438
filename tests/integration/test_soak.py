"""A node under mixed traffic for a long time: memory flat, nothing in the log, every answer right.

`BLYAN_SOAK_SECONDS` shortens it (default: twenty minutes); a short one runs with the other slow tests.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import import_into, running
from running_node import RunningNode

SOAK_SECONDS = float(os.environ.get("BLYAN_SOAK_SECONDS", "1200"))
CLIENTS = 16
REQUESTS_MIN = 4  # of each client, however short the time
WARM_SHARE = 0.25  # of the time, before memory is looked at
GROWTH_BYTES_MAX = 16 << 20  # by the fitted line, from the end of the warm-up to the end
QUESTIONS = 24
VECTOR_TOLERANCE = 1e-5  # the jitted step may have taken over since: its last bits are others than the plain one's
KEYS = {"BLYAN_INFERENCE__KV_MEMORY": "2MiB", "BLYAN_METRICS__LISTEN": "127.0.0.1:0"}  # too few for all clients
KINDS = {"stream": 8, "whole": 4, "leave": 3, "embedding": 2, "refused": 2}  # how often of all
REFUSED: tuple[tuple[dict[str, Any], int], ...] = (
    ({"prompt": []}, 400),
    ({"prompt": [9_999_999]}, 400),
    ({"prompt": "x", "temperature": 9}, 400),
    ({"prompt": "x", "max_tokens": 100_000}, 400),
    ({"prompt": "x", "model": "absent"}, 404),
    ({"prompt": "x", "suffix": "y"}, 400),
)


@dataclass
class Soak:
    """What happened."""

    url: str
    references: list[tuple[dict[str, Any], Any]] = field(default_factory=list)  # request → the answer given alone
    vector: Any = None
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)  # moment, private bytes
    preempted: int = 0


def question(number: int) -> dict[str, Any]:
    """Prompts of all lengths, some that begin alike, greedy and seeded, plain and with penalties."""
    draws = random.Random(number)
    shared = [7 + at % 200 for at in range(64)] if number % 3 == 0 else []
    prompt = shared + [draws.randrange(3, 256) for _ in range(draws.choice((1, 5, 40, 200)))]
    asked: dict[str, Any] = {"model": "soaked", "prompt": prompt, "max_tokens": draws.choice((1, 8, 24, 240))}
    asked |= {"ignore_eos": True, "return_token_ids": True, "temperature": 0 if number % 2 else 0.8, "seed": number}
    return asked | ({"repetition_penalty": 1.2, "top_p": 0.9} if number % 5 == 0 else {})


def private_bytes(pid: int) -> int:
    """Memory of the process that is no file's."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def slope(points: list[tuple[float, int]]) -> float:
    """Bytes a second of the line that fits best."""
    middle = sum(moment for moment, _ in points) / len(points)
    spread = sum((moment - middle) ** 2 for moment, _ in points)
    return sum((moment - middle) * size for moment, size in points) / spread


async def tokens_of_stream(response: aiohttp.ClientResponse, leave_after: int | None = None) -> list[int]:
    """Token ids as they come; fewer if the client leaves."""
    found: list[int] = []
    async for line in response.content:
        for ids in re.findall(rb'"token_ids":\[([\d,]+)\]', line):
            found += map(int, ids.split(b","))
        assert b'"error"' not in line, line
        if leave_after is not None and len(found) >= leave_after:
            break
    return found


async def ask(soak: Soak, session: aiohttp.ClientSession, draws: random.Random, client: str) -> None:
    """One request of some kind, and whether its answer is the one it should be."""
    kind = draws.choices(list(KINDS), list(KINDS.values()))[0]
    soak.counts[kind] += 1
    if kind == "embedding":
        async with session.post("/v1/embeddings", json={"model": "soaked", "input": "the same text"}) as response:
            found = (await response.json())["data"][0]["embedding"]
            if not np.allclose(found, soak.vector, atol=VECTOR_TOLERANCE):
                soak.wrong.append("an embedding differs")
        return
    if kind == "refused":
        body, status = draws.choice(REFUSED)
        async with session.post("/v1/completions", json={"model": "soaked"} | body) as response:
            if response.status != status:
                soak.wrong.append(f"{body}: expected {status}, found {response.status}")
        return
    asked, expected = draws.choice(soak.references)
    body = asked | {"stream": kind != "whole", "user": client}
    async with session.post("/v1/completions", json=body) as response:
        assert response.status == 200, await response.text()
        if kind == "whole":
            found = (await response.json())["choices"][0]["token_ids"]
        else:
            found = await tokens_of_stream(response, draws.randrange(1, 9) if kind == "leave" else None)
    if found != (expected[: len(found)] if kind == "leave" else expected):
        soak.wrong.append(f"{kind} {asked}: expected {expected}, found {found}")


async def traffic(soak: Soak, pid: int, seconds: float) -> None:
    """All clients for so long, and memory meanwhile."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(soak.url, connector=connector, timeout=aiohttp.ClientTimeout(300)) as session:
        for number in range(QUESTIONS):
            async with session.post("/v1/completions", json=question(number)) as response:
                assert response.status == 200, await response.text()
                soak.references.append((question(number), (await response.json())["choices"][0]["token_ids"]))
        async with session.post("/v1/embeddings", json={"model": "soaked", "input": "the same text"}) as response:
            soak.vector = (await response.json())["data"][0]["embedding"]
        ends = time.monotonic() + seconds

        async def client(number: int) -> None:
            draws = random.Random(number)
            asked = 0
            while (time.monotonic() < ends or asked < REQUESTS_MIN) and not soak.wrong:
                await ask(soak, session, draws, f"client-{number}")
                asked += 1
                if draws.random() < 0.2:
                    await asyncio.sleep(draws.random() * 0.2)

        async def watch() -> None:
            for _ in itertools.takewhile(lambda _: time.monotonic() < ends, itertools.count()):
                soak.memory.append((time.monotonic(), private_bytes(pid)))
                await asyncio.sleep(min(1.0, seconds / 50))

        async with asyncio.TaskGroup() as group:
            group.create_task(watch())
            for number in range(CLIENTS):
                group.create_task(client(number))


async def soaked(node: RunningNode, seconds: float) -> Soak:
    """A soak that has ended, all answers right and nothing complained of in the log.

    Some of them gave their keys and values back in the midst, and were computed again.
    """
    soak = Soak(node.url)
    await traffic(soak, node.pid, seconds)
    assert soak.wrong == []
    soak.preempted = int(node.metrics()["blyan_preemptions_total"])
    assert soak.preempted > 0
    complaints = [line for line in node.said if re.search(r"\b(WARNING|ERROR|CRITICAL|Traceback)\b", line, re.I)]
    assert complaints == []
    return soak


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("soak")
    sizes = {"head_dim": 32, "intermediate_size": 104, "moe_intermediate_size": 56}  # which jitted code can compute
    save_random_checkpoint(folder / "hf", vocab_size=8192, **sizes)
    save_byte_tokenizer(folder / "hf")
    import_into(folder / "data", folder / "hf", "soaked")
    return folder / "data"


@pytest.mark.slow
async def test_answers_in_mixed_traffic_are_those_given_alone(data_dir: Path) -> None:
    """Ten seconds of what the long one does."""
    with running(data_dir, **KEYS) as node:
        soak = await soaked(node, 10)
    assert len(soak.counts) == len(KINDS)


@pytest.mark.long
@pytest.mark.timeout(SOAK_SECONDS + 600)
async def test_memory_stays_flat_under_mixed_traffic(data_dir: Path, long_result: Any) -> None:
    """A line through what the process holds after the warm-up rises by less than a limit until the end."""
    with running(data_dir, **KEYS) as node:
        soak = await soaked(node, SOAK_SECONDS)
        assert any("is computed by the jitted step" in line for line in node.said)
    began = soak.memory[0][0] + WARM_SHARE * SOAK_SECONDS
    after = [point for point in soak.memory if point[0] >= began]
    growth = slope(after) * (after[-1][0] - after[0][0])
    assert growth < GROWTH_BYTES_MAX, f"{growth / (1 << 20):.1f} MiB more in {after[-1][0] - after[0][0]:.0f} s"
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(soak.counts.items()))
    long_result(
        f"soak of {SOAK_SECONDS:,.0f} s, {CLIENTS} clients",
        f"{kinds}: all right, {soak.preempted:,} preempted, nothing in the log; "
        f"{after[-1][1] >> 20} MiB private at the end, {growth / (1 << 20):+.1f} MiB since the warm-up",
    )
