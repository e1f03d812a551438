"""The policy of tiers alone: who stays in memory under which use. Every draw is seeded."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from blyan.model.expert_memory import ExpertMemory
from blyan.model.expert_tiers import ExpertTiers
from blyan.primitives.ids import PayloadId

EXPERTS = [PayloadId(f"{number:064x}") for number in range(256)]
SIZE = 10


def zipf(seed: int, count: int, exponent: float = 1.0) -> Iterator[PayloadId]:
    """Experts by popularity: the first most, the k-th as 1 / k^exponent of that."""
    chance = random.Random(seed)
    weights = [1 / (rank + 1) ** exponent for rank in range(len(EXPERTS))]
    return iter(chance.choices(EXPERTS, weights, k=count))


def test_an_expert_becomes_hot_at_once_where_there_is_room() -> None:
    """An empty memory is of use to nobody."""
    tiers = ExpertTiers(2 * SIZE, SIZE, 1_000)
    assert [tiers.use(key, SIZE).now for key in EXPERTS[:2]] == ["hot", "hot"]
    assert tiers.use(EXPERTS[2], SIZE).now == "cold"


def test_a_newcomer_takes_a_place_only_when_it_was_used_more_than_the_coldest_there() -> None:
    """By a quarter: three uses against two, not two against two."""
    tiers = ExpertTiers(2 * SIZE, 0, 10_000)
    for key in (EXPERTS[0], EXPERTS[0], EXPERTS[0], EXPERTS[1], EXPERTS[1]):
        tiers.use(key, SIZE)
    placements = [tiers.use(EXPERTS[2], SIZE) for _ in range(3)]
    assert [each.now for each in placements] == ["cold", "cold", "hot"]
    assert placements[2].cooled == (EXPERTS[1],)
    assert [tiers.tier(key) for key in EXPERTS[:3]] == ["hot", "cold", "hot"]


def test_an_expert_becomes_warm_at_its_second_use_and_not_at_one_long_after() -> None:
    """What is used once in a while leaves the page cache alone."""
    tiers = ExpertTiers(SIZE, SIZE, 16)
    for _ in range(20):
        tiers.use(EXPERTS[0], SIZE)
    assert [tiers.use(EXPERTS[1], SIZE).now for _ in range(2)] == ["cold", "warm"]
    tiers = ExpertTiers(SIZE, SIZE, 16)
    seen: list[str] = []
    for _ in range(5):
        for _ in range(40):
            tiers.use(EXPERTS[0], SIZE)
        seen.append(tiers.use(EXPERTS[1], SIZE).now)
    assert seen == ["cold"] * 5


def test_a_warm_expert_that_becomes_hot_is_mapped_no_more() -> None:
    """Its bytes are not held twice."""
    tiers = ExpertTiers(SIZE, SIZE, 1_000)
    for _ in range(2):
        tiers.use(EXPERTS[0], SIZE)
    found = [tiers.use(EXPERTS[1], SIZE) for _ in range(3)]
    assert (found[1].now, found[2].now, found[2].unmapped) == ("warm", "hot", (EXPERTS[1],))
    assert tiers.bytes_in("warm") == 0


def test_an_expert_in_use_keeps_its_place() -> None:
    """Its memory is being computed with."""
    tiers = ExpertTiers(SIZE, 0, 1_000)
    tiers.use(EXPERTS[0], SIZE)
    assert [tiers.use(EXPERTS[1], SIZE, {EXPERTS[0]}).now for _ in range(9)] == ["cold"] * 9
    assert tiers.use(EXPERTS[1], SIZE).now == "hot"


def test_what_is_larger_than_the_budget_stays_cold() -> None:
    """And throws nobody out."""
    tiers = ExpertTiers(SIZE, SIZE, 1_000)
    tiers.use(EXPERTS[0], SIZE)
    assert {tiers.use(EXPERTS[1], SIZE + 1).now for _ in range(50)} == {"cold"}
    assert tiers.tier(EXPERTS[0]) == "hot"


def test_the_hot_set_converges_to_the_most_used_and_then_is_left_alone() -> None:
    """Zipf: after some half-lives nearly all that the best fixed set would save is saved, with few changes."""
    tiers = ExpertTiers(32 * SIZE, 0, 16 * len(EXPERTS))
    for key in zipf(1, 20_000):
        tiers.use(key, SIZE)
    hits = changes = 0
    counts = Counter[PayloadId]()
    for key in zipf(2, 20_000):
        counts[key] += 1
        placement = tiers.use(key, SIZE)
        hits += placement.before == "hot"
        changes += len(placement.cooled)
    best = sum(count for _, count in counts.most_common(32))
    assert hits / best > 0.97
    assert changes < 0.01 * 20_000


def test_the_hot_set_follows_when_other_experts_become_popular() -> None:
    """Old uses fade: what was popular once does not stay for ever."""
    tiers = ExpertTiers(32 * SIZE, 0, 16 * len(EXPERTS))
    other = dict(zip(EXPERTS, reversed(EXPERTS), strict=True))
    for key in zipf(3, 40_000):
        tiers.use(key, SIZE)
    for key in zipf(4, 20_000):
        tiers.use(other[key], SIZE)
    assert sum(tiers.tier(other[key]) == "hot" for key in EXPERTS[:16]) == 16


def test_experts_used_alike_do_not_keep_throwing_each_other_out() -> None:
    """The worst case of a cache: twice as many as fit, each as likely; in turn, and by chance."""
    tiers = ExpertTiers(128 * SIZE, 0, 16 * len(EXPERTS))
    assert sum(len(tiers.use(EXPERTS[turn % 256], SIZE).cooled) for turn in range(20_000)) == 0
    tiers = ExpertTiers(128 * SIZE, 0, 16 * len(EXPERTS))
    changes = [len(tiers.use(key, SIZE).cooled) for key in zipf(5, 30_000, exponent=0.0)]
    assert sum(changes[10_000:]) < 0.03 * 20_000


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 19), st.integers(1, 30), st.sets(st.integers(0, 19), max_size=3)), max_size=300),
    st.integers(0, 60),
    st.integers(0, 60),
)
def test_tiers_are_within_their_bytes_and_say_all_who_leave(
    uses: list[tuple[int, int, set[int]]], hot_max: int, warm_max: int
) -> None:
    """Against a model that only follows what placements say; the half-life is so short that scores are rescaled."""
    tiers = ExpertTiers(hot_max, warm_max, 1)
    sizes: dict[PayloadId, int] = {}
    hot: set[PayloadId] = set()
    warm: set[PayloadId] = set()
    for number, first_size, busy in uses:
        key = EXPERTS[number]
        size = sizes.setdefault(key, first_size)
        used = {EXPERTS[each] for each in busy}
        placement = tiers.use(key, size, used)
        assert not used & {*placement.cooled, *placement.unmapped} - {key}
        hot -= {*placement.cooled}
        warm -= {*placement.unmapped}
        {"hot": hot, "warm": warm, "cold": set[PayloadId]()}[placement.now].add(key)
        assert hot.isdisjoint(warm)
        assert {each for each in EXPERTS[:20] if tiers.tier(each) == "hot"} == hot
        assert {each for each in EXPERTS[:20] if tiers.tier(each) == "warm"} == warm
        assert tiers.bytes_in("hot") == sum(sizes[each] for each in hot) <= hot_max
        assert tiers.bytes_in("warm") == sum(sizes[each] for each in warm) <= warm_max


def test_what_is_expected_to_be_used_most_is_hot_from_its_first_use() -> None:
    """The swarm asks for the third two times of three: those that came first, and were used once, make room."""
    tiers = ExpertTiers(2 * SIZE, 0, 1_000)
    for key in EXPERTS[:2]:
        tiers.use(key, SIZE)
    tiers.expect({EXPERTS[0]: 0.001, EXPERTS[1]: 0.3, EXPERTS[2]: 0.699})
    placed = tiers.use(EXPERTS[2], SIZE)
    assert (placed.now, placed.cooled) == ("hot", (EXPERTS[0],))


def test_what_is_expected_and_not_used_gives_way_to_what_is() -> None:
    tiers = ExpertTiers(SIZE, 0, 100)
    tiers.expect({EXPERTS[0]: 1.0, EXPERTS[1]: 0.0})
    assert tiers.use(EXPERTS[0], SIZE).now == "hot"
    assert [tiers.use(EXPERTS[1], SIZE).now for _ in range(100)][-1] == "hot"


def test_memory_says_what_is_expected_of_each_tier() -> None:
    memory = ExpertMemory(SIZE, lambda: 0.0)
    memory.expect({EXPERTS[0]: 9.0, EXPERTS[1]: 2.0})
    for key in EXPERTS[:2]:
        with memory.using(key, SIZE):
            pass
    assert memory.usage().expected == {"hot": 9.0, "warm": 2.0, "cold": 0.0}
    memory.expect({})
    assert sum(memory.usage().expected.values()) == 0
    memory.close()
