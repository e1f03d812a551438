"""Another node generates whole answers, and they are what one node alone answers; what is lost on the way goes on.

The one node computes by the plain step (see test_swarm.py), so that tokens and log-probabilities are the same numbers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from blyan.inference.delegate_host import DelegateHost
from blyan.inference.delegating import Delegating
from blyan.node import builtin
from blyan.primitives.ids import PayloadId
from nodes import install_builtin, serving
from swarm_in_process import Member, in_one_process, until
from swarm_nodes import Heard, ask, everything, nothing, part_of_builtin

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

SERVED = "안녕하세요"  # whose answer does without the expert below
PROMPTS = ["What is 12 plus 30?", SERVED]
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 24}
SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95, "frequency_penalty": 0.4, "seed": 7, "max_tokens": 24}
PLAIN = {"expert_memory": "0B"}
ALONE = (3, 1)  # layer and expert that the first answer needs


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PayloadId]:
    """Data directories: `gateway` with the trunk, `lead` with all but one expert, `rest` with a half, `whole`."""
    root = tmp_path_factory.mktemp("delegation")
    manifest = part_of_builtin(root / "gateway", nothing, True)
    part_of_builtin(root / "lead", lambda layer, expert: (layer, expert) != ALONE, True)
    part_of_builtin(root / "rest", everything, False)
    install_builtin(root / "whole")
    return root, manifest


@pytest.fixture(scope="module")
def alone(folders: tuple[Path, PayloadId]) -> list[tuple[str, dict[str, Any], Heard]]:
    """What one node that holds everything answers: prompt, options, answer."""

    async def answers() -> list[tuple[str, dict[str, Any], Heard]]:
        async with serving(folders[0] / "whole", inference=PLAIN) as client:
            url = str(client.make_url("/")).rstrip("/")
            questions = [(prompt, options) for prompt in PROMPTS for options in (GREEDY, SAMPLED)]
            return [(prompt, options, await ask(url, prompt, **options)) for prompt, options in questions]

    return asyncio.run(answers())


def assert_same(expected: Heard, found: Heard, tolerance: float = 0.0) -> None:
    assert (expected.error, found.error) == (None, None)
    assert expected.tokens == found.tokens
    assert (expected.text, expected.finish) == (found.text, found.finish)
    assert found.logprobs == pytest.approx(expected.logprobs, abs=tolerance, rel=0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def swarm(folders: tuple[Path, PayloadId]) -> AsyncIterator[tuple[Member, Member]]:
    """A gateway that delegates, and the lead that it asks; a third node has the expert that the lead lacks."""
    root, _ = folders
    parts = [root / "lead", root / "rest"]
    async with in_one_process(root / "gateway", parts, plan="static_delegate") as (gateway, [lead, _]):
        yield gateway, lead


@pytest.fixture
def trips(swarm: tuple[Member, Member]) -> Callable[[], int]:
    """Round trips since the test began: orders and pings of the gateway, expert calls of both."""
    gateway, lead = swarm

    def total() -> int:
        asked = delegating(gateway).counters
        calls = sum(each.peering.executor.counters.messages for each in (gateway, lead))
        return asked.asked + asked.pings + calls

    began = total()
    return lambda: total() - began


def delegating(member: Member) -> Delegating:
    found = member.node.answering.delegating
    assert found is not None, "a node with a peer port"
    return found


def host(member: Member) -> DelegateHost:
    found = member.node.answering.host
    assert found is not None, "a node with a peer port"
    return found


async def test_another_node_answers_token_for_token_as_one_node(
    swarm: tuple[Member, Member], alone: list[tuple[str, dict[str, Any], Heard]]
) -> None:
    """Greedy and seeded, streamed and whole, to the last bit; the one expert that the lead lacks is called."""
    gateway, lead = swarm
    before = replace(delegating(gateway).counters)
    for number, (prompt, options, expected) in enumerate(alone):
        assert_same(expected, await ask(gateway.url, prompt, stream=bool(number % 2), **options))
    counted = delegating(gateway).counters
    assert counted.asked - before.asked == len(alone)
    assert (counted.own, counted.failovers) == (before.own, before.failovers)
    assert gateway.peering.executor.counters.messages == 0
    assert lead.peering.executor.counters.messages > 0


async def test_a_delegated_answer_takes_one_round_trip_where_experts_take_one_each(
    swarm: tuple[Member, Member],
    trips: Callable[[], int],
    alone: list[tuple[str, dict[str, Any], Heard]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At least 95 % fewer: of an answer that needs no expert that the lead lacks, where nobody is held up."""
    monkeypatch.setattr("blyan.inference.delegating._silence_s", 5.0)
    gateway, _ = swarm
    prompt, options, expected = next(each for each in alone if each[0] == SERVED)
    assert_same(expected, await ask(gateway.url, prompt, **options))
    delegated = trips()
    monkeypatch.setattr(gateway.node.answering, "_asks", False)
    assert_same(expected, await ask(gateway.url, prompt, **options))
    called = trips() - delegated
    print(f"round trips of {len(expected.tokens)} tokens: {delegated} delegated, {called} with experts called")
    assert delegated <= 0.05 * called


async def test_an_answer_by_a_grammar_is_not_delegated(swarm: tuple[Member, Member]) -> None:
    gateway, _ = swarm
    before = delegating(gateway).counters.asked
    heard = await ask(gateway.url, SERVED, max_tokens=8, response_format={"type": "json_object"})
    assert heard.error is None
    assert delegating(gateway).counters.asked == before


async def test_a_caller_who_leaves_ends_it_at_the_lead(swarm: tuple[Member, Member]) -> None:
    """Within the time of a few tokens: nothing is computed that nobody reads."""
    gateway, lead = swarm
    left = host(lead).counters.left
    body = {"model": builtin.name, "messages": [{"role": "user", "content": SERVED}], "stream": True}
    body |= {"max_tokens": 900, "ignore_eos": True}
    async with aiohttp.ClientSession(gateway.url) as session, session.post("/v1/chat/completions", json=body) as got:
        assert got.status == 200, await got.text()
        await got.content.readline()
        await until(lambda: host(lead).under_way == 1, "it under way")
    await until(lambda: host(lead).under_way == 0, "it ended", 3)
    assert host(lead).counters.left == left + 1
    assert delegating(gateway).under_way == 0
    assert lead.node.scheduler.depth() == (0, 0)


async def test_without_a_lead_the_gateway_answers_itself(
    swarm: tuple[Member, Member], alone: list[tuple[str, dict[str, Any], Heard]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By calling experts where they are."""
    gateway, lead = swarm
    monkeypatch.setattr(host(lead), "_find", lambda _manifest: None)
    prompt, options, expected = alone[0]
    own = delegating(gateway).counters.own
    assert_same(expected, await ask(gateway.url, prompt, **options))
    assert delegating(gateway).counters.own == own + 1
    assert host(lead).counters.refused >= 1
