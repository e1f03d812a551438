"""Models of many experts: what does not fit into a summary is told who has a link and asks, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from blyan.inference.registry import Registry
from blyan.inference.snapshot import ExpertGrid
from blyan.network import more_held
from blyan.network.gossip import SummaryTable
from blyan.network.link import Link
from blyan.network.links import Links
from blyan.node.own_summary import OwnSummary
from blyan.primitives import limits
from blyan.primitives.clock import system_monotonic
from blyan.primitives.ids import PayloadId
from blyan.wire.framing import Message, WireTensor
from blyan.wire.peer import Holding, bits_of
from relays import RelayNode, until

GRID = ExpertGrid(tuple(range(94)), 512)  # 48,128 experts: six kilobytes of bits
MODEL, SMALL = PayloadId("ab" * 32), PayloadId("cd" * 32)
HELD = frozenset(random.Random(1).sample(range(GRID.count), GRID.count // 2))


class Holds(SimpleNamespace):
    """What a node holds."""

    version = 1

    def said(self) -> dict[PayloadId, Holding]:
        return {MODEL: Holding(False, bits_of(set(HELD))), SMALL: Holding(True, b"\x05")}


class Member(RelayNode):
    """A node whose summary is the product's, and whose links are."""

    def __init__(self) -> None:
        self.own: OwnSummary | None = None
        super().__init__()
        idle: Any = SimpleNamespace(queue=0, busy=0)
        self.own = OwnSummary(
            self.identity, self.swarm.tag, ("expert",), Holds(), idle, system_monotonic, lambda: self.peer_urls
        )
        table = SummaryTable()
        self.registry = Registry(table, self.key)
        self.registry.serve(MODEL, GRID)
        self.all = Links(self.dialler, table, self.summary, self.registry, system_monotonic, lambda: 0.5)
        self.handlers |= {**self.all.handlers, more_held.kind: self.own.tell_rest}
        self.door._joined = self.all.joined

    def summary(self) -> Any:
        assert self.own is not None
        return self.own()


@contextlib.asynccontextmanager
async def linked(told: Any = None) -> AsyncIterator[tuple[Member, Member]]:
    """Two nodes that know each other; the second answers `told` to who asks for the rest."""
    async with Member() as one, Member() as other:
        if told is not None:
            other.handlers[more_held.kind] = told
        one.all.seek([(other.url, None)])
        running = asyncio.create_task(one.all.run())
        try:
            await until(lambda: one.all.link(other.key) is not None)
            yield one, other
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_what_a_summary_has_no_room_for_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """In pages; then every expert can be planned with, also after newer summaries, and news from others."""
    monkeypatch.setattr(limits, "holdings_page_bytes_max", 5_000)
    async with linked() as (one, other):
        said = other.summary()
        assert len(said.signed) <= limits.summary_bytes_max
        assert MODEL not in said.holdings
        assert SMALL in said.holdings
        for _ in range(2):
            await until(lambda: one.all.link(other.key).peer.holdings.keys() == {MODEL, SMALL})
            snapshot = one.registry.snapshot(system_monotonic() + 1)
            for number in (min(HELD), max(HELD)):
                layer, expert = divmod(number, GRID.experts)
                assert snapshot.holders(MODEL, layer, expert) == (other.key,)
            other.own.draining = True
            one.all.told(other.summary(), 0.0)
            assert one.all.table.get(other.key, system_monotonic()).holdings.keys() == {MODEL, SMALL}
            other.own.draining = False


def page(total: int, data: bytes) -> Message:
    return Message({"bytes": total}, (WireTensor("page", "U8", (len(data),), data),))


CROOKED = {
    "others than it signed": page(2, b"{}"),
    "too many": page(limits.holdings_rest_bytes_max + 1, bytes(limits.holdings_page_bytes_max)),
    "nothing": page(10, b""),
    "little by little": page(30_000, b"x"),
    "no number": Message({"bytes": "2"}, ()),
}


@pytest.mark.parametrize("answer", CROOKED.values(), ids=CROOKED.keys())
async def test_what_is_not_what_was_signed_is_not_taken(answer: Message) -> None:
    """Nor is it asked for at once again."""
    asked = 0

    async def told(_link: Link, _message: Message) -> Message:
        nonlocal asked
        asked += 1
        return answer

    async with linked(told) as (one, other):
        await until(lambda: asked == 1)
        await one.all.tell()
        await one.all.tell()
        assert one.all.link(other.key).peer.holdings.keys() == {SMALL}
        assert asked == 1
