"""Expert nodes die, stand still, vanish and come back in the middle of answers: the same tokens, after a short pause.

Every expert is on two of four nodes, save one that the last node alone holds. What is lost with that is said clearly.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable, Iterator

import aiohttp
import pytest

from lone_expert import ALONE, DOES_WITHOUT, NEEDS_IT
from swarm_faults import FAULTS, kill, stop, swallow, throttle
from swarm_nodes import Heard, Swarm, SwarmNode, ask, every, nothing, part_of_builtin, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.usefixtures("whole_again")]

PROMPT = NEEDS_IT
TOKENS = 90
CALL_SECONDS = 3
PAUSE_MAX_S = 3.0  # of a machine that does other things; what is aimed at is one


def kept(number: int) -> Callable[[int, int], bool]:
    shared = every(4, number, (number + 1) % 4)
    return lambda layer, expert: number == 3 if (layer, expert) == ALONE else shared(layer, expert)


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """A gateway with the trunk alone, and four expert nodes behind proxies."""
    root = tmp_path_factory.mktemp("faults")
    part_of_builtin(root / "gateway", nothing, True)
    for number in range(4):
        part_of_builtin(root / f"expert{number}", kept(number), False)
    gateway = SwarmNode(root / "gateway", call_seconds=str(CALL_SECONDS))
    with Swarm(gateway, [SwarmNode(root / f"expert{number}") for number in range(4)]) as made:
        yield made


async def long_answer(swarm: Swarm, *at: tuple[int, Callable[[], object]]) -> Heard:
    """`PROMPT` with things happening on the way."""
    return await ask(swarm.gateway.url, PROMPT, at=dict(at), ignore_eos=True, max_tokens=TOKENS)


def assert_survived(expected: Heard, found: Heard, what: str) -> None:
    assert found.error is None
    assert found.tokens == expected.tokens
    print(f"{what}: longest pause {found.pause * 1000:.0f} ms, whole answer {found.seconds:.2f} s")
    assert found.pause < PAUSE_MAX_S


@pytest.mark.parametrize("fault", [*FAULTS, throttle], ids=lambda fault: fault.__name__)
async def test_an_answer_survives_a_node(swarm: Swarm, expected: Heard, fault: Callable[[Swarm, int], None]) -> None:
    """Killed, stopped, black-holed, cut off or garbled after twenty tokens, with a replica of what it holds."""
    found = await long_answer(swarm, (20, lambda: fault(swarm, 1)))
    assert_survived(expected, found, fault.__name__)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("fault", [kill, stop, swallow], ids=lambda fault: fault.__name__)
async def test_a_node_that_comes_back_is_asked_again(
    swarm: Swarm, expected: Heard, fault: Callable[[Swarm, int], None]
) -> None:
    """Another process of the same key, or the same one that stood still: expert calls go through its proxy again."""
    victim, proxy = swarm.experts[0], swarm.proxies[0]

    def back() -> None:
        proxy.heal()
        if victim.running:
            victim.send(signal.SIGCONT)
        else:
            victim.start()

    assert_survived(expected, await long_answer(swarm, (15, lambda: fault(swarm, 0))), f"{fault.__name__}, then back")
    if fault is swallow:
        silent = lambda: victim.key[:12] not in swarm.gateway.linked()  # noqa: E731
        await asyncio.to_thread(wait_for, silent, "its silence to be noticed")
    await asyncio.to_thread(back)
    await asyncio.to_thread(swarm.gateway.wait_linked, swarm.experts)
    until = time.monotonic() + 100  # others hold the same: it is asked when they are slower, or were long not compared
    while True:
        before = proxy.up.passed
        assert_survived(expected, await long_answer(swarm), "after it came back")
        if proxy.up.passed - before > 20_000:  # pings and gossip are far less
            return
        assert time.monotonic() < until, "expected traffic within 100 s"


async def test_two_nodes_fall_one_after_the_other(swarm: Swarm, expected: Heard) -> None:
    """One is killed, then another stands still: each expert has one holder left."""
    found = await long_answer(swarm, (15, lambda: kill(swarm, 0)), (45, lambda: stop(swarm, 2)))
    assert_survived(expected, found, "two nodes")


async def test_what_no_live_node_holds_is_said_and_the_rest_goes_on(swarm: Swarm, expected: Heard) -> None:
    """A stream ends with `expert_unavailable` in time, a new request gets 503, one that needs it not is answered.

    The second to ask does not wait as long as the first: it is known by then. Once the node is back the same request
    is answered.
    """
    greeting = await ask(swarm.gateway.url, DOES_WITHOUT, max_tokens=16)
    broken = await long_answer(swarm, (5, lambda: kill(swarm, 3)))
    assert broken.error is not None
    assert (broken.error["code"], broken.status) == ("expert_unavailable", 200)
    assert 5 <= len(broken.tokens) < TOKENS
    assert broken.tokens == expected.tokens[: len(broken.tokens)]
    assert broken.seconds - broken.times[-1] < CALL_SECONDS + 1.5
    refused, other = await asyncio.gather(
        ask(swarm.gateway.url, PROMPT, max_tokens=16, stream=False),
        ask(swarm.gateway.url, DOES_WITHOUT, max_tokens=16),
    )
    assert (refused.status, refused.error and refused.error["code"]) == (503, "expert_unavailable")
    assert refused.seconds < CALL_SECONDS
    assert (other.error, other.tokens) == (None, greeting.tokens)
    assert other.seconds < CALL_SECONDS
    swarm.experts[3].start()
    await asyncio.to_thread(swarm.gateway.wait_linked, swarm.experts)
    assert_survived(expected, await long_answer(swarm), "after the only holder came back")


@pytest.mark.parametrize("round_trip_s", [0.03, 0.3])
async def test_a_node_that_is_many_times_slower_is_left_aside(
    swarm: Swarm, expected: Heard, round_trip_s: float
) -> None:
    """In the middle of an answer one node's link becomes ten, a hundred times slower; the answer does not."""
    plain = await long_answer(swarm)
    found = await long_answer(swarm, (10, lambda: swarm.proxies[2].delay(round_trip_s)))
    assert_survived(expected, found, f"one node at a round trip of {round_trip_s * 1000:.0f} ms")
    print(f"undisturbed: {plain.seconds:.2f} s")
    assert found.seconds < plain.seconds + 6


