"""News of nodes by Redis: what lies there is believed for what it proves, and for as long as gossip would be."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from blyan.network.gossip import SummaryTable
from blyan.network.links import GossipPace
from blyan.network.redis_gossip import RedisGossip
from blyan.primitives import limits
from blyan.primitives.clock import system_monotonic
from blyan.primitives.keys import Key
from blyan.storage.redis_link import RedisLink
from blyan.wire.peer import Summary
from redis_service import RedisServer, started_redis

TAG = "ab" * 8
STREAM = f"blyan:{{network}}:summaries:{TAG}"


class Speaker:
    """A node that says and hears by Redis alone."""

    def __init__(self, url: str, seed: int) -> None:
        self.key = Key.from_seed(bytes([seed]) * 32)
        self.said = Summary(self.key.public, f"{seed:032x}", 1_700_000_000, 1, "00" * 32, TAG).sign(self.key)
        self.heard: list[tuple[Summary, float]] = []
        self.turns: list[tuple[bool, float]] = []
        link = RedisLink(url, "network", "network.redis", limits.redis_look_seconds_max)
        self.gossip = RedisGossip(link, TAG, lambda: self.said, self._hear, self._turn, system_monotonic, lambda: 0.5)

    def say(self, **changes: object) -> Summary:
        """Another summary of this process."""
        self.said = replace(self.said, sequence=self.said.sequence + 1, signed=b"", **changes).sign(self.key)
        return self.said

    def heard_of(self, other: Speaker) -> int:
        """The newest sequence."""
        return max((each.sequence for each, _ in self.heard if each.node == other.key.public), default=0)

    def _hear(self, summary: Summary, age: float) -> None:
        self.heard.append((summary, age))

    def _turn(self, up: bool) -> None:
        self.turns.append((up, system_monotonic()))


@contextlib.asynccontextmanager
async def speaking(*speakers: Speaker) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(each.gossip.run()) for each in speakers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(what: Callable[[], object], seconds: float = 5.0) -> None:
    end = system_monotonic() + seconds
    while not what():
        assert system_monotonic() < end, "expected in time"
        await asyncio.sleep(0.01)


def put(server: RedisServer, *fields: bytes, name: str = "*") -> None:
    """An entry of somebody who may write there."""
    words = [b"XADD", STREAM.encode(), name.encode(), *fields]
    raw = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
    with socket.socket(socket.AF_UNIX) as talk:
        talk.connect(server.url.removeprefix("unix://"))
        talk.sendall(raw)
        assert talk.recv(100)[:1] == b"$", "taken"


def bytes_out(server: RedisServer) -> int:
    """That Redis has sent to all."""
    return int(server.say("INFO", "stats").split(b"total_net_output_bytes:")[1].split(b"\r\n")[0])


async def test_nodes_hear_of_each_other_and_of_what_changes(redis_url: str) -> None:
    """Who comes later reads what was said before it came; nobody is told of itself."""
    one, two = Speaker(redis_url, 1), Speaker(redis_url, 2)
    async with speaking(one):
        await until(lambda: one.gossip.counters.sent)
        async with speaking(two):
            await until(lambda: two.heard_of(one) == 1 and one.heard_of(two) == 1)
            one.say(draining=True)
            await until(lambda: two.heard_of(one) == 2)
            assert two.heard[-1][0].draining
            one.say(queue=3)  # the load alone
            await asyncio.sleep(0.8)
            assert (one.gossip.counters.sent, two.heard_of(one)) == (2, 2)
    assert one.heard_of(one) == 0


async def test_what_is_no_summary_of_this_swarm_is_not_believed(redis_server: RedisServer, redis_url: str) -> None:
    """Forged, foreign, too long, unprintable, of other fields: counted, and what comes after it is read."""
    one, two, foreign = Speaker(redis_url, 1), Speaker(redis_url, 2), Speaker(redis_url, 3)
    good, other = two.said.signed, foreign.say(swarm="cd" * 8).signed
    forged = good.replace(b'"sig":"', b'"sig":"00', 1)[:-3] + b'"}'
    long = b'{"v":1}' + b" " * 4_000_000
    for entry in (forged, other, long, b"\xff\xfe", b"{}"):
        put(redis_server, b"summary", entry)
    put(redis_server, b"something", b"else", b"and", b"more")
    before = bytes_out(redis_server)
    put(redis_server, b"summary", good)
    async with speaking(one):
        await until(lambda: one.heard)
        assert [each.node for each, _ in one.heard] == [two.key.public]
        assert one.gossip.counters.refused == 6
    assert bytes_out(redis_server) - before < 100_000, "what is too long never left Redis"


async def test_life_is_counted_from_when_redis_got_it(redis_server: RedisServer, redis_url: str) -> None:
    """What lies there for long is not read, and what is read brings its age."""
    one, two, late = Speaker(redis_url, 1), Speaker(redis_url, 2), Speaker(redis_url, 3)
    seconds, _ = redis_server.say("TIME").split(b"\r\n")[2::2][:2]
    now = int(seconds) * 1000
    put(redis_server, b"summary", late.said.signed, name=f"{now - 70_000}-0")
    put(redis_server, b"summary", two.said.signed, name=f"{now - 50_000}-0")
    async with speaking(one):
        await until(lambda: one.heard)
    ((heard, age),) = one.heard
    assert heard.node == two.key.public
    assert 49 < age < 53
    table = SummaryTable()
    assert table.offer(heard, 100.0, age)
    assert table.live(105.0) and not table.live(112.0), "not a minute from now"


async def test_the_stream_is_bounded_and_goes_when_nobody_speaks(
    redis_server: RedisServer, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "summary_stream_max", 100)
    one = Speaker(redis_url, 1)
    for _ in range(450):
        put(redis_server, b"summary", one.said.signed)
    async with speaking(one):
        await until(lambda: one.gossip.counters.sent)
    assert int(redis_server.say("XLEN", STREAM)[1:]) <= 200
    assert 0 < int(redis_server.say("PTTL", STREAM)[1:]) <= 120_000


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_within_two_seconds_it_is_known_that_redis_is_gone_and_that_it_is_back(how: signal.Signals) -> None:
    """After its return both say anew what they are: it may have lost everything."""
    server = await asyncio.to_thread(started_redis)
    one, two = Speaker(server.url, 1), Speaker(server.url, 2)
    try:
        async with speaking(one, two):
            await until(lambda: one.heard_of(two) and two.heard_of(one))
            gone = system_monotonic()
            if how is signal.SIGKILL:
                await asyncio.to_thread(server.kill)
            else:
                server.send_signal(how)
            await until(lambda: not one.gossip.up and not two.gossip.up)
            assert max(one.turns[-1][1], two.turns[-1][1]) - gone < 2.0
            assert "Redis" in one.gossip.why_not
            one.heard.clear()
            if how is signal.SIGKILL:
                await asyncio.to_thread(server.start)
            else:
                server.send_signal(signal.SIGCONT)
            await until(lambda: one.gossip.up and one.heard_of(two))
            assert [up for up, _ in one.turns] == [True, False, True]
    finally:
        server.send_signal(signal.SIGCONT)
        await asyncio.to_thread(server.close)


async def test_a_clock_that_is_put_back_hides_no_news(redis_server: RedisServer, redis_url: str) -> None:
    one, two = Speaker(redis_url, 1), Speaker(redis_url, 2)
    one.gossip._last = "99999999999999-0"
    async with speaking(one, two):
        await until(lambda: one.heard_of(two))


async def test_it_ends_wherever_in_a_look_it_is_called_off(redis_server: RedisServer, redis_url: str) -> None:
    """Also in the turn in which a part of the look is done, where `asyncio.wait_for` of Python 3.11 forgets it."""
    for turns in range(80):
        one = Speaker(redis_url, 1)
        task = asyncio.create_task(one.gossip.run())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        ended, _ = await asyncio.wait([task], timeout=2)
        assert ended, f"called off after {turns} turns"


async def test_a_rare_rest_ends_at_once_when_gossip_is_the_only_way() -> None:
    pace = GossipPace()
    pace.turn(True)
    rest = asyncio.create_task(pace.rest(1.0))
    await asyncio.sleep(0.05)
    assert not rest.done()
    pace.turn(False)
    async with asyncio.timeout(1):
        await rest
