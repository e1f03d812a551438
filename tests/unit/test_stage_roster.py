"""Which route a pipeline leaves for a better one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from blyan.inference.layer_cost import LayerCost
from blyan.inference.stage_session import Session
from blyan.inference.stage_speeds import Known, Model, unlimited
from blyan.network.measurements import LayerTimes
from blyan.node.holdings import Hosted
from blyan.node.stage_roster import StageRoster, StageSpeeds
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.wire.stage_shapes import Hop
from random_models import small_config

LEAD, A, B = (PublicKey(letter * 64) for letter in "0ab")
MODEL = PayloadId("ab" * 32)
ALL = frozenset(range(6))
COST = LayerCost(100, 0, 0, 0, 1_000, 64, 1)


class Measured(StageRoster):
    """One that knows these nodes."""

    def __init__(self, *found: tuple[PublicKey, float]) -> None:
        nobody = cast(Any, None)
        super().__init__(LEAD, nobody, nobody, nobody, lambda: 0.0, shares=True)
        times = {node: LayerTimes(0.0, layer_s, layer_s / 20, 1e12, 0.0) for node, layer_s in found}
        self.found = [Known(node, ALL, each, 0.0) for node, each in times.items()]

    def candidates(self, hosted: Hosted) -> list[Known]:
        return self.found

    def model(self, hosted: Hosted) -> Model:
        return Model([COST] * 6, LayerCost(10, 0, 0, 0, 0, 0, 0), LEAD)


@pytest.mark.parametrize(("other", "left"), [(0.0035, True), (0.0045, False)])
async def test_a_route_is_left_for_one_that_takes_much_less_the_leads_own_time_counted_in_both(
    other: float, left: bool
) -> None:
    """31 ms a token or 37 instead of 40, of which the lead takes 10 to score it, on whichever route."""
    speeds = StageSpeeds(Measured((LEAD, 0.1), (A, 0.005), (B, other)), *cast(Any, (None, None, list[Hosted])))
    session = Session("5" * 32, MODEL, small_config(), torch.float32, range(0), (Hop(A, 0, 6),))
    speeds._numbers[session.id] = session.number
    await speeds._reconsider(cast(Hosted, SimpleNamespace(manifest_id=MODEL)), session)
    assert (session.lost is not None) == left
    assert speeds.roster.preferred == ({MODEL: (Hop(B, 0, 6),)} if left else {})


def test_what_a_stage_said_of_its_room_counts_for_a_while() -> None:
    """A route asks no more of it than that; what is no number of bytes changes nothing."""
    now = 0.0
    nobody = cast(Any, None)
    roster = StageRoster(LEAD, nobody, nobody, nobody, lambda: now, shares=True)
    for said, room in ((5_000, 5_000), (None, 5_000), ("7", 5_000), (True, 5_000), (-1, 5_000), (0, 0)):
        roster.has_room(A, said)
        assert (roster._room(A), roster._room(B)) == (room, unlimited)
    now = 31.0
    assert roster._room(A) == unlimited
