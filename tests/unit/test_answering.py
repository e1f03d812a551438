"""Who has the experts that a node which leads lacks, as a gateway sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from blyan.inference.call_times import CallTimes
from blyan.inference.snapshot import ExpertGrid, Holders, Rank, RegistrySnapshot
from blyan.node.answering import Answering
from blyan.node.holdings import Hosted
from blyan.primitives.ids import PayloadId
from swarms import node

MODEL = PayloadId("a" * 64)


@dataclass
class Scene:
    """A model of two layers with four experts, of which this node has the first, and others what they say."""

    hosted: Hosted = field(default_factory=lambda: Hosted(MODEL, None, ExpertGrid((1, 4), 4), True, {0}))  # type: ignore[arg-type]
    versions: list[int] = field(default_factory=lambda: [1, 1])  # of the registry and of what is here
    answering: Answering = field(init=False)

    def __post_init__(self) -> None:
        scheduler: Any = None
        self.answering = Answering(scheduler, None, lambda: ())
        self.answering.peering = self.peering({1: b"\xff", 2: b"\xff"})

    def peering(self, said: dict[int, bytes]) -> Any:
        def view(number: int) -> Any:
            measured = SimpleNamespace(fixed_s=0.01 * number, row_s=0.0, rtt_s=0.002)
            return SimpleNamespace(node=node(number), rank=Rank.proven, score=float(number), measured=measured)

        holders = Holders.nobody(self.hosted.grid).with_nodes(said)
        views: Any = (None, *(view(number) for number in (1, 2)))

        def snapshot(_now: float) -> RegistrySnapshot:
            return RegistrySnapshot(self.versions[0], 0.0, views, {MODEL: holders})

        return SimpleNamespace(
            holdings=SimpleNamespace(find=lambda _model: self.hosted, version=self.versions[1]),
            registry=SimpleNamespace(snapshot=snapshot),
            monotonic=lambda: 0.0,
            identity=SimpleNamespace(key=SimpleNamespace(public=node(9))),
        )


def test_each_expert_is_at_this_node_or_at_the_best_that_says_that_it_has_it_or_at_nobody() -> None:
    scene = Scene()
    scene.answering.peering = scene.peering({1: b"\x0f", 2: b"\x3e"})
    found = scene.answering._elsewhere(MODEL)
    assert [found.callees[place].node if place >= 0 else None for place in found.places] == [
        node(9),
        *[node(1)] * 3,
        *[node(2)] * 2,
        *[None] * 2,
    ]
    assert found.callees[0].seconds(8) == (0, True)
    assert found.callees[2] == CallTimes(node(2), pytest.approx(0.02), 0.0, 0.002)  # type: ignore[arg-type]


def test_what_is_known_of_it_is_kept_until_somebody_has_others() -> None:
    scene = Scene()
    before = scene.answering._elsewhere(MODEL)
    assert scene.answering._elsewhere(MODEL) is before
    for version in (0, 1):
        scene.versions[version] += 1
        scene.answering.peering = scene.peering({1: b"\xff", 2: b"\xff"})
        after = scene.answering._elsewhere(MODEL)
        assert after is not before
        before = after


def test_nothing_is_known_without_peers() -> None:
    scheduler: Any = None
    assert Answering(scheduler, None, lambda: ())._elsewhere(MODEL).callees == ()
