"""The executor: each message is accounted for, and nobody waits for what is known to be nowhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch

from blyan.inference.executor import Executor, ExecutorOptions
from blyan.inference.plan import Assignment, CallSpec, ExpertPlan
from blyan.model.experts import ExpertCall
from blyan.network.measurements import Failure
from blyan.network.questions import LinkLost, Question
from blyan.network.thread import NetworkThread
from blyan.primitives import limits
from blyan.primitives.clock import system_entropy, system_monotonic
from blyan.primitives.errors import ExpertUnavailable
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.wire.expert_call import answer_of, parse_batch
from blyan.wire.framing import WireTensor
from swarm_nodes import wait_for
from swarms import node

MODEL = PayloadId("cd" * 32)
FIRST, SECOND = node(1), node(2)


class FakeLink:
    """Answers with the rows it was given, after a while, or not at all."""

    def __init__(self, node: PublicKey, seconds: float) -> None:
        self.node, self.seconds = node, seconds
        self.asked = self.called_off = 0
        self.granted = 0.0  # seconds that it was given
        self.pings = True  # whether it says anything

    @property
    def peer(self) -> FakeLink:
        return self

    @property
    def heard(self) -> float:
        return system_monotonic() if self.pings else 0.0

    def ask_now(self, _kind: str, fields: Mapping[str, Any], tensors: Sequence[WireTensor]) -> Question:
        self.asked += 1
        if self.seconds < 0:
            raise LinkLost("gone")
        batch = parse_batch(fields)
        self.granted = batch.milliseconds / 1000
        question = Question(self.asked, self.node)
        answer = answer_of(batch, tensors[0], tensors[0].data)
        asyncio.get_running_loop().call_later(self.seconds, question.settle, answer)
        return question

    def forget(self, question: Question) -> None:
        self.called_off += not question.is_settled


class FakeNodes:
    """Two nodes, of which the first that is left is asked."""

    def __init__(self, **seconds: float) -> None:
        self.links = {
            name: FakeLink(name, each) for name, each in ((FIRST, seconds["first"]), (SECOND, seconds["second"]))
        }
        self.waiting = self.moved = 0
        self.moving = 0.0
        self.newcomers: tuple[PublicKey, ...] = ()
        self.alone: frozenset[int] = frozenset()  # experts of the first node alone
        self.budget = True
        self.outrun_s: dict[PublicKey, float] = {}
        self.failures: list[tuple[PublicKey, Failure]] = []
        self.good: list[PublicKey] = []
        self.trials: tuple[PublicKey, ...] = ()

    def plan(self, model: PayloadId, calls: Sequence[CallSpec], without: frozenset[PublicKey]) -> ExpertPlan:
        left = next((each for each in self.links if each not in without), None)
        missing = tuple(
            at for at, call in enumerate(calls) if left is None or (left != FIRST and call.expert in self.alone)
        )
        nothing = ((),) * len(calls)
        if left is None or len(missing) == len(calls):
            return ExpertPlan("dynamic", (), (), nothing, {}, missing)
        places = tuple(at for at in range(len(calls)) if at not in missing)
        return ExpertPlan("dynamic", (), (Assignment(left, places),), nothing, {left: 0.03}, missing, self.trials)

    def link(self, name: PublicKey) -> Any:
        return self.links[name]

    def moving_s(self, _node: PublicKey, count: int) -> float:
        self.moved = count
        return self.moving

    def proven(self, node: PublicKey) -> bool:
        return node not in self.newcomers

    def may_hedge(self) -> bool:
        return self.budget

    def may_replace(self) -> bool:
        return self.budget

    def began(self, _node: PublicKey, rows: int) -> None:
        self.waiting += rows

    def answered(self, name: PublicKey, _model: object, calls: Sequence[CallSpec], _s: float, _sent: int) -> None:
        self.good.append(name)
        self.waiting -= sum(call.rows for call in calls)

    def outrun(self, name: PublicKey, rows: int, seconds: float) -> None:
        self.outrun_s[name] = seconds

    def dropped(self, _node: PublicKey, rows: int) -> None:
        self.waiting -= rows

    def failed(self, name: PublicKey, kind: Failure, rows: int) -> None:
        self.waiting -= rows
        self.failures.append((name, kind))

    def not_held(self, *_: object) -> None:
        pytest.fail("nobody says that")


@pytest.fixture
def thread() -> Iterator[NetworkThread]:
    made = NetworkThread()
    yield made
    made.close()


def ask(thread: NetworkThread, nodes: FakeNodes, call_seconds: float = 2.0) -> Any:
    executor = Executor(thread, nodes, system_monotonic, system_entropy, ExecutorOptions("exact", call_seconds))
    hidden = torch.randn(3, 8)
    (found,) = executor.begin(MODEL, [ExpertCall(1, 2, hidden)]).result(10)
    assert isinstance(found, ExpertUnavailable) or torch.equal(found, hidden)
    return executor, found


@pytest.mark.parametrize(
    ("first", "second", "late"),
    [(1.0, 0.0, {FIRST}), (0.06, 1.0, {SECOND}), (0.0, 0.0, set[PublicKey]())],
    ids=["the replica wins", "the first wins after all", "nobody is late"],
)
def test_a_hedge_leaves_nothing_waiting(
    thread: NetworkThread, first: float, second: float, late: set[PublicKey]
) -> None:
    """Whoever loses is no longer counted as busy with it, and it is known how long it had."""
    nodes = FakeNodes(first=first, second=second)
    ask(thread, nodes)
    assert nodes.waiting == 0
    assert set(nodes.outrun_s) == late
    assert all(0.02 < each < 0.5 for each in nodes.outrun_s.values())


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


def test_what_has_to_be_moved_makes_no_call_late(thread: NetworkThread, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not hedged while the node says something, nor given up by when a small one would be."""
    nodes = FakeNodes(first=0.2, second=0)
    nodes.moving = 0.01
    executor, _ = ask(thread, nodes)
    assert executor.counters.hedges == 0
    monkeypatch.setattr(limits, "link_bytes_per_second", 2 * 3 * 8 * 4 / 7)  # so that the call takes seven seconds
    ask(thread, nodes)
    assert 8.5 < nodes.links[FIRST].granted <= 9


