"""What a relay and a peer port give a stranger: seconds, and not one more because nothing else happened."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from blyan.network import door
from blyan.network.relay import RelayHost, token_header
from blyan.primitives import limits
from blyan.primitives.clock import system_entropy, system_monotonic
from swarms import node


async def test_a_tunnels_token_serves_no_longer_than_its_time_on_an_idle_relay() -> None:
    """Nobody else asks for a tunnel, so nothing swept it away."""
    now = [0.0]
    relay = RelayHost(monotonic=lambda: now[0], entropy=system_entropy)
    tunnel = relay._new(node(1), node(2))
    now[0] = limits.relay_join_seconds_max + 0.1
    for token in tunnel.tokens:
        with pytest.raises(web.HTTPNotFound):
            await relay._came(SimpleNamespace(headers={token_header: token}))  # type: ignore[arg-type]
    assert relay.tunnels == 0


async def test_who_ends_tls_just_after_its_time_is_let_go_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_tls_seconds", 0.01)
    nothing: Any = None
    port = door.PeerDoor(
        nothing, nothing, nothing, {}, nothing, store=nothing, monotonic=system_monotonic, entropy=system_entropy
    )
    ended = asyncio.Event()
    connection: Any = SimpleConnection()
    port._unproven.add(connection)
    port._let_go(connection)
    connection.transport = SimpleNamespace(abort=ended.set)
    async with asyncio.timeout(5):
        await ended.wait()
    assert not port._unproven


class SimpleConnection:
    """Whose TLS is not done."""

    transport: Any = None