async def test_all_links_are_slow_and_uneven(swarm: Swarm, expected: Heard) -> None:
    """Round trips of 5 to 15 ms: the same tokens."""
    for proxy in swarm.proxies:
        proxy.delay(0.005, jitter_s=0.01)
    assert_survived(expected, await long_answer(swarm), "slow links")


async def test_a_gateway_that_is_told_to_stop_ends_its_streams(swarm: Swarm, expected: Heard) -> None:
    """SIGTERM in the middle of an answer: it is finished, within `http.shutdown_seconds`, and the process ends."""
    found = await long_answer(swarm, (20, lambda: swarm.gateway.send(signal.SIGTERM)))
    assert_survived(expected, found, "gateway told to stop")
    assert found.finish == "length"
    assert await asyncio.to_thread(swarm.gateway.wait, 10) == 0


async def test_a_gateway_that_was_killed_finds_its_peers_without_being_told(swarm: Swarm, expected: Heard) -> None:
    """SIGKILL, and a start without `network.join`: the peers that it wrote down are dialled, the next chat answered."""
    peers = swarm.gateway.data_dir / "peers.json"
    addresses = {node.settings["announce"] for node in swarm.experts}

    def written() -> bool:
        return peers.exists() and addresses <= {url for url, _ in json.loads(peers.read_bytes())["peers"]}

    await asyncio.to_thread(wait_for, written, "the peers to be written down", 25)
    with pytest.raises(aiohttp.ClientError):
        await long_answer(swarm, (20, swarm.gateway.kill))
    join = swarm.gateway.settings.pop("join")
    try:
        await asyncio.to_thread(swarm.gateway.start)
        assert_survived(expected, await long_answer(swarm), "gateway killed and started again")
        await asyncio.to_thread(swarm.gateway.wait_linked, swarm.experts)
    finally:
        swarm.gateway.settings["join"] = join
