"""A copy is given up only where others have shown theirs: who only says so, or computes something else, counts not."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from blyan.inference.expert_host import ExpertHost, HostedModel
from blyan.inference.snapshot import ExpertGrid
from blyan.model.weights import ModelWeights
from blyan.network.link import Link
from blyan.network.questions import LinkLost, Refused
from blyan.node.holdings import Hosted
from blyan.node.proving import Proving
from blyan.primitives.clock import system_entropy
from blyan.primitives.errors import Fault
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.wire.framing import Message
from random_models import RandomWeights, small_config

CONFIG = small_config()
MODEL = PayloadId("ab" * 32)
GRID = ExpertGrid(tuple(CONFIG.moe_layers), CONFIG.experts)
HONEST, OTHER, SAYS, LIES, GONE = (PublicKey(each * 64) for each in "abcde")


def host_of(weights: RandomWeights, experts: range) -> ExpertHost:
    """Computes these experts of every layer."""
    model = HostedModel(CONFIG, cast(ModelWeights, weights), lambda _layer, expert: expert in experts)
    return ExpertHost({MODEL: model}.get, time.monotonic)


class Asked:
    """A link whose other end answers by a host."""

    def __init__(self, node: PublicKey, host: ExpertHost | None) -> None:
        self.peer, self._host = SimpleNamespace(node=node), host
        self.calls = 0

    async def request(self, _kind: str, fields: Any, tensors: Any, *, seconds: float) -> Message:
        """As `Link.request`."""
        assert seconds > 0
        self.calls += 1
        if self._host is None:
            raise LinkLost("gone")
        try:
            return await self._host.answer(cast(Link, self), Message(fields, tensors))
        except Fault as reason:
            raise Refused(self.peer.node, reason.code, reason.message, dict(reason.detail)) from None


@pytest.fixture
def links() -> dict[PublicKey, Asked]:
    right, wrong, everything = RandomWeights(CONFIG), RandomWeights(CONFIG, seed=9), range(CONFIG.experts)
    return {
        HONEST: Asked(HONEST, host_of(right, everything)),
        OTHER: Asked(OTHER, host_of(right, range(2))),
        SAYS: Asked(SAYS, host_of(right, range(0))),
        LIES: Asked(LIES, host_of(wrong, everything)),
        GONE: Asked(GONE, None),
    }


async def test_what_is_only_said_gives_nothing_up(links: dict[PublicKey, Asked]) -> None:
    """Two of five have the first two experts of a layer, one the others; all say that they have all."""
    mine = host_of(RandomWeights(CONFIG), range(CONFIG.experts))
    manifest: Any = SimpleNamespace(config=CONFIG, dtype="F32", name="random")
    hosted = Hosted(MODEL, manifest, GRID, False, set(range(GRID.count)))
    proving = Proving(mine, lambda node: cast(Link, links[node]), system_entropy)
    numbers = [number for number in range(GRID.count) if hosted.place(number)[0] == GRID.layers[0]]
    said = {(MODEL, number): list(links) for number in numbers}
    assert await proving.proved({MODEL: hosted}, said, 2) == {(MODEL, number) for number in numbers[:2]}
    assert await proving.proved({MODEL: hosted}, said, 1) == set(said)
    assert await proving.proved({MODEL: hosted}, {place: [SAYS, LIES, GONE] for place in said}, 1) == set()


async def test_nobody_is_asked_for_what_enough_have_shown(links: dict[PublicKey, Asked]) -> None:
    mine = host_of(RandomWeights(CONFIG), range(CONFIG.experts))
    manifest: Any = SimpleNamespace(config=CONFIG, dtype="F32", name="random")
    hosted = Hosted(MODEL, manifest, GRID, False, set(range(GRID.count)))
    proving = Proving(mine, lambda node: cast(Link, links[node]), system_entropy)
    assert await proving.proved({MODEL: hosted}, {(MODEL, 0): [HONEST, OTHER]}, 1) == {(MODEL, 0)}
    assert links[HONEST].calls + links[OTHER].calls == 1
