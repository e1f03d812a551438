"""What one address, and one member, may have of a peer port: links, connections that fetch, and bytes of blobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from blyan.network import door
from blyan.network.blob_connections import BlobConnections
from blyan.network.door import blobs_path
from blyan.network.serving_rate import ServingRate, served_bytes
from blyan.node.network_config import NetworkConfig
from blyan.primitives import limits
from blyan.primitives.clock import system_entropy, system_monotonic
from blyan.primitives.errors import InvalidInput, PeerFault
from blyan.storage.blob_store import BlobStore
from relays import RelayNode, until
from swarms import node as key_of

BLOB = system_entropy(limits.MIB)


@pytest.fixture
async def here() -> AsyncIterator[RelayNode]:
    async with RelayNode() as node:
        yield node


async def test_many_keys_of_one_address_take_no_more_links_than_an_address_may_have(
    here: RelayNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others come in, and the address again where a link of it has ended."""
    here.door._address_links = 3
    async with AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(RelayNode()) for _ in range(5)]
        links = [await each.dial(here.url) for each in callers[:3]]
        with pytest.raises(PeerFault):
            await callers[3].dial(here.url)
        assert len(here.door._links) == 3
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(door, "site", lambda _peer: "192.0.2.7")
            assert (await callers[4].dial(here.url)).open
        await links[0].close()
        await until(lambda: len(here.door._links) == 3)
        assert (await callers[3].dial(here.url)).open


async def test_all_nodes_that_fetch_have_the_same_share_of_the_rate() -> None:
    """However many connections one has; all together keep to it."""
    rate = 2 * limits.MIB
    serving, sent = ServingRate(rate, system_monotonic), {1: 0, 2: 0}

    async def fetch(number: int) -> None:
        turn = serving.turn(key_of(number))
        assert turn is not None
        while True:
            await turn(served_bytes)
            sent[number] += served_bytes

    began = time.monotonic()
    tasks = [asyncio.create_task(fetch(number)) for number in (1, 1, 1, 1, 1, 1, 1, 2)]
    await asyncio.sleep(1)
    for task in tasks:
        task.cancel()
    assert sum(sent.values()) <= rate * (time.monotonic() - began + 0.2)
    assert 0.7 < sent[1] / sent[2] < 1.4
    assert ServingRate(0, system_monotonic).turn(key_of(1)) is None


async def test_who_calls_off_what_it_asks_for_takes_nothing_from_others() -> None:
    """Again and again: what does not leave does not count."""
    now = [0.0]
    serving = ServingRate(served_bytes, lambda: now[0])
    theirs, mine = serving.turn(key_of(1)), serving.turn(key_of(2))
    assert theirs is not None and mine is not None
    await theirs(served_bytes // 10)  # what passes at once
    for _ in range(50):
        task = asyncio.ensure_future(theirs(served_bytes))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
    now[0] += 0.1
    async with asyncio.timeout(1):
        await mine(served_bytes // 10)


async def fetched(session: aiohttp.ClientSession, url: str, token: str) -> tuple[int, bytes]:
    async with session.get(url, headers={"Authorization": f"Bearer {token}"}, ssl=False) as answer:
        return answer.status, await answer.read()


async def test_a_members_connections_have_a_limit_and_its_bytes_a_rate(
    here: RelayNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each beyond the limit is told to come later; one that is used again counts once."""
    monkeypatch.setattr(limits, "blob_connections_node_max", 2)
    store = here.door._store
    assert isinstance(store, BlobStore)
    payload = store.put([BLOB]).payload
    here.door._rate = ServingRate(2 * limits.MIB, system_monotonic)
    async with RelayNode() as caller, aiohttp.ClientSession() as session:
        link = await caller.dial(here.url)
        token = (await link.request("token", {}, seconds=5)).fields["token"]
        url = f"{here.url.replace('wss', 'https')}{blobs_path}/{payload}"
        began = time.monotonic()
        asked = [asyncio.create_task(fetched(session, url, token)) for _ in range(3)]
        await until(lambda: here.door.sending == 2)
        found = await asyncio.gather(*asked)
        assert sorted(status for status, _ in found) == [200, 200, 503]
        assert all(body == BLOB for status, body in found if status == 200)
        assert time.monotonic() - began > 0.7
        assert here.door.sending == 0
        assert await fetched(session, url, token) == (200, BLOB)


class Wire(asyncio.Transport):
    """A connection that can be cut."""

    closed = False

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def test_many_keys_of_one_address_keep_nobody_else_from_fetching(monkeypatch: pytest.MonkeyPatch) -> None:
    """It loses its oldest connections, until others have as many."""
    monkeypatch.setattr(limits, "blob_connections_max", 32)
    fetching = BlobConnections()
    many = [Wire() for _ in range(32)]
    for place, each in enumerate(many):
        assert fetching.may(each, key_of(place // 16), "192.0.2.1")
    assert not fetching.may(Wire(), key_of(3), "192.0.2.1")
    assert fetching.may(many[0], key_of(0), "192.0.2.1"), "one that it has"
    others = [Wire() for _ in range(40)]
    taken = [fetching.may(each, key_of(4 + place // 16), "192.0.2.2") for place, each in enumerate(others)]
    assert sum(taken) in (15, 16)
    assert [each.closed for each in many] == [True] * sum(taken) + [False] * (32 - sum(taken))
    assert not any(each.closed for each in others)
    assert len(fetching) == 32


@pytest.mark.parametrize("setting", [{"address_links": 0}, {"address_links": 1_025}, {"serve_rate": "much"}])
def test_a_setting_that_makes_no_sense_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=f"network.{next(iter(setting))}: expected"):
        NetworkConfig(**setting)
    assert NetworkConfig(serve_rate="20MiB").serve_bytes == 20 * limits.MIB
