"""Requests on a link that nobody waits for any more: the peer is told, and gives up what it does for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from blyan.network.link import Link, frame_of
from blyan.network.questions import NoAnswer
from blyan.wire.framing import Message
from relays import RelayNode, until


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Link, dict[str, int]]]:
    """A link to a node that answers `slow` when nobody can wait so long, and what became of its answers."""
    counts = {"began": 0, "ended": 0}

    async def slow(_link: Link, _message: Message) -> Message:
        counts["began"] += 1
        try:
            await asyncio.sleep(60)
        finally:
            counts["ended"] += 1
        return Message({}, ())

    async with RelayNode(handlers={"slow": slow}) as node, RelayNode() as caller:
        yield await caller.dial(node.url), counts


async def test_who_is_cancelled_or_waited_long_enough_calls_off_what_was_asked() -> None:
    """That request alone; the link stays."""
    async with pair() as (link, counts):
        kept = asyncio.create_task(link.request("slow", {}, seconds=30))
        left = asyncio.create_task(link.request("slow", {}, seconds=30))
        await until(lambda: counts["began"] == 2)
        left.cancel()
        await until(lambda: counts["ended"] == 1)
        with pytest.raises(NoAnswer):
            await link.request("slow", {}, seconds=0.05)
        await until(lambda: counts["ended"] == 2)
        assert not kept.done()
        assert (await link.request("echo", {"say": 1}, seconds=5)).fields["said"] == 1
        kept.cancel()


@pytest.mark.parametrize("number", [0, 10**9, -1], ids=["answered long ago", "never made", "below all"])
async def test_calling_off_what_is_not_there_is_no_matter(number: int) -> None:
    """It may have been answered meanwhile."""
    async with pair() as (link, _):
        for _ in range(3):
            await link.send(frame_of({"to": number, "cancel": True}))
        assert (await link.request("echo", {"say": 1}, seconds=5)).fields["said"] == 1
