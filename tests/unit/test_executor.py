"""The executor: each message is accounted for, and nobody waits for what is known to be nowhere."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from blyan.inference.executor import Executor, ExecutorOptions
from blyan.model.experts import ExpertCall
from blyan.network.thread import NetworkThread
from blyan.primitives import limits
from blyan.primitives.clock import system_entropy, system_monotonic
from blyan.primitives.errors import ExpertUnavailable
from swarm_nodes import wait_for
from two_nodes import FIRST, MODEL, SECOND, FakeNodes, ask


@pytest.fixture
def thread() -> Iterator[NetworkThread]:
    made = NetworkThread()
    yield made
    made.close()


def test_a_failure_goes_to_the_replica(thread: NetworkThread) -> None:
    """And is told."""
    nodes = FakeNodes(first=-1, second=0)
    executor, _ = ask(thread, nodes)
    assert (nodes.failures, nodes.waiting, executor.counters.failovers) == ([(FIRST, "lost")], 0, 1)


def test_the_second_who_finds_nobody_does_not_wait(thread: NetworkThread) -> None:
    """Until somebody can be asked again: then everyone who finds nobody waits once more."""
    nodes = FakeNodes(first=0, second=0)
    executor, _ = ask(thread, nodes, 1.0)
    links, nodes.links = nodes.links, {}

    def seconds() -> float:
        began = time.monotonic()
        (found,) = executor.begin(MODEL, [ExpertCall(1, 2, torch.randn(1, 8))]).result(10)
        assert isinstance(found, ExpertUnavailable) == (not nodes.links)
        return time.monotonic() - began

    assert 0.85 < seconds() < 3
    assert seconds() < 0.7
    nodes.links = links
    assert seconds() < 0.7
    nodes.links = {}
    assert 0.85 < seconds() < 3


@pytest.mark.parametrize(("rows", "messages"), [((3, 4), 1), ((16, 16), 1), ((16, 17), 2), ((40,), 2), ((1,) * 70, 3)])
def test_rows_beyond_a_frame_go_in_several_messages(
    thread: NetworkThread, monkeypatch: pytest.MonkeyPatch, rows: tuple[int, ...], messages: int
) -> None:
    """Also those of one call; the outputs come back as they were asked for."""
    monkeypatch.setattr("blyan.primitives.limits.link_frame_bytes_max", 2 * 32 * 8 * 4)  # 32 rows of eight numbers
    nodes = FakeNodes(first=0, second=0)
    executor = Executor(thread, nodes, system_monotonic, system_entropy, ExecutorOptions())
    calls = [ExpertCall(1, expert, torch.randn(count, 8)) for expert, count in enumerate(rows)]
    found = executor.begin(MODEL, calls).result(10)
    for call, output in zip(calls, found, strict=True):
        assert isinstance(output, torch.Tensor)
        assert torch.equal(output, call.hidden)
    assert executor.counters.messages == messages


@pytest.mark.parametrize(("calls", "messages"), [(4, 1), (5, 2), (12, 3), (400, 34)])
def test_a_long_prompt_goes_to_a_node_in_messages_that_are_not_too_large(
    thread: NetworkThread, monkeypatch: pytest.MonkeyPatch, calls: int, messages: int
) -> None:
    """Nor too many: a node that is sent ten megabytes at once seems silent until the last has come."""
    monkeypatch.setattr(limits, "expert_message_bytes", 4 * 3 * 8 * 4)  # four calls of three rows of eight numbers
    nodes = FakeNodes(first=0, second=0)
    executor = Executor(thread, nodes, system_monotonic, system_entropy, ExecutorOptions())
    asked = [ExpertCall(1, expert, torch.randn(3, 8)) for expert in range(calls)]
    found = executor.begin(MODEL, asked).result(10)
    assert all(torch.equal(call.hidden, output) for call, output in zip(asked, found, strict=True))
    assert executor.counters.messages == messages
    assert nodes.moved == 2 * calls * 3 * 8 * 4


def test_a_request_with_little_time_left_gives_its_calls_no_more(thread: NetworkThread) -> None:
    """And blames no node for being later than that."""
    nodes = FakeNodes(first=30, second=30)
    executor = Executor(thread, nodes, system_monotonic, system_entropy, ExecutorOptions("exact", 5.0))
    began = time.monotonic()
    (found,) = executor.begin(MODEL, [ExpertCall(1, 2, torch.randn(1, 8))], system_monotonic() + 0.3).result(10)
    assert isinstance(found, ExpertUnavailable)
    assert 0.2 < time.monotonic() - began < 1.5
    assert all(0 < link.granted <= 0.3 for link in nodes.links.values())
    assert (nodes.failures, nodes.waiting) == ([], 0)


def test_calls_that_nobody_waits_for_are_called_off(thread: NetworkThread) -> None:
    """At the node and at its replica."""
    nodes = FakeNodes(first=30, second=30)
    executor = Executor(thread, nodes, system_monotonic, system_entropy, ExecutorOptions("exact", 5.0))
    asked = executor.begin(MODEL, [ExpertCall(1, 2, torch.randn(1, 8))])
    wait_for(lambda: all(link.asked for link in nodes.links.values()), "a hedge")
    asked.cancel()
    wait_for(lambda: all(link.called_off for link in nodes.links.values()), "both called off")
    assert nodes.waiting == 0


def test_a_swarm_that_fails_is_not_flooded(thread: NetworkThread) -> None:
    """Beyond the budget a call goes out twice a second, in place of forty times."""
    nodes = FakeNodes(first=-1, second=-1)
    _, found = ask(thread, nodes, 1.2)
    flood = sum(link.asked for link in nodes.links.values())
    assert isinstance(found, ExpertUnavailable)
    nodes = FakeNodes(first=-1, second=-1)
    nodes.budget = False
    executor, found = ask(thread, nodes, 1.2)
    assert isinstance(found, ExpertUnavailable)
    assert 2 <= sum(link.asked for link in nodes.links.values()) <= 8 < flood
    assert executor.counters.held_up > 0


class _FastClock:
    """A twentieth of a second goes by whenever somebody looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.05
        return self.now


