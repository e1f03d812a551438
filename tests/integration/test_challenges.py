"""Challenges of the peer port: few are kept, and whoever asks for many loses his own alone."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from blyan.network import door
from blyan.network.connection import Connection
from relays import RelayNode, until


async def test_a_flood_of_challenges_from_one_address_drops_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_challenges_max", 3)
    async with RelayNode() as node, RelayNode() as caller:
        kept = node.door._challenges
        kept["mine"] = (float("inf"), "192.0.2.7")
        for _ in range(5):
            connection = await Connection.open(urlsplit(node.url), caller.dialler.context, "", 5.0)
            assert (await connection.get("peer", door.challenge_path, None)).status == 200
            connection.close()
        assert len(kept) == 3
        assert "mine" in kept
        assert (await caller.dial(node.url)).open


async def test_connections_that_proved_something_are_remembered_no_longer_than_they_are_watched() -> None:
    async with RelayNode() as node, RelayNode() as caller:
        assert (await caller.dial(node.url)).open
        await until(lambda: not len(node.door.unproven))  # that of the challenge is closed
