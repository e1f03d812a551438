"""Calls shared out: to whom, with whom standing by, and what nobody has."""

import random
from collections import Counter

import pytest

from blyan.inference.plan import CallSpec, Policy, default_policy, plan_experts
from blyan.inference.registry import Registry
from blyan.inference.snapshot import ExpertGrid
from swarms import MODEL, node, registry, said

GRID = ExpertGrid((0,), 16)


class Lots:
    """Draws that repeat."""

    def __init__(self, *lots: float) -> None:
        self.lots = lots
        self.at = -1

    def __call__(self) -> float:
        self.at += 1
        return self.lots[self.at % len(self.lots)]


def plan(made: Registry, calls, local=frozenset(), lots=(0.5,), policy=default_policy, now=1.2):
    specs = [CallSpec(0, expert, rows) for expert, rows in calls]
    return plan_experts(specs, MODEL, local, made.snapshot(now), policy, Lots(*lots))


def test_what_is_here_is_computed_here_and_then_the_plan_is_local() -> None:
    made = plan(registry({1: range(16)}, GRID), [(0, 1), (1, 1)], frozenset({(0, 0), (0, 1)}))
    assert (made.type, made.local, made.assignments, made.missing) == ("local", (0, 1), (), ())


def test_each_node_gets_one_message_with_all_its_calls() -> None:
    made = plan(registry({1: [0, 2, 4], 2: [1, 3]}, GRID), [(expert, 1) for expert in range(5)])
    assert made.assignments == ((node(1), (0, 2, 4)), (node(2), (1, 3)))
    assert made.type == "dynamic"


def test_what_nobody_has_is_missing_and_the_rest_is_planned() -> None:
    made = plan(registry({1: [0]}, GRID), [(0, 1), (7, 1)])
    assert (made.assignments, made.missing) == (((node(1), (0,)),), (1,))


def test_replicas_share_the_rows() -> None:
    made = plan(registry({1: range(16), 2: range(16)}, GRID), [(expert, 5) for expert in range(16)])
    assert [len(calls) for _, calls in made.assignments] == [8, 8]


def test_a_node_twice_as_fast_gets_twice_as_much() -> None:
    swarm = registry({1: range(16), 2: range(16)}, GRID, answers=0)
    for _ in range(20):
        swarm.answered(node(1), 8, 0.01, 100, 0.0)
        swarm.answered(node(2), 8, 0.02, 100, 0.0)
    made = plan(swarm, [(expert % 16, 4) for expert in range(48)])
    shares = dict(made.assignments)
    assert len(shares[node(1)]) == pytest.approx(32, abs=2)


def test_a_node_ten_times_slower_gets_nothing_of_a_small_step() -> None:
    swarm = registry({1: range(16), 2: range(16), 3: range(16)}, GRID, answers=0)
    for _ in range(20):
        for number in (1, 2, 3):
            swarm.answered(node(number), 8, 0.1 if number == 3 else 0.01, 100, 0.0)
    for lot in range(20):
        made = plan(swarm, [(expert, 1) for expert in range(8)], lots=(0.9, lot / 20, 0.5))
        assert {each.node for each in made.assignments} == {node(1), node(2)}


def test_equals_take_turns_by_lot() -> None:
    swarm = registry({1: [0], 2: [0], 3: [0]}, GRID)
    rng = random.Random(1)
    lots = [(0.9, rng.random(), rng.random(), rng.random()) for _ in range(300)]
    asked = Counter(plan(swarm, [(0, 1)], lots=each).assignments[0].node for each in lots)
    assert sorted(asked) == [node(1), node(2), node(3)]
    assert max(asked.values()) < 1.5 * min(asked.values())


def test_fallbacks_are_the_other_holders_the_best_first() -> None:
    swarm = registry({1: [0], 2: [0], 3: [0], 4: [1]}, GRID, answers=0)
    for number, seconds in ((1, 0.01), (2, 0.05), (3, 0.03)):
        for _ in range(20):
            swarm.answered(node(number), 8, seconds, 100, 0.0)
    made = plan(swarm, [(0, 1), (1, 1)])
    assert made.assignments[0] == (node(1), (0,))
    assert made.fallbacks == ((node(3), node(2)), ())


