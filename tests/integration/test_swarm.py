"""Nodes that each hold a part of a model answer together what one node that holds all of it answers alone.

The one node computes by the plain step: a budget of nothing for experts keeps the jitted one out, whose sums are in
another order. Then tokens and log-probabilities are the same numbers, wherever an expert is.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import torch

from blyan.node.quantizing import QuantizationRequest
from blyan.primitives.ids import PayloadId
from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import import_into, install_builtin, running, serving
from running_node import RunningNode
from swarm_in_process import in_one_process, serving_member
from swarm_nodes import (
    Heard,
    Swarm,
    SwarmNode,
    ask,
    every,
    everything,
    nothing,
    part_of_builtin,
    part_of_checkpoint,
    parts_held,
    position,
    wait_for,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PROMPTS = ["What is 12 plus 30?", "Tell me about you", "Spell the word apple backwards, please", "안녕하세요"]
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 20}
SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95, "seed": 7, "max_tokens": 20}
PLAIN = {"expert_memory": "0B"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PayloadId]:
    """Data directories: `gateway` with the trunk alone, three with a third of the experts each, `whole` with all."""
    root = tmp_path_factory.mktemp("swarm")
    manifest = part_of_builtin(root / "gateway", nothing, True)
    for number in range(3):
        part_of_builtin(root / f"expert{number}", every(3, number), False)
    install_builtin(root / "whole")
    return root, manifest


@pytest.fixture(scope="module")
def swarm(folders: tuple[Path, PayloadId]) -> Iterator[Swarm]:
    """A gateway and three expert nodes, each a process, joined as people join them."""
    root, _ = folders
    measured = {"metrics__listen": "127.0.0.1:0"}
    experts = [SwarmNode(root / f"expert{number}", **measured) for number in range(3)]
    with Swarm(SwarmNode(root / "gateway", **measured), experts, direct=True) as made:
        yield made


@pytest.fixture(scope="module")
def alone(folders: tuple[Path, PayloadId], swarm: Swarm) -> list[tuple[str, dict[str, Any], Heard]]:
    """What one node that holds everything answers: prompt, options, answer. All nodes compute in jitted code by now."""

    async def answers() -> list[tuple[str, dict[str, Any], Heard]]:
        questions = [(prompt, options) for prompt in PROMPTS for options in (GREEDY, SAMPLED)]
        return [(prompt, options, await ask(whole.url, prompt, **options)) for prompt, options in questions]

    with running(folders[0] / "whole", BLYAN_COMPUTE__THREADS="1", BLYAN_METRICS__LISTEN="127.0.0.1:0") as whole:
        jitted([whole])
        found = asyncio.run(answers())
    jitted([swarm.gateway, *swarm.experts])
    assert all(len(answer.tokens) >= 5 for _, _, answer in found)
    return found


def jitted(nodes: Sequence[RunningNode]) -> None:
    """Ask the first until all compute in jitted code, the others as its expert nodes."""
    metrics = ["blyan_models_jitted", *["blyan_hosted_models_jitted"] * (len(nodes) - 1)]

    def ready() -> bool:
        asyncio.run(ask(nodes[0].url, PROMPTS[0], **GREEDY))
        return all(node.metrics()[metric] == 1 for node, metric in zip(nodes, metrics, strict=True))

    wait_for(ready, "jitted code on all nodes", 60)


def assert_same(expected: Heard, found: Heard, tolerance: float = 0.0) -> None:
    assert (expected.error, found.error) == (None, None)
    assert expected.tokens == found.tokens
    assert expected.text == found.text
    assert found.logprobs == pytest.approx(expected.logprobs, abs=tolerance, rel=0)


def test_no_node_holds_the_model_and_together_they_do(folders: tuple[Path, PayloadId]) -> None:
    """By the files in their folders of blobs, of gateway and expert nodes."""
    root, manifest_id = folders
    names = ["gateway", *(f"expert{number}" for number in range(3))]
    held = {name: parts_held(root / name, manifest_id)[1] for name in names}
    parts = set(parts_held(root / "whole", manifest_id)[0].blocks)
    experts = {part for part in parts if position(part) is not None}
    assert parts_held(root / "whole", manifest_id)[1] == parts
    assert set().union(*held.values()) == parts
    for name in names:
        assert held[name] < parts
    assert not held["gateway"] & experts
    for one, other in itertools.combinations(names, 2):
        assert held[one] | held[other] < parts, "no two of them cover it either"


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_swarm_answers_token_for_token_as_one_node(
    swarm: Swarm, alone: list[tuple[str, dict[str, Any], Heard]], stream: bool
) -> None:
    """Greedy and sampled, and with the same log-probabilities to the last bit."""
    for prompt, options, expected in alone:
        assert_same(expected, await ask(swarm.gateway.url, prompt, stream=stream, **options))


async def test_eight_at_once_get_what_each_gets_alone(
    swarm: Swarm, alone: list[tuple[str, dict[str, Any], Heard]]
) -> None:
    """Steps are computed together, and prompts of one beginning share pages, so sums may differ a little."""
    assert len(alone) == 8
    found = await asyncio.gather(*(ask(swarm.gateway.url, prompt, **options) for prompt, options, _ in alone))
    for (_, _, expected), answer in zip(alone, found, strict=True):
        assert_same(expected, answer, 1e-4)


async def test_a_gateway_alone_says_which_expert_nobody_has(folders: tuple[Path, PayloadId], tmp_path: Path) -> None:
    """503 `expert_unavailable` after the seconds of a call, in a stream too, as nothing was written yet."""
    part_of_builtin(tmp_path / "alone", nothing, True)
    async with serving_member(tmp_path / "alone", call_seconds=1) as (_, url):
        for stream in (True, False):
            heard = await asyncio.wait_for(ask(url, PROMPTS[0], stream=stream), 10)
            assert heard.error is not None
            assert heard.error["code"] == "expert_unavailable"
            assert not heard.tokens
            assert heard.seconds < 4


@contextlib.asynccontextmanager
async def imported(folder: Path, request: QuantizationRequest | None = None) -> AsyncIterator[tuple[str, str]]:
    """The URLs of a gateway with three expert nodes, and of one node, of the checkpoint in `folder`/hf."""
    part_of_checkpoint(folder / "gateway", folder / "hf", "random", nothing, True, request)
    parts = [folder / f"expert{number}" for number in range(3)]
    for number, part in enumerate(parts):
        part_of_checkpoint(part, folder / "hf", "random", every(3, number), False, request)
    import_into(folder / "whole", folder / "hf", "random", request)
    async with (
        in_one_process(folder / "gateway", parts) as (gateway, _),
        serving(folder / "whole", inference=PLAIN) as client,
    ):
        yield gateway.url, str(client.make_url("/")).rstrip("/")


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe"])
async def test_an_imported_checkpoint_is_answered_by_three_as_by_one(tmp_path: Path, family: str) -> None:
    """Random weights in fp32, of a family with other routing, or with a shared expert that stays with the trunk."""
    save_random_checkpoint(tmp_path / "hf", family=family, vocab_size=260, scale=3.0)
    save_byte_tokenizer(tmp_path / "hf")
    async with imported(tmp_path) as (gateway, whole):
        for options in (GREEDY, SAMPLED):
            expected = await ask(whole, "Say something", model="random", ignore_eos=True, **options)
            assert len(set(expected.tokens)) >= 8, "a model that repeats itself would show little"
            found = await ask(gateway, "Say something", model="random", ignore_eos=True, **options)
            assert_same(expected, found, 1e-5)  # either may compute in jitted code by now


async def scored(url: str, tokens: list[int]) -> list[dict[str, float]]:
    """Log-probabilities at each position after the first: of the two likeliest tokens and the one that is there."""
    body = {"model": "random", "prompt": tokens, "temperature": 0, "logprobs": 2, "echo": True, "max_tokens": 0}
    async with aiohttp.ClientSession(url) as session, session.post("/v1/completions", json=body) as response:
        return (await response.json())["choices"][0]["logprobs"]["top_logprobs"][1:]


def compared(expected: list[dict[str, float]], found: list[dict[str, float]], margin: float) -> tuple[float, int, int]:
    """The largest difference, how many positions have a clear choice, and at how many of these another is chosen."""
    worst, clear, differing = 0.0, 0, 0
    for one, other in zip(expected, found, strict=True):
        worst = max([worst, *(abs(one[token] - other[token]) for token in one.keys() & other.keys())])
        best = sorted(one.values(), reverse=True)
        if best[0] - best[1] > margin:
            clear += 1
            differing += max(one, key=one.__getitem__) != max(other, key=other.__getitem__)
    return worst, clear, differing


async def test_in_bf16_a_swarm_chooses_what_one_node_chooses(tmp_path: Path) -> None:
    """Log-probabilities within 0.15 nat; where the margin exceeds 0.3, the same token."""
    tolerance = 0.15
    save_random_checkpoint(tmp_path / "hf", vocab_size=260, dtype="bfloat16", scale=1.0)
    save_byte_tokenizer(tmp_path / "hf")
    tokens = torch.randint(0, 256, (160,), generator=torch.Generator().manual_seed(1)).tolist()
    async with imported(tmp_path) as (gateway, whole):
        worst, clear, differing = compared(await scored(whole, tokens), await scored(gateway, tokens), 2 * tolerance)
    print(f"bf16: largest difference {worst:.2g} nat, {clear} of {len(tokens) - 1} positions clear, {differing} differ")
    assert clear >= 10
    assert (worst <= tolerance, differing) == (True, 0)


async def test_hidden_states_of_eight_bits_change_answers_by_little(
    folders: tuple[Path, PayloadId], alone: list[tuple[str, dict[str, Any], Heard]], tmp_path: Path
) -> None:
    """`network.activations` = int8 on the built-in model: the bounds that docs/configuration.md states."""
    part_of_builtin(tmp_path / "gateway", nothing, True)
    part_of_builtin(tmp_path / "expert", everything, False)
    equal = total = 0
    worst = 0.0
    async with in_one_process(tmp_path / "gateway", [tmp_path / "expert"], activations="int8") as (gateway, _):
        for prompt, options, expected in alone:
            found = await ask(gateway.url, prompt, **options)
            total += len(expected.tokens)
            alike = [a == b for a, b in zip(expected.tokens, found.tokens, strict=False)]
            until = alike.index(False) if False in alike else len(alike)
            equal += until
            before = zip(expected.logprobs[:until], found.logprobs[:until], strict=True)
            worst = max([worst, *(abs(one - other) for one, other in before)])
    print(f"int8: largest difference {worst:.3f} nat, {equal} of {total} tokens equal")
    assert worst < 0.05
    assert equal >= 0.95 * total
    assert worst > 0, "it does go out with eight bits"
