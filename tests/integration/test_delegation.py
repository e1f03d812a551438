"""Another node generates whole answers, and they are what one node alone answers; what is lost on the way goes on.

The one node computes by the plain step (see test_swarm.py), so that tokens and log-probabilities are the same numbers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from blyan.inference.delegate_host import DelegateHost
from blyan.inference.delegating import Delegating, DelegationOptions
from blyan.inference.leads import Usual
from blyan.network.link import Link
from blyan.network.streams import Outlet, Streaming
from blyan.node import builtin
from blyan.primitives.errors import Busy
from blyan.primitives.ids import PayloadId
from blyan.wire.framing import Message, WireTensor
from blyan.wire.generation import ChunkWriter, SentStep, parse_order
from blyan.wire.peer import Holding
from crooked_node import CrookedNode
from lone_expert import ALONE, DOES_WITHOUT, NEEDS_IT
from nodes import install_builtin, serving
from swarm_in_process import Member, in_one_process, until
from swarm_nodes import Heard, ask, everything, nothing, part_of_builtin

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

PROMPTS = [NEEDS_IT, DOES_WITHOUT]
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 24}
SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95, "frequency_penalty": 0.4, "seed": 7, "max_tokens": 24}
PLAIN = {"expert_memory": "0B"}


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


def assert_same(expected: Heard, found: Heard, tolerance: float = 5e-6) -> None:
    """Token for token; of the log-probabilities jitted code, which may compute by now, rounds some otherwise."""
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
    """Greedy and seeded, streamed and whole; the one expert that the lead lacks is called."""
    gateway, lead = swarm
    before = replace(delegating(gateway).counters)
    for number, (prompt, options, expected) in enumerate(alone):
        assert_same(expected, await ask(gateway.url, prompt, stream=bool(number % 2), **options))
    counted = delegating(gateway).counters
    assert counted.asked - before.asked == len(alone)
    assert (counted.own, counted.failovers) == (before.own, before.failovers)
    assert gateway.peering.executor.counters.messages == 0
    assert lead.peering.executor.counters.messages > 0


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
async def test_an_answer_says_who_generated_it(swarm: tuple[Member, Member], path: str) -> None:
    """Though nobody charges for it."""
    gateway, lead = swarm
    body = {"model": builtin.name, "messages": [{"role": "user", "content": DOES_WITHOUT}], "stream": False}
    async with aiohttp.ClientSession(gateway.url) as session, session.post(path, json=body) as response:
        usage = (await response.json())["usage"]
    assert usage["computed"] == {"plan": "static_delegate", "nodes": [lead.peering.identity.key.public]}


async def test_a_delegated_answer_takes_one_round_trip_where_experts_take_one_each(
    swarm: tuple[Member, Member],
    trips: Callable[[], int],
    alone: list[tuple[str, dict[str, Any], Heard]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At least 95 % fewer: of an answer that needs no expert that the lead lacks, where nobody is held up."""
    monkeypatch.setattr("blyan.inference.delegating._silence_s", 5.0)
    gateway, _ = swarm
    prompt, options, expected = next(each for each in alone if each[0] == DOES_WITHOUT)
    assert_same(expected, await ask(gateway.url, prompt, **options))
    delegated = trips()
    monkeypatch.setattr(gateway.node.answering, "excluded", lambda *_: frozenset({"static_delegate"}))
    assert_same(expected, await ask(gateway.url, prompt, **options))
    called = trips() - delegated
    print(f"round trips of {len(expected.tokens)} tokens: {delegated} delegated, {called} with experts called")
    assert delegated <= 0.05 * called


async def test_an_answer_by_a_grammar_is_not_delegated(swarm: tuple[Member, Member]) -> None:
    gateway, _ = swarm
    before = delegating(gateway).counters.asked
    heard = await ask(gateway.url, DOES_WITHOUT, max_tokens=8, response_format={"type": "json_object"})
    assert heard.error is None
    assert delegating(gateway).counters.asked == before


async def test_a_caller_who_leaves_ends_it_at_the_lead(swarm: tuple[Member, Member]) -> None:
    """Within the time of a few tokens: nothing is computed that nobody reads."""
    gateway, lead = swarm
    left = host(lead).counters.left
    body = {"model": builtin.name, "messages": [{"role": "user", "content": DOES_WITHOUT}], "stream": True}
    body |= {"max_tokens": 900, "ignore_eos": True}
    async with aiohttp.ClientSession(gateway.url) as session, session.post("/v1/chat/completions", json=body) as got:
        assert got.status == 200, await got.text()
        await got.content.readline()
        await until(lambda: host(lead).under_way == 1, "it under way")
        link = gateway.peering.links.link(lead.peering.identity.key.public)
        assert link is not None
        await until(lambda: link.peer.queue == 1, "others to be told")
    await until(lambda: host(lead).under_way == 0, "it ended", 3)
    await until(lambda: lead.node.scheduler.depth() == (0, 0), "its pages free", 3)
    assert host(lead).counters.left == left + 1
    assert delegating(gateway).under_way == 0


