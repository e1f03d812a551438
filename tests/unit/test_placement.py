"""What a node takes for its worth: hot experts, in company, in the tier that they belong in, few an hour."""

from collections.abc import Mapping

import numpy as np
import pytest

from blyan.inference.demand import Demand, Tier, demand_for, in_tiers, speeds
from blyan.inference.placement import MoveBudget, PlacementRules, Shelf, choose
from blyan.inference.spread import spread
from blyan.primitives.ids import PublicKey
from swarms import node

SIZES = dict.fromkeys(range(8), 10)
FAST, SLOW = Tier("memory", 20, 10.0), Tier("disk", 20, 1.0)
EVERYBODY = {part: [node(2), node(3), node(4)] for part in range(8)}
EVEN = dict.fromkeys(range(8), 1.0)


def demand(
    traffic: Mapping[int, float],
    together: Mapping[int, Mapping[int, float]] | None = None,
    mine: tuple[int, ...] = (0, 1),
    holders: Mapping[int, list[PublicKey]] | None = None,
    others: float = 1.0,
) -> Demand[int]:
    """Where node 1 computes two rows a second, the others one."""
    partners, company = np.zeros((8, 1), np.int64), np.zeros((8, 1))
    for part, found in (together or {}).items():
        ((partners[part, 0], company[part, 0]),) = found.items()
    where = (holders or EVERYBODY).items()
    held = {node(at): {part: 10 for part, having in where if node(at) in having} for at in (2, 3, 4)}
    nodes = {node(1): ((Tier("memory", 1_000, 2.0),), dict.fromkeys(mine, 10))}
    nodes |= {each: ((Tier("memory", 1_000, others),), sizes) for each, sizes in held.items()}
    rates = np.array([traffic.get(part, 0.0) for part in range(8)])
    made = demand_for({part: part for part in range(8)}, rates, (partners, company), nodes)
    assert made is not None
    return made


def last(_node: str, part: int) -> int:
    """Node 1 ranks behind all others for each part, so that it may give up any."""
    return 100 + part if _node == node(1) else part


def shelf(known: Demand[int], tiers: tuple[Tier, ...] = (FAST, SLOW)) -> Shelf[int]:
    return Shelf(node(1), 4, SIZES, EVERYBODY, last, known, tiers)


def test_a_hot_part_takes_the_place_of_a_cold_one_one_at_a_time() -> None:
    made = choose(shelf(demand(EVEN | {6: 40.0, 7: 50.0})), [0, 1], 20, lambda: 0.5, exchanges=4)
    assert (len(made.drop), len(made.fetch), made.exchanges) == (1, 1, 1)
    assert set(made.fetch) <= {6, 7}
    assert set(made.why.values()) == {"worth"}


def test_nothing_is_exchanged_without_moves_or_for_little() -> None:
    hot = demand(EVEN | {7: 50.0})
    assert choose(shelf(hot), [0, 1], 20, lambda: 0.5, exchanges=0).fetch == ()
    assert choose(shelf(demand(EVEN)), [0, 1], 20, lambda: 0.5, exchanges=4).fetch == ()


def test_what_is_below_the_floor_comes_before_what_is_hot() -> None:
    rare = Shelf(node(1), 4, SIZES, {**EVERYBODY, 3: [node(2)]}, last, demand(EVEN | {7: 50.0}), (FAST, SLOW))
    made = choose(rare, [0, 1], 20, lambda: 0.0, PlacementRules(floor=2), exchanges=4)
    assert (made.fetch, made.exchanges, made.why[3]) == ((3,), 0, "rare")


def test_the_last_copies_are_not_given_up_for_anything() -> None:
    holders = {**EVERYBODY, 0: [node(2)], 1: []}
    known = demand({7: 1e9} | dict.fromkeys(range(7), 1.0), holders=holders)
    alone = Shelf(node(1), 4, SIZES, holders, last, known, (FAST, SLOW))
    assert choose(alone, [0, 1], 20, lambda: 0.99, PlacementRules(floor=2), exchanges=4).drop == ()


def test_what_is_to_be_kept_is_given_up_for_nothing() -> None:
    """Neither for what is hot, nor for what is rare, nor as memory shrank."""
    hot, holders = demand(EVEN | {7: 50.0}), {**EVERYBODY, 3: []}
    for known, having, budget in ((hot, EVERYBODY, 20), (hot, holders, 20), (None, EVERYBODY, 10)):
        own = Shelf(node(1), 4, SIZES, having, last, known, (FAST, SLOW), kept=(0, 1))
        assert choose(own, [0, 1], budget, lambda: 0.0, exchanges=4).drop == ()


def test_of_equally_hot_parts_the_one_whose_partner_is_here_is_taken() -> None:
    known = demand(EVEN | {0: 20.0, 6: 18.0, 7: 18.0}, {7: {0: 1.0}, 6: {5: 1.0}})
    rules = PlacementRules(message_rows=8.0)
    assert choose(shelf(known), [0, 1], 20, lambda: 0.5, rules, exchanges=1).fetch == (7,)


def test_of_two_parts_used_alike_the_one_that_fewer_hold_is_safer_here() -> None:
    holders = {**EVERYBODY, 7: [node(2), node(3)]}
    known = demand(EVEN | {6: 9.0, 7: 9.0}, holders=holders)
    made = choose(Shelf(node(1), 4, SIZES, holders, last, known, (FAST, SLOW)), [0, 1], 20, lambda: 0.5, exchanges=1)
    assert made.fetch == (7,)


