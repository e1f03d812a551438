"""Gossip, plans and placement for any input that hypothesis thinks of."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from blyan.inference.placement import PlacementRules, Shelf, choose
from blyan.inference.plan import CallSpec, Policy, plan_experts
from blyan.inference.snapshot import ExpertGrid, Rank
from blyan.network.gossip import SummaryTable, parse_digest
from swarms import MODEL, node, registry, said

SUMMARIES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 20)), min_size=1, max_size=30
)  # node, boot, sequence


def state(table: SummaryTable, now: float):
    return sorted(table.live(now), key=lambda summary: summary.node), table.duplicates(now), table.digest()


def summary(number: int, boot: int, sequence: int):
    return said(number, sequence, boot=boot, started=100 * (boot % 3), holds=[sequence % 8])


@given(SUMMARIES, st.randoms(use_true_random=False))
def test_the_order_and_repetition_of_offers_do_not_change_what_is_known(offers, rng: random.Random) -> None:
    one, other = SummaryTable(), SummaryTable()
    for each in offers:
        one.offer(summary(*each), 0.0)
    again = offers * 2
    rng.shuffle(again)
    for each in again:
        other.offer(summary(*each), 0.0)
    seen, same = state(one, 1.0), state(other, 1.0)
    assert seen[:2] == same[:2]
    assert parse_digest(seen[2]) == parse_digest(same[2])


@given(SUMMARIES, SUMMARIES)
def test_two_tables_that_exchange_know_the_same(ours, theirs) -> None:
    one, other = SummaryTable(), SummaryTable()
    for table, offers in ((one, ours), (other, theirs)):
        for each in offers:
            table.offer(summary(*each), 0.0)
    for giver, taker in ((one, other), (other, one)):
        for passed in giver.lacking(parse_digest(taker.digest()), 1.0):
            taker.offer(passed.summary, 1.0, passed.age)
    assert state(one, 1.0)[0] == state(other, 1.0)[0]
    assert one.lacking(parse_digest(other.digest()), 1.0) == ()


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9), st.floats(0, 100)), max_size=60), st.integers(1, 8))
def test_a_table_is_never_larger_than_it_may_be(offers, most: int) -> None:
    table = SummaryTable(processes_max=most)
    for number, boot, now in sorted(offers, key=lambda offer: offer[2]):
        table.offer(said(number, boot=boot), now)
        assert len(table) <= most
    assert len(parse_digest(table.digest())) == len(table)


NODES = st.dictionaries(
    st.integers(1, 6),
    st.tuples(
        st.frozensets(st.integers(0, 7)), st.sampled_from(["well", "draining", "lost", "corrupt", "new", "away"])
    ),
    max_size=6,
)


@settings(max_examples=200)
@given(
    NODES,
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(1, 100)), max_size=20),
    st.frozensets(st.tuples(st.integers(0, 1), st.integers(0, 3))),
    st.integers(0, 2**32),
    st.sampled_from([1.2, 3.0]),
)
def test_each_call_is_planned_once_and_only_to_a_holder_and_the_broken_come_last(
    nodes, calls, local, seed, now
) -> None:
    swarm = registry({number: held for number, (held, how) in nodes.items() if how != "new"}, ExpertGrid((0, 1), 4))
    for number, (held, how) in nodes.items():
        if how == "new":
            swarm.linked(said(number, holds=held), 1.0)
        elif how == "draining":
            swarm.heard(said(number, 2, holds=held, draining=True), 1.0)
        elif how in ("lost", "corrupt"):
            swarm.failed(node(number), how, 1, 1.0, 0.5)
        elif how == "away":
            swarm.unlinked(node(number), said(number).boot)
    snapshot = swarm.snapshot(now)
    specs = [CallSpec(*call) for call in calls]
    made = plan_experts(specs, MODEL, local, snapshot, Policy(), random.Random(seed).random)
    given_to = [(at, each.node) for each in made.assignments for at in each.calls]
    assert sorted([*made.local, *made.missing, *(at for at, _ in given_to)]) == list(range(len(specs)))
    assert len({each.node for each in made.assignments}) == len(made.assignments), "one message a node"
    ranks = {view.node: view.rank for view in snapshot.nodes if view is not None}
    for at, chosen in given_to:
        number = specs[at].layer * 4 + specs[at].expert
        holders = {node(each) for each, (held, how) in nodes.items() if number in held and how != "away"}
        assert chosen in holders
        assert set(made.fallbacks[at]) == holders - {chosen}
        assert ranks[chosen] < Rank.broken or all(ranks[each] == Rank.broken for each in holders)
        assert made.hedge_after[chosen] > 0
    for at in made.missing:
        number = specs[at].layer * 4 + specs[at].expert
        known = specs[at].layer < 2 and specs[at].expert < 4
        assert not known or not any(number in held and how != "away" for held, how in nodes.values())
    assert all((specs[at].layer, specs[at].expert) in local for at in made.local)


@given(
    st.dictionaries(st.integers(0, 20), st.integers(1, 50), max_size=15),
    st.dictionaries(st.integers(0, 20), st.frozensets(st.integers(2, 9))),
    st.frozensets(st.integers(0, 20)),
    st.integers(0, 400),
    st.integers(1, 4),
    st.floats(0, 1, exclude_max=True),
)
def test_a_placement_fits_and_gives_up_only_what_enough_others_hold(sizes, holding, mine, budget, floor, lot) -> None:
    holders = {part: {node(each) for each in nodes} for part, nodes in holding.items()}
    shelf = Shelf(node(1), 10, sizes, holders)
    rules = PlacementRules(floor=floor, moves_max=5)
    made = choose(shelf, mine, budget, lambda: lot, rules)
    before = {part for part in mine if part in sizes}
    after = (before - set(made.drop)) | set(made.fetch)
    assert sum(sizes[part] for part in after) <= budget
    assert set(made.drop) <= before
    assert not set(made.fetch) & before
    assert len(made.fetch) <= rules.moves_max
    if sum(sizes[part] for part in before) <= budget:
        for part in made.drop:
            assert len(holders.get(part, ())) >= max(2, floor)
