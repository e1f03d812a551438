"""What is known of holdings that fit into no summary: kept until newer ones are here, and shared fairly."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from blyan.network import identity
from blyan.network.gossip import SummaryTable
from blyan.network.link import Link
from blyan.network.more_held import MoreHeld, page_of
from blyan.node.own_summary import OwnSummary
from blyan.primitives import limits
from blyan.primitives.clock import system_entropy
from blyan.primitives.ids import PayloadId
from blyan.primitives.keys import Key
from blyan.wire.framing import Message
from blyan.wire.peer import Holding, Summary, bits_of, encode_holdings

LARGE, SMALL = PayloadId("ab" * 32), PayloadId("cd" * 32)


class Telling:
    """A fake of a link to a node that holds what it does not say, so many bytes of it."""

    open = True

    def __init__(self, number: int) -> None:
        self.key = Key.from_seed(bytes([number]) * 32)
        self.asked = 0
        self.sequence = 0
        self.say(100, number)

    def say(self, size: int, seed: int = 0, *models: PayloadId) -> None:
        held = Holding(False, random.Random(seed).randbytes(size))
        self.raw = encode_holdings(dict.fromkeys(models or (LARGE,), held))
        self.sequence += 1
        rest = hashlib.sha256(self.raw).hexdigest()
        made = Summary(self.key.public, "1" * 32, 1, self.sequence, "0" * 64, "2" * 16, rest=rest)
        self.peer = made.sign(self.key)

    async def request(self, _kind: str, fields: dict[str, Any], **_more: Any) -> Message:
        self.asked += 1
        return page_of(self.raw, self.peer.rest, Message(fields, ()))


HEARER: Any = SimpleNamespace(heard=lambda _summary, _now: True)


class Asking:
    """A node that asks, with a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.more = MoreHeld(lambda: self.now)

    async def exchange(self, link: Telling) -> None:
        """As after a summary of its node."""
        self.now += 20.0
        link.peer = self.more.filled(link.peer)
        if self.more.lacks(link.peer):
            await self.more.fill(cast(Link, link), SummaryTable(), HEARER)


async def test_what_was_told_counts_until_what_is_new_has_come() -> None:
    """Then it counts no more, model by model; what another process of the node told never does."""
    asking, link = Asking(), Telling(1)
    link.say(100, 1, LARGE, SMALL)
    await asking.exchange(link)
    before = link.peer.holdings
    assert before.keys() == {LARGE, SMALL}
    link.say(100, 2)
    assert asking.more.filled(link.peer).holdings == before
    assert asking.more.filled(replace(link.peer, boot="3" * 32)).holdings == {}
    assert asking.more.filled(replace(link.peer, rest="")).holdings == {}
    await asking.exchange(link)
    assert link.peer.holdings == {LARGE: Holding(False, random.Random(2).randbytes(100))}


async def test_who_came_first_does_not_take_the_share_of_who_comes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told most is known no more, and is not asked for again while there is no room for it."""
    monkeypatch.setattr(limits, "holdings_known_bytes_max", 10_000)
    asking = Asking()
    greedy, honest = [Telling(1), Telling(2)], [Telling(3), Telling(4)]
    for link in greedy:
        link.say(3_500, 1)
        await asking.exchange(link)
    for link in honest:
        link.say(1_000, 1)
        await asking.exchange(link)
    for link in (*greedy, *honest) * 5:
        link.sequence += 1
        link.peer = replace(link.peer, sequence=link.sequence, holdings={}, signed=b"").sign(link.key)
        await asking.exchange(link)
    assert [len(link.peer.holdings) for link in honest] == [1, 1]
    assert [link.asked for link in honest] == [1, 1]
    assert sum(link.asked for link in greedy) <= 3
    assert sum(len(link.peer.holdings) for link in greedy) == 1


def test_a_node_near_the_edge_does_not_say_now_more_and_now_less() -> None:
    """Numbers in a summary have more digits at times."""
    idle: Any = SimpleNamespace(queue=0, busy=0)
    held: Any = SimpleNamespace(version=1, held={SMALL: Holding(True, b"\x05")})
    held.said = lambda: held.held
    now = [0.0]
    ours = identity.make_identity(Key.from_seed(system_entropy(32)), lambda: 1, system_entropy)

    def fresh(size: int) -> OwnSummary:
        held.held[LARGE] = Holding(False, random.Random(1).randbytes(size))
        return OwnSummary(ours, "2" * 16, ("expert",), held, idle, lambda: now[0])

    def rests(own: OwnSummary, *queues: int) -> list[str]:
        found: list[str] = []
        for idle.queue in queues:
            now[0] += 5.0
            found.append(own().rest)
        return found

    most = next(size for size in range(2_700, 2_000, -1) if not rests(fresh(size), 0)[0])
    own = fresh(most)
    found = rests(own, 0, 10**9, 0, 10**9, 0)
    assert found[0] == ""
    assert found[1] != ""
    assert set(found[1:]) == {found[1]}
    held.held[LARGE] = Holding(False, bits_of({1}))
    assert rests(own, 0) == [""]
