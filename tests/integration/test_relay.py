"""Calls through a relay: they give what direct calls give, and no relay can do more than refuse them."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from blyan.network.dialling import Expected, relayed_url
from blyan.network.handshake import Swarm
from blyan.network.identity import client_context
from blyan.network.link import Link
from blyan.network.questions import Refused
from blyan.network.relay import accept_kind, offer_kind, open_kind, token_header, tunnel_path
from blyan.primitives.errors import Denied, PeerFault
from blyan.wire.framing import Message
from relays import SECRET, ChangingRelay, RelayNode, relay_host, tensor, three, until


async def test_a_call_through_a_relay_gives_what_a_direct_one_gives() -> None:
    """Also megabytes, both ways, several at once; and the peer is the node itself, not the relay."""
    async with three() as (relay, node, caller):
        link = await caller.call(relay, node)
        assert (node.key, node.identity.boot) == (link.peer.node, link.peer.boot)
        assert link.url == relayed_url(relay.key)
        direct = await caller.dial(node.url)
        sizes = (1, 70_000, 5 << 20)
        for way in (link, direct):
            made = await asyncio.gather(
                *(way.request("echo", {"say": size}, (tensor(size),), seconds=10) for size in sizes)
            )
            assert list(sizes) == [answer.fields["said"] for answer in made]
            assert [bytes(tensor(size).data) for size in sizes] == [bytes(each.tensors[0].data) for each in made]
        back = next(each for each in node.links if each.peer.node == caller.key)
        answer = await back.request("echo", {"say": "you"}, seconds=5)
        assert answer.fields["said"] == "you"


async def test_a_relay_sees_records_of_tls_and_nothing_of_what_is_said() -> None:
    """The bytes that pass begin with a TLS handshake and hold neither words nor tensors."""
    seen: dict[int, bytearray] = {0: bytearray(), 1: bytearray()}

    class Spy(ChangingRelay):
        def change(self, side: int, data: bytes) -> bytes:
            seen[side] += data
            return data

    async with three(relay_host(Spy)) as (relay, node, caller):
        link = await caller.call(relay, node)
        await link.request("echo", {"say": SECRET.decode()}, (tensor(100_000),), seconds=5)
        for said in seen.values():
            assert len(said) > 100_000
            assert bytes((0x16, 0x03)) == said[:2]
            for plain in (SECRET, b"peer/v1", b"echo", node.key.encode()):
                assert plain not in said


async def test_a_node_that_did_not_offer_itself_is_not_reached() -> None:
    """The caller is told by the relay, and the relay has begun nothing."""
    async with three() as (relay, _, caller), RelayNode() as other:
        await other.dial(relay.url)
        with pytest.raises(PeerFault, match="expected a node that is reached through this one"):
            await caller.call(relay, other)
        assert relay.host.tunnels == 0


async def test_a_node_that_went_away_is_not_reached_any_more() -> None:
    """Its link ended, and with it its offer."""
    async with three() as (relay, node, caller):
        await node.link(relay.key).close()
        await until(lambda: not relay.host.nodes)
        with pytest.raises(PeerFault, match="expected a node that is reached"):
            await caller.call(relay, node)
        assert node.client.urls == ()


async def test_a_node_offers_itself_again_when_its_relay_is_back() -> None:
    """On the new link."""
    async with three() as (relay, node, caller):
        await node.link(relay.key).close()
        await until(lambda: not node.client.urls)
        await node.offer(relay)
        link = await caller.call(relay, node)
        assert node.key == link.peer.node


async def test_without_a_link_to_the_relay_or_the_nodes_key_nobody_is_called() -> None:
    """It is said what is missing."""
    async with three() as (relay, node, caller):
        with pytest.raises(PeerFault, match="expected a link to its relay"):
            await caller.dial(relayed_url(relay.key), Expected(node.key))
        await caller.dial(relay.url)
        with pytest.raises(PeerFault, match="expected a node that is known"):
            await caller.dial(relayed_url(relay.key))


async def test_a_member_of_another_swarm_gets_no_tunnel() -> None:
    """It gets no link to the relay at all."""
    async with three() as (relay, _, _), RelayNode(swarm=Swarm(bytes(16))) as stranger:
        with pytest.raises((PeerFault, Denied)):
            await stranger.dial(relay.url)


async def test_an_end_without_a_token_is_closed_without_a_word() -> None:
    """Not even a status; and a token serves once."""
    async with three() as (relay, node, caller), aiohttp.ClientSession() as session:
        link = await caller.dial(relay.url)
        url = relay.url.replace("wss", "https") + tunnel_path
        answer = await link.request(open_kind, {"node": node.key}, seconds=5)
        token = answer.fields["token"]
        first = await session.ws_connect(url, ssl=client_context(), headers={token_header: token})
        for headers in ({}, {token_header: "ab" * 32}, {token_header: token}):
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await session.ws_connect(url, ssl=client_context(), headers=headers)
        await first.close()


async def test_a_node_comes_for_its_own_relays_alone() -> None:
    """Another member that sends it somewhere is refused."""
    async with three() as (_, node, caller):
        link = await caller.dial(node.url)
        with pytest.raises(Refused, match="expected one of this node's relays"):
            await link.request(accept_kind, {"token": "ab" * 32, "caller": caller.key}, seconds=5)
        assert node.tunnels.count == 0


async def test_a_relay_that_refuses_is_not_asked_again_at_once() -> None:
    """The node goes on without it, and says no such address."""
    asked: list[Link] = []

    async def refuse(link: Link, _message: Message) -> Message:
        asked.append(link)
        raise Denied("relay: expected somebody else")

    async with RelayNode(handlers={offer_kind: refuse}) as other, RelayNode() as node:
        node.relays.add(other.key)
        link = await node.dial(other.url)
        await until(lambda: bool(asked))
        await asyncio.sleep(0.8)
        assert len(asked) == 1
        assert node.client.urls == ()
        assert link.open


async def test_a_node_whose_own_port_does_not_answer_says_so() -> None:
    """At once, to the caller."""
    async with three() as (relay, node, caller):
        node.client._door = ("127.0.0.1", 1)
        with pytest.raises(PeerFault, match="expected the node's own peer port"):
            await caller.call(relay, node)
        assert relay.host.tunnels == node.tunnels.count == 0
