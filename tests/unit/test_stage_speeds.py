"""Routes through stages from what trial calls took."""

import math

import pytest

from blyan.inference.layer_cost import LayerCost
from blyan.inference.own_times import OwnStep, OwnTimes
from blyan.inference.partition import Demand
from blyan.inference.stage_speeds import Known, Measured, Model, Route, along, route, solved
from blyan.network.measurements import LayerTimes
from blyan.primitives.ids import PublicKey
from blyan.wire.stage_shapes import Hop

LEAD, A, B, C = (PublicKey(letter * 64) for letter in "0abc")
ALL = frozenset(range(6))
COST = LayerCost(100, 0, 0, 0, 1_000, 64, 1)
MODEL = Model([COST] * 6, LayerCost(10, 20, 0, 0, 0, 0, 0), LEAD)
USUAL = Demand(512, 128, 128, 1_024)


def known(node: PublicKey, layer_s: float, layers: frozenset[int] = ALL, rtt: float = 0.001, **more: object) -> Known:
    times = LayerTimes(0.0005, layer_s, layer_s / 20, math.inf, 0.0)
    return Known(node, layers, times, rtt, **more)  # type: ignore[arg-type]


def unknown(node: PublicKey, layers: frozenset[int] = ALL) -> Known:
    return Known(node, layers, None, 0.001)


def spans(*nodes: Known, demand: Demand = USUAL) -> dict[PublicKey, int]:
    return {hop.node: hop.end - hop.begin for hop in route(MODEL, nodes, demand, {}) or ()}


def test_layers_are_split_evenly_where_nothing_was_measured() -> None:
    assert spans(unknown(A), unknown(B)) == {A: 3, B: 3}
    assert spans(known(A, 0.01, frozenset(range(3))), unknown(B)) == {A: 3, B: 3}, "not all layers were measured"


def test_a_stage_that_is_twice_as_slow_gets_fewer_layers() -> None:
    """As few as the other has no room for; of prompts alone, which both read at once, half as many."""
    room = known(A, 0.01, room_bytes=4 * USUAL.positions)
    assert spans(room, known(B, 0.02)) == {A: 4, B: 2}
    prompts = Demand(4_096, 1, 128, 4_096)
    assert spans(known(A, 0.01), known(B, 0.02), demand=prompts) == {A: 4, B: 2}
    assert spans(known(A, 0.01), known(B, 0.01), demand=prompts) == {A: 3, B: 3}


def test_a_stage_that_is_far_away_is_left_out_where_another_has_its_layers() -> None:
    near, far = known(B, 0.01, frozenset(range(3, 6))), known(C, 0.009, frozenset(range(3, 6)), rtt=0.5)
    assert set(spans(known(A, 0.01, frozenset(range(4))), near, far)) == {A, B}


def test_layers_that_only_unmeasured_stages_hold_are_asked_of_them() -> None:
    assert spans(known(A, 0.01, frozenset(range(5))), unknown(B, frozenset({5}))) == {A: 5, B: 1}
    assert route(MODEL, [known(A, 0.01, frozenset(range(5)))], USUAL, {}) is None


def test_of_many_stages_the_quickest_are_looked_at() -> None:
    many = [known(PublicKey(f"{place:064x}"), 0.01 + place / 1_000) for place in range(1, 40)]
    assert set(spans(*many)) <= {each.node for each in many[:2]}


def test_what_a_route_takes_is_what_its_stages_and_ways_take() -> None:
    """Three layers each, two hops of half a round trip, and one between them that was measured."""
    both, hops = [known(A, 0.01, rtt=0.02), known(B, 0.02, rtt=0.02)], (Hop(A, 0, 3), Hop(B, 3, 6))
    found = along(MODEL, both, hops, USUAL, {(A, B): 0.015})
    assert found is not None
    assert found.token_s == pytest.approx(3 * 0.01 + 3 * 0.02 + 2 * 0.0005 + 0.01 + 0.015 + 0.01)
    assert along(MODEL, both[:1], hops, USUAL, {}) is None
    assert along(MODEL, [both[0], unknown(B)], hops, USUAL, {}) is None


