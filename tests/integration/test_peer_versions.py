"""Nodes of several versions in one swarm: they speak the newest that both know, or say why they do not speak."""

from __future__ import annotations

from functools import partial

import pytest

from blyan.network import door, handshake
from blyan.network.handshake import Challenge
from blyan.primitives.errors import PeerFault
from relays import RelayNode


def answering_as(monkeypatch: pytest.MonkeyPatch, versions: tuple[int, int]) -> None:
    """The doors of this test are of software that speaks these."""
    monkeypatch.setattr(door, "Challenge", partial(Challenge, versions=versions))


@pytest.mark.parametrize(("ours", "theirs", "spoken"), [(1, (1, 1), 1), (1, (1, 9), 1), (3, (1, 2), 2), (3, (2, 9), 3)])
async def test_the_newest_that_both_speak_is_spoken(
    monkeypatch: pytest.MonkeyPatch, ours: int, theirs: tuple[int, int], spoken: int
) -> None:
    """It stands in what both prove, and calls go both ways."""
    shown: list[int] = []
    seen = handshake.parse_caller

    def noted(fields: dict[str, object]) -> handshake.Caller:
        caller = seen(fields)
        shown.append(caller.version)
        return caller

    monkeypatch.setattr(handshake, "version_max", ours)
    monkeypatch.setattr(door, "parse_caller", noted)
    answering_as(monkeypatch, theirs)
    async with RelayNode() as node, RelayNode() as caller:
        link = await caller.dial(node.url)
        answer = await link.request("echo", {"say": "hello"}, seconds=5)
        assert (answer.fields["said"], shown) == ("hello", [spoken])


@pytest.mark.parametrize("theirs", [(2, 9), (0, 0)])
async def test_who_has_no_version_in_common_is_told_so(
    monkeypatch: pytest.MonkeyPatch, theirs: tuple[int, int]
) -> None:
    """By the side that dials, before it shows any proof."""
    answering_as(monkeypatch, theirs)
    async with RelayNode() as node, RelayNode() as caller:
        with pytest.raises(PeerFault, match=f"expected a version from 1 to 1, found {theirs[0]} to {theirs[1]}"):
            await caller.dial(node.url)
        assert not node.links
        assert not node.door.refused, "nothing was shown"
