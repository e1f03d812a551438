"""Who holds what, how each node ranks, and why one gets no traffic."""

import pytest

from blyan.inference.reasons import explain
from blyan.inference.registry import Registry
from blyan.inference.snapshot import ExpertGrid, Rank
from blyan.network.gossip import SummaryTable
from blyan.primitives.ids import PayloadId
from swarms import MODEL, node, registry, said

GRID = ExpertGrid((1, 3), 4)  # layers 0 and 2 of the model have no experts


def rank(made: Registry, number: int, now: float) -> Rank:
    [found] = [view.rank for view in made.views(now) if view.node == node(number)]
    return found


def test_holders_are_found_by_the_models_own_layers() -> None:
    made = registry({1: [0, 5], 2: [5]}, GRID).snapshot(1.0)
    assert made.holders(MODEL, 1, 0) == (node(1),)
    assert set(made.holders(MODEL, 3, 1)) == {node(1), node(2)}
    assert made.holders(MODEL, 3, 2) == ()
    assert made.holders(MODEL, 2, 0) == ()
    assert made.holders(MODEL, 1, 4) == ()
    assert made.holders(PayloadId("00" * 32), 1, 0) == ()


def test_bits_beyond_the_models_experts_are_ignored() -> None:
    made = registry({1: range(1000)}, GRID).snapshot(1.0)
    assert made.holders(MODEL, 3, 3) == (node(1),)
    assert [made.models[MODEL].of(number) for number in range(8)] == [(0,)] * 8