@pytest.mark.parametrize("there", [False, True])
def test_it_looks_for_a_missing_expert_for_as_long_as_is_set(
    thread: NetworkThread, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """Thousands of times, also for nodes that are there and fail; what others ask of the same step is answered."""
    monkeypatch.setattr("blyan.inference.executor._look_seconds", 0.0)
    nodes = FakeNodes(first=-1, second=-1)
    nodes.links = nodes.links if there else {}
    executor = Executor(thread, nodes, _FastClock(), system_entropy, ExecutorOptions("exact", 600.0))
    (found,) = executor.begin(MODEL, [ExpertCall(1, 2, torch.randn(1, 8))]).result(60)
    assert isinstance(found, ExpertUnavailable)
    assert "600 s" in found.message
    assert nodes.plans > 1_000


def test_an_expert_that_is_long_missing_takes_nothing_from_the_others(
    thread: NetworkThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same layer, which are there."""
    monkeypatch.setattr("blyan.inference.executor._look_seconds", 0.0)
    nodes = FakeNodes(first=-1, second=0)
    nodes.alone = frozenset({2})  # the first has it, and fails
    executor = Executor(thread, nodes, _FastClock(), system_entropy, ExecutorOptions("exact", 300.0))
    calls = [ExpertCall(1, expert, torch.randn(1, 8)) for expert in (2, 3)]
    lost, given = executor.begin(MODEL, calls).result(60)
    assert isinstance(lost, ExpertUnavailable)
    assert isinstance(given, torch.Tensor) and torch.equal(given, calls[1].hidden)


def test_one_death_costs_no_wait_though_the_budget_is_spent(thread: NetworkThread) -> None:
    nodes = FakeNodes(first=-1, second=0)
    nodes.budget = False
    began = time.monotonic()
    executor, found = ask(thread, nodes)
    assert isinstance(found, torch.Tensor)
    assert time.monotonic() - began < 1.5
    assert executor.counters.held_up == 0


def test_a_trial_that_is_outrun_is_heard_all_the_same(thread: NetworkThread) -> None:
    """A node that is well and slower than its replica is trusted again by its late answer, not tried for ever."""
    nodes = FakeNodes(first=0.2, second=0.0)
    nodes.trials = (FIRST,)
    ask(thread, nodes)
    assert nodes.good == [SECOND]
    wait_for(lambda: nodes.good == [SECOND, FIRST], "the late answer")
    assert (nodes.waiting, nodes.links[FIRST].called_off, nodes.failures) == (0, 0, [])


def test_a_trial_that_is_never_answered_has_failed_once_its_time_is_over(thread: NetworkThread) -> None:
    nodes = FakeNodes(first=5.0, second=0.0)
    nodes.trials = (FIRST,)
    ask(thread, nodes, call_seconds=0.3)
    wait_for(lambda: nodes.failures == [(FIRST, "timeout")], "its end")
    assert (nodes.waiting, nodes.links[FIRST].called_off, nodes.good) == (0, 1, [SECOND])


def test_what_was_missing_long_ago_is_waited_for_anew(thread: NetworkThread) -> None:
    """That nobody had an expert minutes ago refuses nothing now: it may come back in a moment."""
    nodes, now = FakeNodes(first=0.0, second=0.0), [1000.0]
    there, nodes.links = nodes.links, {}
    executor = Executor(thread, nodes, lambda: now[0], system_entropy, ExecutorOptions("exact", 10.0))
    call = [ExpertCall(1, 2, torch.randn(3, 8))]
    first = executor.begin(MODEL, call)
    wait_for(lambda: executor._lacked.known, "nobody found")
    now[0] += 10.0
    assert isinstance(first.result(10)[0], ExpertUnavailable)
    now[0] += 300.0
    again = executor.begin(MODEL, call)
    time.sleep(0.1)
    nodes.links = there
    assert torch.equal(again.result(10)[0], call[0].hidden)
