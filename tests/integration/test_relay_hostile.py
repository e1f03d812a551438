"""No relay can do more than refuse: what is flipped, cut, swallowed, replayed or misdirected is a fault."""

from __future__ import annotations

import asyncio

import pytest

from blyan.network.dialling import Expected, relayed_url
from blyan.network.questions import LinkLost
from blyan.primitives import limits
from blyan.primitives.errors import PeerFault
from relays import ChangingRelay, Impersonator, MisleadingRelay, RelayNode, relay_host, tensor, three


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("sealed", [False, True])
async def test_a_relay_that_flips_bits_while_a_link_is_made_gets_none_made(side: int, sealed: bool) -> None:
    """Whichever of both says them, in the open part of the TLS handshake or after it, in every attempt."""

    class Flips(ChangingRelay):
        def change(self, at: int, data: bytes) -> bytes:
            flip = at == side and len(data) > 100 and sealed == (data[0] != 0x16)
            return data[:-1] + bytes([data[-1] ^ 1]) if flip else data

    async with three(relay_host(Flips)) as (relay, node, caller):
        with pytest.raises(PeerFault):
            await caller.call(relay, node)
        assert [link.peer.node for link in caller.links] == [relay.key]


@pytest.mark.parametrize("side", [0, 1])
async def test_a_relay_that_flips_a_bit_of_a_call_ends_the_link(side: int) -> None:
    """The caller gets a fault, never other bytes."""
    flips = asyncio.Event()

    class Flips(ChangingRelay):
        def change(self, at: int, data: bytes) -> bytes:
            flip = flips.is_set() and at == side and len(data) > 1_000
            return data[:500] + bytes([data[500] ^ 0x80]) + data[501:] if flip else data

    async with three(relay_host(Flips)) as (relay, node, caller):
        link = await caller.call(relay, node)
        await link.request("echo", {}, (tensor(50_000),), seconds=5)
        flips.set()
        with pytest.raises(LinkLost):
            await link.request("echo", {}, (tensor(50_000),), seconds=5)
        assert not link.open


async def test_a_relay_that_cuts_in_the_midst_of_a_call_ends_it() -> None:
    """And a new tunnel serves again."""
    cuts = asyncio.Event()

    class Cuts(ChangingRelay):
        def change(self, side: int, data: bytes) -> bytes | None:
            return None if cuts.is_set() and side == 1 else data

    async with three(relay_host(Cuts)) as (relay, node, caller):
        link = await caller.call(relay, node)
        cuts.set()
        with pytest.raises(LinkLost):
            await link.request("echo", {}, (tensor(1 << 20),), seconds=5)
        cuts.clear()
        again = await caller.call(relay, node)
        assert (await again.request("echo", {"say": 1}, seconds=5)).fields["said"] == 1


async def test_a_relay_that_swallows_what_is_said_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the time that a link may take to be made."""
    monkeypatch.setattr(limits, "link_handshake_seconds_max", 1.0)

    class Swallows(ChangingRelay):
        def change(self, side: int, data: bytes) -> bytes:
            return b"" if side == 1 else data

    async with three(relay_host(Swallows)) as (relay, node, caller):
        await caller.dial(relay.url)
        with pytest.raises(PeerFault, match="silence for 1 s"):
            await caller.call(relay, node)


async def test_a_relay_that_plays_an_earlier_tunnel_again_is_not_believed() -> None:
    """Byte for byte what the node said to the same caller before."""
    said: list[bytes] = []

    class Replays(ChangingRelay):
        replaying = False

        def change(self, side: int, data: bytes) -> bytes:
            if not self.replaying:
                said.extend([data] * (side == 1))
                return data
            return b"" if side == 0 or not said else said.pop(0)

        async def _copy(self, tunnel, side: int) -> None:
            if self.replaying and side == 1:
                for data in said:
                    await tunnel.ends[0].send_bytes(data)
            await super()._copy(tunnel, side)

    host = relay_host(Replays)
    async with three(host) as (relay, node, caller):
        link = await caller.call(relay, node)
        await link.request("echo", {}, seconds=5)
        await link.close()
        assert said
        host.replaying = True
        with pytest.raises(PeerFault):
            await caller.call(relay, node)


@pytest.mark.parametrize("known", [True, False])
async def test_a_relay_that_connects_to_another_member_is_found_out(known: bool) -> None:
    """By that member's key, whether or not the node's certificate was known before; nothing is asked of the other."""
    host = relay_host(MisleadingRelay)
    async with three(host) as (relay, node, caller), RelayNode() as other:
        await other.offer(relay)
        host.instead = other.key
        await caller.dial(relay.url)
        certificate = node.identity.certificate_hash if known else None
        with pytest.raises(PeerFault, match=f"expected node {node.key}, found {other.key}"):
            await caller.dial(relayed_url(relay.key), Expected(node.key, certificate))
        assert caller.key not in {link.peer.node for link in other.links}


@pytest.mark.parametrize("claims", [True, False])
async def test_a_relay_that_opens_the_tls_and_passes_on_what_is_said_is_found_out(claims: bool) -> None:
    """With a certificate of its own, which it says is the node's, or with the node's, which it cannot show."""
    async with three() as (relay, node, caller), Impersonator(node, claims_own_certificate=claims) as between:
        node.client._door = ("127.0.0.1", between.port)
        await caller.dial(relay.url)
        with pytest.raises(PeerFault):
            await caller.dial(relayed_url(relay.key), Expected(node.key))
        assert between.passed == int(claims)
        assert caller.key not in {link.peer.node for link in node.links}