def test_many_nodes_hold_what_they_say() -> None:
    holds = {number: [number % 8, (number * 3 + 1) % 8] for number in range(100)}
    made = registry(holds, GRID, answers=0)
    for number in range(8):
        layer, expert = GRID.layers[number // 4], number % 4
        expected = {node(each) for each, numbers in holds.items() if number in numbers}
        assert set(made.snapshot(1.0).holders(MODEL, layer, expert)) == expected


def test_an_unchanged_registry_gives_the_same_snapshot() -> None:
    made = registry({1: [0], 2: [0]})
    before = made.snapshot(2.0)
    for tenth in range(10):
        made.answered(node(1), 8, 0.0101, 100, 2.0 + tenth / 10)
        assert made.snapshot(2.0 + tenth / 10) is before


def test_a_snapshot_does_not_change_when_the_registry_does() -> None:
    made = registry({1: [0], 2: [0]})
    before = made.snapshot(2.0)
    made.heard(said(1, 2, holds=[1]), 2.0)
    made.unlinked(node(2), said(2).boot)
    after = made.snapshot(2.1)
    assert set(before.holders(MODEL, 0, 0)) == {node(1), node(2)}
    assert before.holders(MODEL, 0, 1) == ()
    assert after.holders(MODEL, 0, 0) == ()
    assert after.holders(MODEL, 0, 1) == (node(1),)


def test_a_node_without_a_link_is_not_asked() -> None:
    made = registry({1: [0]})
    made.table.offer(said(2, holds=[0]), 1.0)
    assert made.snapshot(1.2).holders(MODEL, 0, 0) == (node(1),)
    assert explain(made, node(2), 1.2).code == "unconnected"


def test_of_two_processes_with_one_key_only_the_one_linked_last_is_asked() -> None:
    made = registry({1: [0]})
    made.linked(said(1, boot=7, started=50, holds=[1]), 2.0)
    snapshot = made.snapshot(2.0)
    assert (snapshot.holders(MODEL, 0, 0), snapshot.holders(MODEL, 0, 1)) == ((), (node(1),))
    assert [view.boot for view in made.views(2.0)] == [said(1, boot=7).boot]
    made.unlinked(node(1), said(1, boot=7).boot)
    made.table.offer(said(1, 9, boot=8, started=900), 2.1)  # hearsay: the first one's link is up
    assert made.snapshot(2.1).holders(MODEL, 0, 0) == (node(1),)


def test_a_link_to_another_process_than_the_one_that_counts_is_said() -> None:
    made = Registry(SummaryTable())
    made.linked(said(1, boot=1, started=100), 0.0)
    made.linked(said(1, boot=2, started=100), 1.0)
    made.unlinked(node(1), said(1, boot=2).boot)
    made.table.linked(said(1, 2, boot=2, started=100), 2.0)
    assert explain(made, node(1), 2.0).code == "duplicate"


def test_what_a_node_turned_out_not_to_hold_is_not_asked_of_it_until_it_says_so_anew() -> None:
    made = registry({1: [0, 1], 2: [0]})
    made.not_held(node(1), MODEL, 0, 0, 1.0)
    assert made.snapshot(1.001).holders(MODEL, 0, 0) == (node(2),)
    assert made.snapshot(1.001).holders(MODEL, 0, 1) == (node(1),)
    assert made.snapshot(30.0).holders(MODEL, 0, 0) == (node(2),)
    made.heard(said(1, 2, holds=[0, 1]), 31.0)
    assert set(made.snapshot(31.0).holders(MODEL, 0, 0)) == {node(1), node(2)}


def test_who_lies_again_and_again_is_believed_later_each_time() -> None:
    made, now, waits = registry({1: [0], 2: [0]}), 1.0, []
    for _ in range(4):
        made.not_held(node(1), MODEL, 0, 0, now)
        made.snapshot(now + 0.001)
        began = now
        while node(1) not in made.snapshot(now).holders(MODEL, 0, 0):
            now += 1.0
            made.heard(said(1, int(now) * 10, holds=[0]), now)
            made.heard(said(2, int(now) * 10, holds=[0]), now)
        waits.append(now - began)
    assert waits == [5.0, 10.0, 20.0, 40.0]


def test_many_who_lie_cost_few_refreshes() -> None:
    """Among a thousand nodes each would take a millisecond: one in five is enough, and what is urgent does not wait."""
    made = registry({number: range(8) for number in range(1000)}, GRID)
    version = made.snapshot(2.0).version
    for number in range(100):
        made.not_held(node(number), MODEL, 1, 0, 2.0 + number / 1000)
        made.snapshot(2.0 + number / 1000)
    assert 15 <= made.snapshot(2.1).version - version <= 21
    made.unlinked(node(500), said(500).boot)
    assert node(500) not in made.snapshot(2.1).holders(MODEL, 1, 0)
    made.not_held(node(501), MODEL, 1, 0, 2.1)
    made.unlinked(node(502), said(502).boot)
    assert not {node(501), node(502)} & set(made.snapshot(2.1).holders(MODEL, 1, 0))


def test_an_answer_that_it_does_not_hold_what_it_never_claimed_says_nothing() -> None:
    made = registry({1: [0]})
    before = made.views(1.0)[0].reputation
    made.not_held(node(1), MODEL, 0, 3, 1.0)
    made.not_held(node(1), MODEL, 9, 9, 1.0)
    made.not_held(node(5), MODEL, 0, 0, 1.0)
    assert made.snapshot(1.1).holders(MODEL, 0, 0) == (node(1),)
    assert made.views(1.1)[0].reputation == pytest.approx(before, abs=1e-3)


def test_ranks_follow_what_was_seen() -> None:
    made = registry({number: [0] for number in range(1, 6)})
    made.linked(said(6, holds=[0]), 1.0)
    made.heard(said(2, 2, holds=[0], draining=True), 1.0)
    for _ in range(2):
        made.failed(node(3), "corrupt", 8, 1.0, 0.5)
    made.failed(node(4), "lost", 8, 1.0, 0.5)
    assert rank(made, 1, 1.0) == Rank.proven
    assert rank(made, 2, 1.0) == Rank.draining
    assert rank(made, 3, 1.0) == Rank.broken
    assert rank(made, 4, 1.0) == Rank.broken
    assert rank(made, 6, 1.0) == Rank.newcomer
    assert rank(made, 4, 2.1) == Rank.probe
    made.began(node(3), 1, 4.0)
    made.answered(node(3), 1, 0.01, 10, 4.0)
    assert rank(made, 3, 4.1) == Rank.doubtful


def test_a_slow_node_is_remembered_for_a_while_and_then_tried_again() -> None:
    made = registry({1: [0], 2: [0], 3: [0]})
    for _ in range(20):
        made.answered(node(3), 8, 0.1, 100, 1.0)
    slow = {view.node: view.score for view in made.views(1.2)}
    assert slow[node(3)] > 5 * slow[node(1)]
    assert explain(made, node(3), 1.2).code == "slower"
    for second in range(2, 120, 10):
        for number in (1, 2, 3):
            made.heard(said(number, second, holds=[0]), float(second))
    later = {view.node: view.score for view in made.views(120.0)}
    assert later[node(3)] < 2 * later[node(1)]


def test_a_node_that_is_back_counts_by_what_it_takes_now() -> None:
    """Not by how long others waited for it when it was away."""
    made = registry({1: [0], 2: [0]})
    for _ in range(3):
        made.began(node(1), 8, 2.0)
        made.outrun(node(1), 8, 0.5, 2.0)
        made.failed(node(1), "timeout", 8, 2.0, 0.5)
    assert rank(made, 1, 2.0) == Rank.broken
    made.began(node(1), 8, 10.0)
    made.answered(node(1), 8, 0.2, 100, 10.0)  # it has just begun
    for _ in range(2):
        made.answered(node(1), 8, 0.01, 100, 10.0)
        made.answered(node(2), 8, 0.01, 100, 10.0)
    back, other = sorted(made.views(10.0), key=lambda view: view.node != node(1))
    assert back.score < 1.5 * other.score


def test_what_nodes_took_while_they_began_is_not_what_is_usual() -> None:
    """Two of four took long at first, and nobody needs them since: they are tried again."""
    made = registry({number: [0] for number in range(1, 5)})
    for number in (3, 4):
        for _ in range(20):
            made.answered(node(number), 8, 0.08, 100, 1.0)
    for tenth in range(1, 1_000):
        for number in (1, 2):
            made.answered(node(number), 8, 0.01, 100, 1.0 + tenth / 10)
    for number in range(1, 5):
        made.heard(said(number, 2, holds=[0]), 101.0)
    scores = {view.node: view.score for view in made.views(101.0)}
    assert scores[node(3)] < 2 * scores[node(1)]


def test_what_a_node_had_to_open_first_does_not_make_it_slow() -> None:
    """Experts that it computes with for the first time; after that it counts."""
    made = registry({1: [0], 2: [0]}, answers=0)
    for _ in range(3):
        made.answered(node(1), 8, 0.1, 100, 2.0, opened=True)
        made.answered(node(2), 8, 0.01, 100, 2.0)
    made.views(2.5)
    first, second = sorted(made.views(5.0), key=lambda view: view.node)
    assert first.score < 1.5 * second.score
    assert (first.measured.calls, first.measured.call_s) == (3, None)
    for _ in range(9):
        made.answered(node(1), 8, 0.1, 100, 5.0)
    first, second = sorted(made.views(6.0), key=lambda view: view.node)
    assert first.score > 5 * second.score


def test_rows_that_wait_make_a_node_dearer() -> None:
    made = registry({1: [0], 2: [0]})
    for _ in range(10):
        made.began(node(1), 8, 1.0)
    scores = {view.node: view.score for view in made.views(1.2)}
    assert scores[node(1)] > 5 * scores[node(2)]


def test_a_call_whose_caller_left_waits_no_longer_and_takes_no_trial() -> None:
    made = registry({1: [0], 2: [0]})
    made.failed(node(1), "lost", 1, 1.0, 0.5)
    made.began(node(1), 8, 2.2)
    assert rank(made, 1, 2.2) == Rank.broken
    made.dropped(node(1), 8)
    assert rank(made, 1, 2.3) == Rank.probe
    assert made.measurements.of(node(1)).rows_waiting == 0


def test_a_full_queue_makes_a_node_dearer_for_a_second() -> None:
    made = registry({1: [0], 2: [0]})
    made.failed(node(1), "refused", 8, 1.0, 0.5)
    scores = {view.node: view.score for view in made.views(1.2)}
    assert scores[node(1)] > 3 * scores[node(2)]
    scores = {view.node: view.score for view in made.views(4.0)}
    assert scores[node(1)] < 1.5 * scores[node(2)]


def test_what_is_known_of_a_node_survives_its_absence() -> None:
    made = registry({1: [0], 2: [0]})
    made.failed(node(1), "corrupt", 8, 1.0, 0.5)
    made.failed(node(1), "corrupt", 8, 1.0, 0.5)
    before = min(view.reputation for view in made.views(1.2))
    made.heard(said(2, 2, holds=[0]), 50.0)
    assert [view.node for view in made.views(70.0)] == [node(2)]
    made.unlinked(node(1), said(1).boot)
    made.linked(said(1, 2, boot=9, started=900, holds=[0]), 71.0)
    assert set(made.snapshot(71.0).holders(MODEL, 0, 0)) == {node(1), node(2)}
    again = min(view.reputation for view in made.views(71.0))
    assert again == pytest.approx(before, abs=0.05)


def test_a_node_that_takes_the_place_of_another_takes_nothing_else_of_it() -> None:
    made = registry({1: [0, 1], 2: [2]})
    made.heard(said(2, 2, holds=[2]), 50.0)
    made.linked(said(3, holds=[3]), 61.0)
    snapshot = made.snapshot(61.0)
    assert [snapshot.holders(MODEL, 0, expert) for expert in range(4)] == [(), (), (node(2),), (node(3),)]


def test_this_node_itself_is_not_a_peer() -> None:
    made = Registry(SummaryTable(), own=node(1))
    made.serve(MODEL, GRID)
    made.heard(said(1, holds=[0]), 0.0)
    assert made.views(0.0) == ()


def test_reasons_are_given_in_plain_words() -> None:
    made = registry({number: [0] for number in range(1, 8)})
    made.linked(said(8, holds=[0]), 1.0)
    made.linked(said(9), 1.0)
    made.heard(said(2, 2, holds=[0], draining=True), 1.0)
    made.failed(node(3), "lost", 8, 1.0, 0.5)
    made.not_held(node(4), MODEL, 0, 0, 1.0)
    codes = [explain(made, node(number), 1.2).code for number in (1, 2, 3, 4, 8, 9, 10)]
    assert codes == ["share", "draining", "open", "doubted", "newcomer", "nothing_held", "unknown"]
    assert explain(made, node(3), 1.2).text == "it failed (lost) 0 s ago; it is tried again in 1 s"
    assert explain(made, node(3), 2.2).code == "half_open"
    assert explain(made, node(1), 1.2, [PayloadId("00" * 32)]).code == "nothing_held"


def test_a_hedge_waits_for_what_most_calls_took_within_bounds() -> None:
    made = registry({1: [0], 2: [0], 3: [0]}, answers=0)
    for _ in range(70):
        made.answered(node(1), 8, 0.002, 100, 0.0)
        made.answered(node(2), 8, 0.6, 100, 0.0)
    waits = {view.node: view.hedge_after for view in made.views(1.2)}
    assert waits[node(1)] == 0.03
    assert waits[node(2)] == pytest.approx(0.6, rel=0.1)
    assert waits[node(3)] == 0.25