def test_who_is_fast_takes_what_who_is_slow_would_not() -> None:
    known = demand(EVEN | {7: 24.0}, others=10.0)
    rules = PlacementRules(lost_rows=0.0)
    slow = choose(shelf(known, (Tier("disk", 20, 0.2),)), [0, 1], 20, lambda: 0.5, rules, exchanges=1)
    fast = choose(shelf(known, (Tier("GPU", 20, 50.0),)), [0, 1], 20, lambda: 0.5, rules, exchanges=1)
    assert (slow.fetch, fast.fetch) == ((), (7,))


def test_free_room_is_filled_below_the_floor_first_and_says_why() -> None:
    rare = Shelf(node(1), 4, SIZES, {**EVERYBODY, 3: [], 5: []}, last, demand(EVEN | {7: 50.0}), (FAST, SLOW))
    made = choose(rare, [0], 40, lambda: 0.0)
    assert set(made.fetch[:2]) == {3, 5}
    assert [made.why[part] for part in made.fetch] == ["rare", "rare", "room"]


def test_a_part_that_nothing_is_known_of_is_held_like_others() -> None:
    """Of a model that came a moment ago."""
    sizes, holders = {**SIZES, 8: 10}, {**EVERYBODY, 8: []}
    new = Shelf(node(1), 4, sizes, holders, last, demand(EVEN), (FAST, SLOW))
    assert 8 in choose(new, [0, 1], 30, lambda: 0.0).fetch


def test_the_most_used_lie_in_the_fastest_tier() -> None:
    traffic = {0: 1.0, 1: 9.0, 2: 3.0, 3: 5.0, 4: 0.0}
    placed = in_tiers((FAST, SLOW), dict.fromkeys(traffic, 10), traffic)
    assert [placed[part].name for part in range(4)] == ["disk", "memory", "disk", "memory"]
    assert 4 not in placed, "there is no room for it"
    assert speeds((FAST, SLOW), dict.fromkeys(traffic, 10), traffic) == {0: 1.0, 1: 10.0, 2: 1.0, 3: 10.0, 4: 1.0}


def test_a_node_keeps_near_what_is_called_there_and_not_what_others_are_asked_for() -> None:
    """Part 0 is used most, and a faster node has it too: its calls go there, so the place here is for part 1."""
    tiers, fast = (Tier("memory", 10, 2.0), Tier("disk", 10, 0.2)), (Tier("GPU", 10, 90.0),)
    nodes = {node(1): (tiers, {0: 10, 1: 10}), node(2): (fast, {0: 10})}
    known, none = None, (np.zeros((2, 1), np.int64), np.zeros((2, 1)))
    for _ in range(3):
        known = demand_for({0: 0, 1: 1}, np.array([9.0, 5.0]), none, nodes, known)
    assert known is not None
    assert known.rows[node(2)][0] == pytest.approx(9.0, rel=0.1)
    assert known.heat(node(1), 1) > known.heat(node(1), 0)
    assert known.spread.loads[0] == pytest.approx(2.5, rel=0.1), "computed from memory"


def test_moves_fill_up_with_time_and_are_not_hoarded() -> None:
    moves = MoveBudget(12.0).now(0.0)
    assert moves.now(300.0).left == 1.0
    assert moves.now(300.0).spent(1).now(300.0).left == 0.0
    assert moves.now(1e6).left == 3.0
    assert MoveBudget(0.0).now(1e9).left == 0.0


def pairs(*held: tuple[int, int, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Part, node, speed of each."""
    parts, nodes, fast = zip(*held, strict=True)
    return np.array(parts), np.array(nodes), np.array(fast)


def test_work_spreads_nearly_as_the_smallest_greatest_load_has_it() -> None:
    """Part 0 may go to a node of speed 1 or 3, part 1 to the fast one alone: loads of 3 and 3 are least."""
    found = spread(*pairs((0, 0, 1.0), (0, 1, 3.0), (1, 1, 3.0)), np.array([8.0, 4.0]), 2)
    assert found.loads.max() < 3.3
    assert found.rows.sum() == pytest.approx(12.0)
    assert found.prices[1] == pytest.approx(3 * found.prices[0], rel=0.05)


def test_what_only_the_busiest_hold_is_dearest_and_who_is_idle_costs_nothing() -> None:
    found = spread(*pairs((0, 0, 1.0), (1, 1, 1.0)), np.array([9.0, 1.0]), 3)
    assert found.costs[0] > 100 * found.costs[1]
    assert found.prices[2] < 0.01 * found.prices[1] + 0.01
    gain = found.gain(2, np.array([9.0, 1.0]), np.array([1.0, 1.0]))
    assert gain[0] > gain[1] >= 0
    assert found.loss(0, 0) == np.inf, "nobody else has it"
    assert found.loss(2, 0) == 0.0, "it has none"


def test_a_copy_that_nobody_asks_costs_nothing_to_give_up() -> None:
    found = spread(*pairs((0, 0, 100.0), (0, 1, 100.0), (0, 2, 0.01), (1, 2, 1.0)), np.array([1.0, 0.9]), 3)
    assert found.loss(2, 0) < 0.01 * found.loss(0, 0) + 1e-9
