"""What is not proved to be elsewhere is kept, and nothing comes in its place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from blyan.inference.placement import MoveBudget, Placement, Shelf, choose, rendezvous
from blyan.inference.snapshot import ExpertGrid
from blyan.node import placing
from blyan.node.giving_up import GivingUp
from blyan.node.holdings import Hosted
from blyan.node.placing import Placing
from blyan.node.wishing import part_key
from blyan.primitives.ids import PayloadId
from swarms import node

MODEL = PayloadId("ab" * 32)
GRID = ExpertGrid((0, 1), 16)
SIZE, ROOM = 10, 80  # bytes of an expert, and for experts
ALL = range(GRID.count)


class Scene:
    """A node that holds more than it should, of which others say that they hold all; the rest is at one node."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, here: int = 10, holding: int = 8) -> None:
        self.now = 0.0
        self.asked = list[int]()
        self.proved = frozenset[int]()
        manifest: Any = SimpleNamespace(config=None, dtype="F32", name="m")
        self.hosted = Hosted(MODEL, manifest, GRID, False, set(range(here)))
        monkeypatch.setattr(Hosted, "block", lambda _self, number: SimpleNamespace(length=SIZE, payload=str(number)))
        liars, honest = [node(at) for at in range(1, 1 + holding)], [node(99)]
        holders = {part_key(MODEL, at): liars if at < here else honest for at in range(GRID.count)}
        self.shelf = Shelf(node(0), 10, dict.fromkeys(holders, SIZE), holders)
        self.peering: Any = SimpleNamespace(
            identity=SimpleNamespace(key=SimpleNamespace(public=node(0))),
            shows=SimpleNamespace(copies=None, giving_up=GivingUp(node(0))),
            ground=SimpleNamespace(store=SimpleNamespace(give_up=lambda _gone: None)),
            links=SimpleNamespace(link=None, tell=self.told),
            holdings=SimpleNamespace(gave=lambda _model, number: self.hosted.here.discard(number)),
            entropy=None,
            look_again=lambda _model: self.hosted,
            now=lambda: 0,
            demand=SimpleNamespace(moves=SimpleNamespace(add=lambda _moves: None), forget=lambda: None),
            monotonic=lambda: self.now,
            config=SimpleNamespace(network=SimpleNamespace(moves_per_hour=12)),
            draw=lambda: 0.5,
        )
        monkeypatch.setattr(placing, "Proving", lambda *_: SimpleNamespace(proved=self.show))
        blobs: Any = SimpleNamespace(fetch=self.fetch)
        self.placing = Placing(self.peering, blobs)

    async def told(self) -> None:
        """What is held changed."""

    async def show(self, _models: object, said: Iterable[tuple[PayloadId, int]], _enough: int) -> Any:
        self.asked += sorted(number for _, number in said)
        return {(MODEL, number) for number in self.proved}

    async def fetch(self, hosted: Hosted, blocks: Iterable[Any]) -> None:
        hosted.here |= {int(block.payload) for block in blocks}

    async def round(self, made: Placement[str] | None = None) -> Placement[str]:
        mine = {part_key(MODEL, number) for number in self.hosted.here}
        shelf = replace(self.shelf, kept=self.placing._not_shown())
        free = (ROOM if made is None else len(mine) * SIZE) - len(mine) * SIZE
        made = made or choose(shelf, mine, ROOM, lambda: 0.0)
        await self.placing._carry_out({MODEL: self.hosted}, shelf, made, free)
        return made


async def test_where_nothing_is_proved_nothing_comes_beyond_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is below the floor elsewhere, and would be fetched again and again."""
    scene = Scene(monkeypatch)
    made = [await scene.round() for _ in range(5)]
    assert made[0].drop and made[0].fetch
    assert scene.hosted.here == set(range(10))


async def test_what_was_not_proved_is_asked_for_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in each round, for each question costs all who are asked: others are given up in its place."""
    scene = Scene(monkeypatch)
    while (await scene.round()).drop:
        pass
    assert sorted(scene.asked) == list(range(10)), "each once"
    scene.now += 121
    made = await scene.round()
    assert len(scene.asked) == 10 + len(made.drop) > 10


async def test_others_are_given_up_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    made = await scene.round()
    scene.proved = frozenset(ALL) - {int(part.partition("/")[2]) for part in made.drop}
    await scene.round()
    assert len(scene.hosted.here) * SIZE <= ROOM


async def test_as_much_comes_as_goes_and_only_what_comes_is_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of four that were to go have been proved."""
    scene = Scene(monkeypatch, here=8)
    scene.placing._budget = MoveBudget(12, 4.0, 0.0)
    scene.proved = frozenset({0, 1})
    drop, fetch = (tuple(part_key(MODEL, at) for at in numbers) for numbers in (range(4), range(20, 24)))
    await scene.round(Placement(drop, fetch, dict.fromkeys(drop + fetch, "worth"), exchanges=4))
    assert scene.hosted.here == {2, 3, 4, 5, 6, 7, 20, 21}
    assert scene.placing._budget.left == 2.0


async def test_what_goes_for_a_large_one_goes_with_it_or_stays_and_is_paid_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four small ones for one that is four times as large: all or none."""
    scene = Scene(monkeypatch, here=8)
    scene.placing._budget = MoveBudget(12, 8.0, 0.0)
    large = part_key(MODEL, 20)
    scene.shelf = replace(scene.shelf, sizes={**scene.shelf.sizes, large: 4 * SIZE})
    drop = tuple(part_key(MODEL, at) for at in range(4))
    made = Placement(drop, (large,), dict.fromkeys((*drop, large), "wished"), exchanges=4)
    scene.proved = frozenset({0, 1, 2})
    await scene.round(made)
    assert (scene.hosted.here, scene.placing._budget.left) == (set(range(8)), 8.0)
    scene.proved = frozenset(range(4))
    await scene.round(made)
    assert (scene.hosted.here, scene.placing._budget.left) == ({4, 5, 6, 7, 20}, 4.0)


async def test_what_is_shown_to_another_meanwhile_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that gives the same up at the same time counts on it."""
    scene = Scene(monkeypatch)
    scene.proved = frozenset(ALL)
    low = max((node(at) for at in range(200, 220)), key=lambda each: rendezvous(each, part_key(MODEL, 0)))
    shown = list[bool]()

    async def asked(models: object, said: Iterable[tuple[PayloadId, int]], enough: int) -> Any:
        shown.append(scene.peering.shows.giving_up.shows((MODEL, 0), low))
        return await scene.show(models, said, enough)

    monkeypatch.setattr(placing, "Proving", lambda *_: SimpleNamespace(proved=asked))
    drop = tuple(part_key(MODEL, at) for at in range(2))
    await scene.round(Placement(drop, (), dict.fromkeys(drop, "memory")))
    assert (shown, scene.hosted.here) == ([True], {0, *range(2, 10)})