def test_a_node_that_is_sent_much_and_says_all_but_an_answer_is_replaced_in_time(thread: NetworkThread) -> None:
    """Half of the time is for another, which answers."""
    nodes = FakeNodes(first=60, second=0.1)
    nodes.moving = 0.01
    _, found = ask(thread, nodes, 1.0)
    assert not isinstance(found, ExpertUnavailable)
    assert nodes.good == [SECOND]


def test_a_node_that_is_sent_much_and_is_silent_is_replaced(
    thread: NetworkThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blyan.inference.executor._silent_seconds", 0.2)
    nodes = FakeNodes(first=30, second=0)
    nodes.moving, nodes.links[FIRST].pings = 0.01, False
    began = time.monotonic()
    executor, found = ask(thread, nodes)
    assert isinstance(found, torch.Tensor)
    assert (executor.counters.hedges, nodes.waiting) == (1, 0)
    assert time.monotonic() - began < 1


def test_a_newcomer_that_is_sent_much_is_not_waited_for(thread: NetworkThread) -> None:
    """It never answered: that its answer is on the way is no more likely than that none comes."""
    nodes = FakeNodes(first=60, second=0)
    nodes.moving, nodes.newcomers = 0.01, (FIRST,)
    began = time.monotonic()
    executor, found = ask(thread, nodes, 10.0)
    assert isinstance(found, torch.Tensor)
    assert (executor.counters.hedges, nodes.good) == (1, [SECOND])
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("seconds", [0.5, 60])
def test_what_others_hold_too_is_not_refused_with_what_a_silent_node_alone_has(
    thread: NetworkThread, seconds: float
) -> None:
    """Both were in one message: the first expert is computed by the replica, the other is waited for."""
    nodes = FakeNodes(first=seconds, second=0)
    nodes.alone = frozenset({5})
    executor = Executor(thread, nodes, system_monotonic, system_entropy, ExecutorOptions("exact", 1.0))
    hidden = torch.randn(3, 8)
    both, alone = executor.begin(MODEL, [ExpertCall(1, 2, hidden), ExpertCall(1, 5, hidden)]).result(10)
    assert torch.equal(both, hidden)
    if seconds < 1:
        assert torch.equal(alone, hidden)
    else:
        assert isinstance(alone, ExpertUnavailable)
        assert alone.detail == {"layer": 1, "expert": 5}
        assert nodes.failures[0] == (FIRST, "timeout")
    assert nodes.waiting == 0


def test_a_call_that_seems_stuck_is_replaced_without_a_budget(thread: NetworkThread) -> None:
    """After half a second, where a node is as a black hole; what is only late is waited for."""
    nodes = FakeNodes(first=0.2, second=0)
    nodes.budget = False
    executor, _ = ask(thread, nodes)
    assert executor.counters.hedges == 0
    nodes.links[FIRST].seconds = 30
    began = time.monotonic()
    (found,) = executor.begin(MODEL, [ExpertCall(1, 2, torch.randn(1, 8))]).result(10)
    assert isinstance(found, torch.Tensor)
    assert 0.4 < time.monotonic() - began < 1.5
    assert (executor.counters.hedges, nodes.waiting) == (1, 0)


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
