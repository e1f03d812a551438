"""What a node takes that answers for others use: a share of its room, few exchanges, never what others lack."""

from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from blyan.inference.delegate_host import DelegateHost
from blyan.inference.demand import Demand, Tier, demand_for
from blyan.inference.engine_table import Computing
from blyan.inference.leading import Lead, LedSteps
from blyan.inference.placement import Placement, Shelf
from blyan.inference.reader import Delta, Finished, TokenReport
from blyan.inference.snapshot import ExpertGrid
from blyan.inference.wishes import LedUse, WishRoom, choose_wished
from blyan.model.parts import expert_part
from blyan.node.holdings import Holdings, Hosted
from blyan.node.network_config import NetworkConfig
from blyan.node.wishing import Wishing, everything, part_key
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.wire.framing import Message
from blyan.wire.generation import Order, SamplingFields
from blyan.wire.peer import bits_of, numbers_of
from swarms import MODEL, node

MEMORY = Tier("memory", 1_000, 2.0)
SIZES = dict.fromkeys(range(8), 10)
EVERYBODY = {part: [node(2), node(3), node(4)] for part in range(8)}
FULL = (0, 1, 2, 3)


def last(_node: str, part: int) -> int:
    """Node 1 ranks behind all others for each part, so that it may give up any."""
    return 100 + part if _node == node(1) else part


def wished(
    uses: Mapping[int, float],
    mine: Collection[int] = FULL,
    *,
    room: tuple[int, int] = (40, 20),
    came: Collection[int] = (),
    exchanges: int = 9,
    holders: Mapping[int, list[PublicKey]] = EVERYBODY,
    kept: Collection[int] = (),
    known: Demand[int] | None = None,
) -> Placement[int]:
    shelf = Shelf(node(1), 4, SIZES, holders, last, known, kept=kept)
    return choose_wished(shelf, mine, uses, WishRoom(*room, frozenset(came)), exchanges)


def test_what_is_used_and_lacked_is_fetched_the_most_used_first_into_free_room() -> None:
    made = wished({1: 9.0, 5: 1.0, 6: 3.0, 7: 2.0}, (0, 1))
    assert (made.drop, made.fetch) == ((), (6, 7))
    assert made.why == {6: "wished", 7: "wished"}
    assert made.exchanges == 0, "free room costs no moves"


def test_a_full_node_gives_up_what_these_answers_use_least() -> None:
    made = wished({0: 5.0, 1: 4.0, 2: 1.0, 5: 2.0})
    assert (made.drop, made.fetch) == ((3,), (5,))
    assert made.exchanges == 1


def test_what_is_used_more_than_half_as_often_is_not_given_up() -> None:
    assert ((made := wished(dict.fromkeys(FULL, 2.0) | {5: 3.0})).drop, made.fetch) == ((), ())
    assert ((made := wished(dict.fromkeys(FULL, 2.0) | {5: 4.0})).drop, made.fetch) == ((0,), (5,))


def test_no_more_is_given_up_than_moves_are_left() -> None:
    uses = {5: 3.0, 6: 2.0}
    assert [wished(uses, exchanges=moves).fetch for moves in range(3)] == [(), (5,), (5, 6)]


def test_wishes_have_their_share_and_beyond_it_displace_each_other() -> None:
    uses = {4: 1.0, 5: 1.0, 6: 4.0, 7: 1.5}
    made = wished(uses, (0, 4, 5), came=(4, 5), room=(80, 20))
    assert (made.drop, made.fetch) == ((4,), (6,)), "though there is room"
    assert ((made := wished({7: 1.5}, (0,), room=(80, 0))).drop, made.fetch) == ((), ())


def test_nothing_is_given_up_that_others_lack_or_that_is_to_be_kept() -> None:
    few = {part: [node(2)] if part < 4 else [node(2), node(3)] for part in range(8)}
    assert wished({5: 3.0}, holders=few).fetch == ()
    assert wished({5: 3.0}, kept=FULL).fetch == ()
    made = wished({5: 3.0}, kept=(0, 2, 3))
    assert (made.drop, made.fetch) == ((1,), (5,))


def test_what_nobody_linked_holds_is_not_wished_for() -> None:
    assert wished({9: 3.0}, (0,)).fetch == ()


def test_use_is_counted_and_forgotten() -> None:
    use = LedUse()
    use.add([("a", 4.0), ("b", 1e-3)], 0.0)
    use.add([("a", 4.0)], 1.0)
    assert use.positions(2.0) == {"a": 8.0, "b": 1e-3}
    assert use.positions(3_600.0) == {"a": 4.0}, "in an hour to a half, and what is as good as none is gone"


def test_of_what_these_answers_use_alike_what_the_swarm_uses_least_is_given_up() -> None:
    rates = np.array([3.0, 2.0, 1.0, 2.0, 9.0, 9.0, 9.0, 9.0])
    alone = np.zeros((8, 1), np.int64), np.zeros((8, 1))
    known = demand_for({part: part for part in range(8)}, rates, alone, {node(1): ((MEMORY,), dict.fromkeys(FULL, 10))})
    made = wished({5: 1.0}, known=known)
    assert (made.drop, made.fetch) == ((2,), (5,))


