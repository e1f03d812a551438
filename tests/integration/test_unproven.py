"""Who proves nothing takes few connections of a peer port, and none from others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from blyan.api.serve import descriptors_wanted
from blyan.network import tls
from blyan.network.identity import client_context
from blyan.node.config import NodeConfig
from blyan.node.network_config import NetworkConfig
from blyan.primitives import limits
from relays import RelayNode, until


@asynccontextmanager
async def idle(port: int, count: int, address: str) -> AsyncGenerator[list[asyncio.StreamReader]]:
    """Connections from an address that say nothing; each is seen by the node, or was cut, before the next."""
    pairs = [await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0)) for _ in range(count)]
    try:
        yield [reader for reader, _ in pairs]
    finally:
        for _, writer in pairs:
            writer.transport.abort()


def cut(readers: list[asyncio.StreamReader]) -> int:
    """How many the node ended."""
    return sum(reader.at_eof() or reader.exception() is not None for reader in readers)


async def test_one_address_has_so_many_connections_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the others no buffer and no TLS is made; other addresses come in, and this one again when it let go."""
    monkeypatch.setattr(limits, "unproven_address_max", 20)
    made: list[int] = []
    session = tls._Session.__init__

    def counted(*args: object, **options: object) -> None:
        made.append(1)
        session(*args, **options)  # type: ignore[arg-type]

    async with RelayNode() as node, RelayNode() as caller:
        monkeypatch.setattr(tls._Session, "__init__", counted)
        async with idle(node.port, 100, "127.0.0.9") as readers:
            await until(lambda: cut(readers) == 80)
            assert (len(node.door.unproven), len(made), node.door.unproven.refused) == (20, 20, 80)
            assert (await caller.dial(node.url)).open
        await until(lambda: not len(node.door.unproven))
        async with idle(node.port, 1, "127.0.0.9") as readers:
            await until(lambda: len(node.door.unproven) == 1)
            assert not cut(readers)


async def test_where_all_places_are_taken_who_has_most_gives_one_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its oldest; one who would have as many gets none."""
    monkeypatch.setattr(limits, "unproven_address_max", 20)
    monkeypatch.setattr(limits, "unproven_max", 30)
    async with (
        RelayNode() as node,
        RelayNode() as caller,
        idle(node.port, 20, "127.0.0.8") as most,
        idle(node.port, 10, "127.0.0.9") as fewer,
    ):
        await until(lambda: len(node.door.unproven) == 30)
        assert (await caller.dial(node.url)).open
        await until(lambda: 1 <= cut(most) <= 2)  # for the challenge, and perhaps for the link
        assert most[0].at_eof() or most[0].exception() is not None
        async with idle(node.port, 20, "127.0.0.10") as newcomer:
            await until(lambda: cut(most) + cut(newcomer) + cut(fewer) >= 20)
            assert len(node.door.unproven) <= 30
            assert not cut(fewer)
            assert cut(newcomer) <= 11  # it has nine or ten, as many as who had most has left


async def test_one_connection_from_each_of_many_addresses_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes: an IPv6 network has more addresses than a node has places."""
    monkeypatch.setattr(limits, "unproven_max", 20)
    async with RelayNode() as node, RelayNode() as caller, AsyncExitStack() as stack:
        each = [await stack.enter_async_context(idle(node.port, 1, f"127.0.1.{at}")) for at in range(1, 21)]
        await until(lambda: len(node.door.unproven) == 20)
        assert (await caller.dial(node.url)).open
        await until(lambda: any(map(cut, each)))
        gone = [cut(one) for one in each]
        assert gone == sorted(gone, reverse=True) and sum(gone) <= 2, "the oldest, for the challenge and the link"


async def test_links_that_were_proved_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "unproven_address_max", 2)
    async with RelayNode() as node, RelayNode() as caller:
        for _ in range(6):
            assert (await caller.dial(node.url)).open
        await until(lambda: not len(node.door.unproven))
        assert sum(link.open for link in node.links) == 6


async def test_who_agrees_on_tls_and_says_nothing_more_is_counted_until_it_is_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "link_handshake_seconds_max", 1.0)
    async with RelayNode() as node:
        pair = await asyncio.open_connection("127.0.0.1", node.port, ssl=client_context())
        assert len(node.door.unproven) == 1
        async with asyncio.timeout(5):
            assert await pair[0].read() == b""
        assert not len(node.door.unproven)
        pair[1].transport.abort()


def test_a_node_with_a_peer_port_may_have_as_many_descriptors_as_both_ports_take() -> None:
    """So that all that its peers and strangers open takes no connection from the API."""
    alone = descriptors_wanted(NodeConfig(Path()))
    among = descriptors_wanted(NodeConfig(Path(), network=NetworkConfig(listen="127.0.0.1:0")))
    assert alone >= limits.connections_max + limits.descriptors_beside_connections
    assert among - alone >= limits.links_max + limits.unproven_max + 2 * limits.relay_tunnels_max