def test_what_the_lead_does_beside_layers_counts_alike_for_a_given_route_and_the_best() -> None:
    all_of_them = [known(LEAD, 0.1), known(A, 0.01)]
    best, given = solved(MODEL, all_of_them, USUAL, {}), (Hop(A, 0, 6),)
    assert best is not None
    assert [(stage.node, stage.begin, stage.end) for stage in best.stages] == [*given]
    assert along(MODEL, all_of_them, given, USUAL, {}, ends=True) == best
    calls = along(MODEL, all_of_them, given, USUAL, {})
    assert calls is not None
    assert best.token_s - calls.token_s == pytest.approx(0.01), "a tenth of a layer's bytes"


def test_prompts_go_through_several_stages_in_pieces() -> None:
    """So that a long one takes as long as its slowest stage."""
    two = Route(MODEL, [known(A, 0.01), known(B, 0.01)], (Hop(A, 0, 3), Hop(B, 3, 6)), {})
    one = Route(MODEL, [known(A, 0.01)], (Hop(A, 0, 6),), {})
    through, alone = two.takes(2_048, 8, 512), one.takes(2_048, 8, 512)
    assert through is not None
    assert alone is not None
    assert 1.5 < alone.prompt_s / through.prompt_s < 2


def test_a_call_of_many_rows_takes_what_was_measured() -> None:
    measured = Measured.of(LayerTimes(0.0, 0.01, 0.002, math.inf, 0.0), [COST] * 6)
    assert measured.seconds(COST, 1) == pytest.approx(0.01)
    assert measured.seconds(COST, 64) == pytest.approx(0.01 + 63 * 0.002)
    assert solved(MODEL, [], USUAL, {}) is None


def test_a_lead_has_fewer_layers_where_it_is_slow_and_the_first_ones() -> None:
    """Evenly before it was measured; with what only it has however slow it is."""
    prompts = Demand(4_096, 1, 128, 4_096)
    assert route(MODEL, [unknown(LEAD), known(A, 0.01)], USUAL, {}) == (Hop(LEAD, 0, 3), Hop(A, 3, 6))
    assert route(MODEL, [known(LEAD, 0.02), known(A, 0.01)], prompts, {}) == (Hop(LEAD, 0, 2), Hop(A, 2, 6))
    assert route(MODEL, [known(LEAD, 0.01), known(A, 0.02)], prompts, {}) == (Hop(LEAD, 0, 4), Hop(A, 4, 6))
    assert route(MODEL, [known(LEAD, 0.1), known(A, 0.01)], USUAL, {}) == (Hop(A, 0, 6),)
    most = known(A, 0.01, frozenset(range(2, 6)))
    assert route(MODEL, [known(LEAD, 0.1), most], USUAL, {}) == (Hop(LEAD, 0, 2), Hop(A, 2, 6))
    assert route(MODEL, [known(LEAD, 0.01), known(A, 0.2)], USUAL, {}) == (Hop(LEAD, 0, 6),)


def test_own_layers_are_timed_by_steps() -> None:
    own = OwnTimes()
    assert own.times(5.0) is None
    own.note(OwnStep(1, 2, 64, 0.64, 5.0))
    assert own.times(5.0) is None, "nothing tells of a single row"
    own.note(OwnStep(1, 2, 1, 0.02, 5.0))
    assert own.times(5.0) == LayerTimes(0.0, 0.01, 0.005, math.inf, 5.0)
    for _ in range(40):
        own.note(OwnStep(1, 2, 1, 0.04, 6.0))
    found = own.times(6.0)
    assert found is not None
    assert found.layer_s == pytest.approx(0.02, rel=0.01)


def test_what_own_layers_took_counts_for_who_computed_them_and_for_a_while() -> None:
    own = OwnTimes()
    own.note(OwnStep(1, 2, 1, 0.2, 5.0))
    own.note(OwnStep(2, 2, 64, 0.64, 6.0))
    assert own.times(6.0) is None, "a quicker one computes now"
    own.note(OwnStep(2, 2, 1, 0.02, 7.0))
    assert own.times(300.0) == LayerTimes(0.0, 0.01, 0.005, math.inf, 7.0)
    assert own.times(310.0) is None