class Few:
    """Holdings of one model with 16 experts of 10 bytes, of which these are here."""

    def __init__(self, here: set[int]) -> None:
        parts = {expert_part(layer, expert): SimpleNamespace(length=10) for layer in range(4) for expert in range(4)}
        manifest: Any = SimpleNamespace(parts=parts)
        self.hosted = Hosted(MODEL, manifest, ExpertGrid(tuple(range(4)), 4), True, here)

    def find(self, model: PayloadId) -> Hosted | None:
        return self.hosted if model == MODEL else None

    def models(self) -> list[Hosted]:
        return [self.hosted]


def wishing(here: set[int], **network: Any) -> Wishing:
    return Wishing(cast(Holdings, Few(here)), NetworkConfig(**network), lambda: 0.0)


def keys(*numbers: int) -> frozenset[str]:
    return frozenset(part_key(MODEL, number) for number in numbers)


def test_how_much_comes_by_wishes_follows_from_memory_and_roles() -> None:
    """All that a node may have where nothing else fills it; an eighth beside others, and of models without a limit."""
    here, mine = {0, 1}, keys(0, 1)
    both = ("gateway", "expert")
    for network, total, part, came in (
        ({"memory": "80B"}, 80, 80, mine),
        ({"memory": "80B", "roles": both}, 80, 10, keys(1)),
        ({}, everything, 20, mine),
        ({"roles": both}, everything, everything // 8, keys(1)),
    ):
        made = wishing(here, **network)
        made.came |= keys(1, 9)
        assert made.room({MODEL: made.holdings.models()[0]}, mine, frozenset()) == WishRoom(total, part, came)
        assert made.came == keys(1), "what went is forgotten"
        assert made.room({MODEL: made.holdings.models()[0]}, mine, keys(1)).came == came - keys(1)


def test_what_is_expected_counts_where_few_of_it_are_not_here() -> None:
    made = wishing(set(range(13)))
    made.expected(MODEL, bits_of({1, 13, 14}))
    assert made.now(keys(*range(13))) == dict.fromkeys(keys(13, 14), 1.0)
    made = wishing(set(range(13)))
    made.expected(MODEL, bits_of({13, 14, 15}))
    made.expected(PayloadId("00" * 32), bits_of({1}))
    assert made.now(keys(*range(13))) == {}


def test_what_was_used_counts_by_positions_while_some_of_it_is_not_here() -> None:
    made = wishing({0, 5})
    made.used(MODEL, [(1, 1, 3), (3, 0, 2), (9, 9, 1)])
    made.used(MODEL, [(3, 0, 2)])
    assert made.now(keys(0, 5)) == {part_key(MODEL, 5): 3.0, part_key(MODEL, 12): 4.0}
    assert made.now(keys(0, 5, 12)) == {}
    assert (made.counts, wishing(set(range(16))).counts) == (True, False)


class Noted:
    """Implements `delegate_host.Wanted`."""

    def __init__(self, counts: bool) -> None:
        self.counts = counts
        self.seen: list[tuple[int, int, int]] = []

    def expected(self, model: PayloadId, experts: bytes) -> None:
        assert (model, numbers_of(experts)) == (MODEL, [7])

    def used(self, model: PayloadId, experts: Iterable[tuple[int, int, int]]) -> None:
        assert model == MODEL
        self.seen += experts


class OneStep:
    """A lead whose answers are one token, by one expert, which it tells where that is asked for."""

    def computing(self, _model: object) -> Computing:
        """As a lead."""
        return Computing(jitted=True, waited_s=0.0)

    @asynccontextmanager
    async def steps(self, _model: object, order: Order, _client: str) -> AsyncGenerator[LedSteps, None]:
        led = LedSteps()
        led.put(Delta("", (TokenReport(5, None, (), 0),), ((0, 7, 3),) if order.routed else ()))
        led.put(Finished("length", 1, 1))
        yield led


@pytest.mark.parametrize(("routed", "counts"), [(True, False), (False, True), (False, False)])
async def test_what_an_answer_uses_is_noted_whoever_wants_to_know_and_told_to_who_asked(
    routed: bool, counts: bool
) -> None:
    config = SimpleNamespace(moe_layers=range(4), experts_per_token=1)
    model: Any = SimpleNamespace(manifest=SimpleNamespace(config=config))
    noted, told = Noted(counts), list[Message]()

    async def send(message: Message) -> None:
        told.append(message)

    link: Any = SimpleNamespace(peer=SimpleNamespace(node=node(2)))
    outlet: Any = SimpleNamespace(send=send)
    order = Order(MODEL, (1,), SamplingFields(), 1, expected=bits_of({7}), routed=routed)
    host = DelegateHost(cast(Lead, OneStep()), lambda _: model, lambda *_: True, noted)
    await host.give(link, Message(order.fields(), order.tensors()), outlet)
    assert noted.seen == ([(0, 7, 3)] if routed or counts else [])
    (chunk,) = told
    assert ("experts" in {tensor.name for tensor in chunk.tensors}) == routed