async def test_who_drains_sees_the_whole_answers_that_it_leads(swarm: tuple[Member, Member]) -> None:
    """Until the last of them has ended."""
    gateway, lead = swarm
    body = {"model": builtin.name, "messages": [{"role": "user", "content": DOES_WITHOUT}], "stream": True}
    async with aiohttp.ClientSession(gateway.url) as session, aiohttp.ClientSession(lead.url) as there:
        async with session.post("/v1/chat/completions", json=body | {"max_tokens": 900, "ignore_eos": True}) as got:
            await got.content.readline()
            await until(lambda: host(lead).under_way == 1, "it under way")
            async with there.post("/network/drain", json={"draining": True}) as answer:
                said = await answer.json()
            assert (said["left"]["answers"], said["under_way"] >= 1) == (1, True)
            async with there.get("/network/nodes") as answer:
                own = (await answer.json())["self"]
            assert (own["draining"], own["left"]["answers"], own["under_way"] >= 1) == (True, 1, True)
        await until(lambda: host(lead).under_way == 0, "it ended", 3)
        async with there.post("/network/drain", json={"draining": False}) as answer:
            assert (await answer.json())["left"]["answers"] == 0


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


async def test_a_lead_whose_link_is_silent_is_not_asked(
    swarm: tuple[Member, Member], alone: list[tuple[str, dict[str, Any], Heard]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits once more to find out what its unanswered pings have shown: experts are called at once."""
    gateway, _ = swarm
    monkeypatch.setattr("blyan.inference.leads._quiet_s", -1.0)
    prompt, options, expected = alone[0]
    before = replace(delegating(gateway).counters)
    assert_same(expected, await ask(gateway.url, prompt, **options))
    counted = delegating(gateway).counters
    assert (counted.asked - before.asked, counted.own - before.own) == (0, 1)


Give = Callable[[Link, Message, Outlet], Awaitable[Message]]


async def endless(_link: Link, _message: Message, outlet: Outlet) -> Message:
    """Pieces that nobody granted."""
    while True:
        await outlet._send({"re": outlet.number, "more": True}, ())
        await asyncio.sleep(0)  # in the test's own loop: others must have their turn


async def garbled(_link: Link, message: Message, outlet: Outlet) -> Message:
    """A chunk whose digest is another's."""
    chunk = ChunkWriter(parse_order(message)).chunk([SentStep(5, -1.0, (), ())])
    await outlet.send(Message({**chunk.fields, "digest": "0" * 64}, chunk.tensors))
    return Message({}, ())


async def oversized(_link: Link, _message: Message, outlet: Outlet) -> Message:
    """A chunk of a megabyte."""
    await outlet.send(Message({"at": 0}, (WireTensor("tokens", "U8", (1 << 20,), bytes(1 << 20)),)))
    return Message({}, ())


async def elsewhere(_link: Link, _message: Message, outlet: Outlet) -> Message:
    """A piece of a request that nobody made."""
    await outlet._send({"re": outlet.number + 1_000, "more": True}, ())
    await asyncio.Event().wait()
    return Message({}, ())


async def ended(_link: Link, _message: Message, _outlet: Outlet) -> Message:
    """No steps at all."""
    return Message({"more": False}, ())


async def unwilling(_link: Link, _message: Message, _outlet: Outlet) -> Message:
    """A refusal with words that nobody should see."""
    raise Busy("\x1b[2Jno\n" * 1_000)


async def idle(_link: Link, _message: Message, _outlet: Outlet) -> Message:
    """Answers pings, and nothing else."""
    await asyncio.Event().wait()
    return Message({}, ())


@pytest.mark.parametrize("give", [endless, garbled, oversized, elsewhere, ended, unwilling, idle])
async def test_a_lead_that_gives_no_steps_is_replaced(
    swarm: tuple[Member, Member],
    folders: tuple[Path, PayloadId],
    alone: list[tuple[str, dict[str, Any], Heard]],
    monkeypatch: pytest.MonkeyPatch,
    give: Give,
) -> None:
    """Whatever it does: the answer is the honest one's."""
    gateway, lead = swarm
    asks, (root, manifest) = delegating(gateway), folders
    monkeypatch.setattr(asks, "options", DelegationOptions(0.3, 0.3))
    asks.leads._refused.clear()  # what an earlier test had it refuse
    slow = Usual(9.0, 0.0, jitted=True, at=asks.monotonic())
    monkeypatch.setitem(asks.leads._usual, lead.peering.identity.key.public, slow)  # so the other is asked first
    prompt, options, expected = alone[0]
    before = replace(asks.counters)
    asked: list[str] = []

    async def crooked(link: Link, message: Message, outlet: Outlet) -> Message:
        asked.append(message.fields["model"])
        return await give(link, message, outlet)

    async with CrookedNode(root / "whole", manifest) as node:
        node.changes["holdings"] = {manifest: Holding(True, b"\xff" * 64)}
        node.handlers["generate"] = Streaming(crooked)
        await node.dial(f"wss://127.0.0.1:{gateway.peering.port}")
        await until(lambda: node.key.public in gateway.links, "its link")
        assert_same(expected, await ask(gateway.url, prompt, **options))
        assert asked == [manifest]
        assert asks.counters.failovers == before.failovers + 1
        assert asks.counters.own == before.own
    await until(lambda: node.key.public not in gateway.links, "it gone")
