"""What is used of which experts: counted, decayed, told to others, and believed within bounds."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from blyan.inference.expert_demand import ExpertDemand, demand_of, message_of, parse_demand, together
from blyan.inference.expert_use import ExpertUse, half_life_s
from blyan.inference.snapshot import ExpertGrid
from blyan.primitives import limits
from blyan.primitives.errors import MalformedMessage
from blyan.wire.framing import Message, WireTensor

GRID = ExpertGrid((1, 3), 4)


def used(times: int = 100) -> ExpertUse:
    """Layer 1 uses 0 with 1 always; layer 3 uses 2 with 3 three times of four, else 0 with 1."""
    use = ExpertUse(GRID, 2)
    for number in range(times):
        use.note(token((0, 1), (2, 3) if number % 4 else (0, 1)), 0.0)
    return use


def token(*chosen: tuple[int, int]) -> NDArray[np.int32]:
    """The experts of one position, layer by layer."""
    return np.array([[each] for each in chosen], np.int32)


def test_shares_are_uses_for_each_token_by_layer_and_expert() -> None:
    use = used()
    assert use.positions(0.0) == 100
    assert use.shares(0.0).tolist() == [1, 1, 0, 0, 0.25, 0.25, 0.75, 0.75]


def test_pairs_are_how_often_one_is_used_with_another() -> None:
    use = used()
    assert use.pairs(1, 0.0)[0].tolist() == [0, 1, 0, 0]
    assert use.pairs(3, 0.0)[2].tolist() == [0, 0, 0, 1]
    assert use.pairs(3, 0.0)[0].tolist() == [0, 1, 0, 0]


def test_what_was_used_an_hour_ago_counts_half() -> None:
    use = used()
    for _ in range(100):
        use.note(token((2, 3), (2, 3)), half_life_s)
    assert use.positions(half_life_s) == pytest.approx(150)
    assert use.shares(half_life_s)[:4] == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])


@pytest.mark.parametrize("begin", [0.0, 50 * 86_400.0])
def test_a_machine_may_run_for_years_and_a_node_be_idle_for_months(begin: float) -> None:
    """A monotonic clock counts from the machine's start, and two to the power of 43 days in hours is no float."""
    use = ExpertUse(GRID, 2)
    for now in (begin, begin + 90 * 86_400.0, begin + 400 * 86_400.0):
        for _ in range(300):
            use.note(token((0, 1), (2, 3)), now)
        assert use.positions(now) == pytest.approx(300)
        assert use.shares(now) == pytest.approx([1, 1, 0, 0, 0, 0, 1, 1])


def test_what_follows_an_expert_in_the_next_layer_is_counted() -> None:
    followers = used().followers(0, 0.0)
    assert followers is not None
    assert followers[0].tolist() == followers[1].tolist()
    assert followers[0] / followers[0].sum() == pytest.approx([1 / 8, 1 / 8, 3 / 8, 3 / 8], abs=0.05)
    assert used().followers(1, 0.0) is None


def test_what_others_computed_for_this_node_counts_for_predictions_and_is_not_told_again() -> None:
    use = ExpertUse(GRID, 2)
    for _ in range(100):
        use.saw_token(5, [(1, 0, 1), (1, 1, 1), (3, 2, 1), (3, 3, 1)], 0.0)
    use.saw_prompt([(1, 2, 100), (3, 2, 100)], 100, 0.0)
    assert use.positions(0.0) == 200
    assert use.shares(0.0).tolist() == [0.5, 0.5, 0.5, 0, 0, 0, 1, 0.5]
    assert use.pairs(3, 0.0)[3].tolist() == [0, 0, 1, 0]
    assert demand_of(use, 0.0) is None


def test_counts_keep_their_worth_through_a_long_life() -> None:
    """Twice as much as is counted in one unit."""
    use = used()
    for hour in range(1, 60):
        use.note(token((2, 3), (0, 1)), hour * half_life_s)
    end = 59 * half_life_s
    assert use.positions(end) == pytest.approx(2, abs=1e-6)
    assert use.shares(end) == pytest.approx([0, 0, 1, 1, 1, 1, 0, 0], abs=1e-6)
    assert use.pairs(1, end)[2].tolist() == pytest.approx([0, 0, 0, 1])


def test_many_positions_at_once_count_as_one_by_one() -> None:
    rng = np.random.default_rng(1)
    chosen = np.stack([[rng.permutation(4)[:2] for _ in range(1_000)] for _ in GRID.layers]).astype(np.int32)
    one, many = ExpertUse(GRID, 2), ExpertUse(GRID, 2)
    many.note(chosen, 0.0)
    for at in range(1_000):
        one.note(chosen[:, at : at + 1], 0.0)
    assert one.shares(0.0).tolist() == many.shares(0.0).tolist()
    assert one.pairs(3, 0.0) == pytest.approx(many.pairs(3, 0.0), abs=0.25), "of a sample of positions"


def test_a_model_of_too_many_pairs_has_shares_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "use_pairs_max", 8)
    use = used()
    assert use.shares(0.0)[0] == 1
    assert not use.pairs(1, 0.0).any()


def test_demand_survives_its_message() -> None:
    told = demand_of(used(), 0.0)
    assert told is not None
    read = parse_demand(message_of(told), GRID)
    assert read is not None
    assert read.rate == told.rate > 0
    assert read.shares.tolist() == told.shares.tolist()
    assert read.partners[6][0] == 7, "by their numbers in the model"
    assert read.company[6][0] == 1
    assert parse_demand(message_of(None), GRID) is None


def test_little_use_is_no_demand() -> None:
    assert demand_of(used(20), 0.0) is None


@pytest.mark.parametrize("what", ["rate", "infinite rate", "shape", "negative", "NaN", "partner", "missing"])
def test_demand_that_is_none_is_refused(what: str) -> None:
    told = demand_of(used(), 0.0)
    assert told is not None
    message = message_of(told)
    tensors = {tensor.name: tensor for tensor in message.tensors}
    shares = told.shares.astype("<f4")
    if what == "rate":
        message = Message({"rate": "1"}, message.tensors)
    elif what == "infinite rate":
        message = Message({"rate": float("inf")}, message.tensors)
    elif what == "shape":
        message = Message(message.fields, (WireTensor("shares", "F32", (4,), shares[:4].tobytes()),))
    elif what == "missing":
        message = Message(message.fields, (tensors["shares"], tensors["company"]))
    elif what == "partner":
        bad = np.full(told.partners.shape, GRID.count, "<i4")
        bad = WireTensor("partners", "I32", bad.shape, bad.tobytes())
        message = Message(message.fields, (tensors["shares"], bad, tensors["company"]))
    else:
        shares[0] = -1 if what == "negative" else np.nan
        wrong = WireTensor("shares", "F32", shares.shape, shares.tobytes())
        message = Message(message.fields, (wrong, tensors["partners"], tensors["company"]))
    with pytest.raises(MalformedMessage, match="use: expected"):
        parse_demand(message, GRID)


def test_who_claims_far_more_than_others_counts_for_four_of_them() -> None:
    told = demand_of(used(), 0.0)
    assert told is not None
    loud = ExpertDemand(1e9, np.eye(8)[0], told.partners, told.company)
    usual = [ExpertDemand(1.0, np.eye(8)[7], told.partners, told.company) for _ in range(4)]
    found = together([loud, *usual])
    assert found is not None
    assert found.rate == 8
    assert found.shares.tolist() == [0.5, 0, 0, 0, 0, 0, 0, 0.5]
    assert together([]) is None