def test_a_draining_node_stands_by_only() -> None:
    swarm = registry({1: [0], 2: [0, 1]}, GRID)
    swarm.heard(said(2, 2, holds=[0, 1], draining=True), 1.0)
    for lot in range(10):
        made = plan(swarm, [(0, 1), (1, 1)], lots=(0.9, lot / 10))
        assert made.assignments == ((node(1), (0,)), (node(2), (1,)))
        assert made.fallbacks == ((node(2),), ())


def test_an_open_breaker_is_asked_only_where_nobody_else_has_the_expert() -> None:
    swarm = registry({1: [0], 2: [0, 1]}, GRID)
    swarm.failed(node(2), "lost", 1, 1.0, 0.5)
    for lot in range(10):
        made = plan(swarm, [(0, 1), (1, 1)], lots=(lot / 10, 0.0))
        assert made.assignments == ((node(1), (0,)), (node(2), (1,)))


def test_a_node_on_trial_gets_one_call_that_another_can_do() -> None:
    swarm = registry({1: range(4), 2: range(4)}, GRID)
    swarm.failed(node(2), "lost", 1, 1.0, 0.5)
    made = plan(swarm, [(expert, 1) for expert in range(4)], lots=(0.1,), now=2.2)
    shares = dict(made.assignments)
    assert made.probes == (node(2),)
    assert (len(shares[node(1)]), len(shares[node(2)])) == (3, 1)
    [probed] = shares[node(2)]
    assert made.fallbacks[probed] == (node(1),)
    assert made.hedge_after[node(2)] == 0.05
    swarm.began(node(2), 1, 2.2)
    assert plan(swarm, [(0, 1)], lots=(0.1,), now=2.2).probes == ()


def test_a_node_on_trial_that_alone_has_another_expert_keeps_that_call() -> None:
    swarm = registry({1: [0, 1], 2: [1, 2]}, GRID)
    swarm.failed(node(2), "lost", 1, 1.0, 0.5)
    made = plan(swarm, [(0, 1), (1, 1), (2, 1)], lots=(0.1,), now=2.2)
    assert made.assignments == ((node(1), (0, 1)), (node(2), (2,)))


def test_a_newcomer_gets_a_small_share_beside_the_proven() -> None:
    swarm = registry({1: [0]}, GRID)
    swarm.linked(said(2, holds=[0]), 1.0)
    assert plan(swarm, [(0, 1)], lots=(0.9,)).assignments[0].node == node(1)
    made = plan(swarm, [(0, 1)], lots=(0.01,))
    assert made.assignments[0].node == node(2)
    assert made.fallbacks == ((node(1),),)


def test_newcomers_alone_are_asked_at_once() -> None:
    made = plan(registry({1: [0], 2: [0]}, GRID, answers=0), [(0, 1)])
    assert len(made.assignments) == 1
    assert len(made.fallbacks[0]) == 1


def test_who_is_below_the_gate_stands_last_in_line() -> None:
    swarm = registry({1: [0], 2: [0], 3: [0]}, GRID)
    for _ in range(2):
        swarm.failed(node(1), "corrupt", 1, 0.0, 0.5)
    swarm.began(node(1), 1, 5.0)
    swarm.answered(node(1), 1, 0.001, 10, 5.0)
    for lot in range(10):
        made = plan(swarm, [(0, 1)], lots=(lot / 10, 0.0), now=5.2)
        assert made.assignments[0].node != node(1)
        assert made.fallbacks[0][-1] == node(1)


def test_a_signature_names_the_assignments() -> None:
    swarm = registry({1: [0, 1], 2: [0]}, GRID)
    one, same, other = (plan(swarm, calls) for calls in ([(0, 1), (1, 1)], [(0, 1), (1, 1)], [(1, 1)]))
    assert one.signature == same.signature
    assert one.signature != other.signature
    assert len(one.signature) == 64


def test_an_empty_step_is_local() -> None:
    made = plan(registry({1: [0]}, GRID), [])
    assert (made.type, made.assignments, made.missing) == ("local", (), ())


def test_shares_outside_zero_and_one_are_a_mistake() -> None:
    with pytest.raises(AssertionError):
        Policy(newcomer_share=1.5)
