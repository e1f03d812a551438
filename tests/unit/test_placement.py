"""What a node takes for its worth: hot experts, in company, in the tier that they belong in, few an hour."""

from blyan.inference.placement import Demand, MoveBudget, PlacementRules, Shelf, Tier, capacities, choose, in_tiers
from swarms import node

SIZES = dict.fromkeys(range(8), 10)
FAST, SLOW = Tier("memory", 20, 10.0), Tier("disk", 20, 1.0)
EVERYBODY = {part: [node(2), node(3), node(4)] for part in range(8)}


def demand(
    traffic: dict[int, float], together: dict[int, dict[int, float]] | None = None, capacity: float = 1.0
) -> Demand[int]:
    """Where every part has the same capacity."""
    return Demand({**dict.fromkeys(range(8), 0.0), **traffic}, together or {}, dict.fromkeys(range(8), capacity))


def last(_node: str, part: int) -> int:
    """Node 1 ranks behind all others for each part, so that it may give up any."""
    return 100 + part if _node == node(1) else part


def shelf(known: Demand[int], tiers: tuple[Tier, ...] = ()) -> Shelf[int]:
    return Shelf(node(1), 4, SIZES, EVERYBODY, last, known, tiers)


def test_a_hot_part_takes_the_place_of_a_cold_one() -> None:
    known = demand(dict.fromkeys(range(7), 1.0) | {7: 50.0})
    made = choose(shelf(known), [0, 1], 20, lambda: 0.5, exchanges=1)
    assert (len(made.drop), made.fetch, made.exchanges) == (1, (7,), 1)


def test_nothing_is_exchanged_without_moves_or_for_little() -> None:
    hot, even = demand(dict.fromkeys(range(7), 1.0) | {7: 50.0}), demand(dict.fromkeys(range(8), 1.0))
    assert choose(shelf(hot), [0, 1], 20, lambda: 0.5, exchanges=0).fetch == ()
    assert choose(shelf(even), [0, 1], 20, lambda: 0.5, exchanges=4).fetch == ()


def test_what_is_below_the_floor_comes_before_what_is_hot() -> None:
    known = demand(dict.fromkeys(range(7), 1.0) | {7: 50.0})
    rare = Shelf(node(1), 4, SIZES, {**EVERYBODY, 3: [node(2)]}, last, known)
    made = choose(rare, [0, 1], 20, lambda: 0.0, PlacementRules(floor=2), exchanges=4)
    assert (made.fetch, made.exchanges) == ((3,), 0)


def test_the_last_copies_are_not_given_up_for_anything() -> None:
    known = demand({7: 1e9} | dict.fromkeys(range(7), 1.0))
    alone = Shelf(node(1), 4, SIZES, {**EVERYBODY, 0: [node(2)], 1: []}, last, known)
    assert choose(alone, [0, 1], 20, lambda: 0.99, PlacementRules(floor=2), exchanges=4).drop == ()


def test_of_equally_hot_parts_the_one_whose_partner_is_here_is_taken() -> None:
    known = demand(dict.fromkeys(range(8), 1.0) | {0: 20.0, 6: 8.0, 7: 8.0}, {7: {0: 1.0}, 6: {5: 1.0}})
    rules = PlacementRules(message_rows=4.0)
    assert choose(shelf(known), [0, 1], 20, lambda: 0.5, rules, exchanges=1).fetch == (7,)
    alone = demand(dict.fromkeys(range(8), 1.0) | {0: 20.0, 6: 8.1, 7: 8.0})
    assert choose(shelf(alone), [0, 1], 20, lambda: 0.5, rules, exchanges=1).fetch in ((6,), (7,))


def test_the_most_used_lie_in_the_fastest_tier() -> None:
    traffic = {0: 1.0, 1: 9.0, 2: 3.0, 3: 5.0, 4: 0.0}
    placed = in_tiers((FAST, SLOW), dict.fromkeys(traffic, 10), traffic)
    assert [placed[part].name for part in range(4)] == ["disk", "memory", "disk", "memory"]
    assert 4 not in placed, "there is no room for it"
    assert capacities((FAST, SLOW), dict.fromkeys(traffic, 10), traffic) == {0: 0.5, 1: 5.0, 2: 0.5, 3: 5.0}


def test_a_fast_tier_takes_what_a_slow_one_would_not() -> None:
    """A part that is warm enough for memory that is free, and too cold to be worth a place on the disk."""
    known = demand(dict.fromkeys(range(8), 4.0) | {7: 12.0}, capacity=20.0)
    slow = choose(shelf(known, (SLOW,)), [0, 1], 20, lambda: 0.5, exchanges=1)
    fast = choose(shelf(known, (FAST,)), [0, 1], 20, lambda: 0.5, exchanges=1)
    assert (slow.fetch, fast.fetch) == ((), (7,))


def test_moves_fill_up_with_time_and_are_not_hoarded() -> None:
    moves = MoveBudget(12.0).now(0.0)
    assert moves.now(300.0).left == 1.0
    assert moves.now(300.0).spent(1).now(300.0).left == 0.0
    assert moves.now(1e6).left == 3.0
    assert MoveBudget(0.0).now(1e9).left == 0.0
