"""What a relay gives a stranger: seconds, and not one more because nothing else happened."""

from types import SimpleNamespace

import pytest
from aiohttp import web

from blyan.network.relay import RelayHost, token_header
from blyan.primitives import limits
from blyan.primitives.clock import system_entropy
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
