"""Calls that are late go to another node too, where that can be of use; whichever answer is good first is taken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any

import pytest
import torch

from blyan.inference.executor import Executor, ExecutorOptions, _Beginning
from blyan.inference.plan import Assignment, ExpertPlan
from blyan.model.experts import ExpertCall
from blyan.network.questions import LinkLost, Question
from blyan.network.thread import NetworkThread
from blyan.primitives import limits
from blyan.primitives.clock import system_entropy, system_monotonic
from blyan.primitives.errors import ExpertUnavailable
from blyan.primitives.ids import PublicKey
from blyan.wire.framing import WireTensor
from two_nodes import FIRST, MODEL, SECOND, FakeLink, FakeNodes, ask


@pytest.fixture
def thread() -> Iterator[NetworkThread]:
    made = NetworkThread()
    yield made
    made.close()


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


@pytest.mark.parametrize("seconds", [0.7, 60])
def test_what_others_hold_too_is_not_refused_with_what_a_silent_node_alone_has(
    thread: NetworkThread, seconds: float
) -> None:
    """Both were in one message: the first expert is computed by the replica, the other is waited for."""
    nodes = FakeNodes(first=seconds, second=0)
    nodes.alone = frozenset({5})
    executor = Executor(thread, nodes, system_monotonic, system_entropy, ExecutorOptions("exact", 1.5))
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


@pytest.mark.parametrize("newcomer", [True, False])
def test_nor_where_much_has_to_be_moved(thread: NetworkThread, newcomer: bool) -> None:
    """Then a call is late late: half of the time is for the replica all the same."""
    nodes = FakeNodes(first=60, second=0)
    nodes.alone, nodes.moving = frozenset({5}), 0.4
    nodes.newcomers, nodes.links[FIRST].pings = (FIRST,) if newcomer else (), newcomer
    executor = Executor(thread, nodes, system_monotonic, system_entropy, ExecutorOptions("exact", 1.5))
    hidden = torch.randn(3, 8)
    both, alone = executor.begin(MODEL, [ExpertCall(1, 2, hidden), ExpertCall(1, 5, hidden)]).result(10)
    assert torch.equal(both, hidden)
    assert isinstance(alone, ExpertUnavailable)
    assert nodes.waiting == 0


def test_a_part_that_would_come_no_sooner_is_not_sent_twice(thread: NetworkThread) -> None:
    """The other part is of that node alone, which is late and no more: all is there when it answers."""
    nodes = FakeNodes(first=0.2, second=0)
    nodes.alone = frozenset({5})
    executor = Executor(thread, nodes, system_monotonic, system_entropy, ExecutorOptions("exact", 2.0))
    executor.begin(MODEL, [ExpertCall(1, expert, torch.randn(1, 8)) for expert in (2, 5)]).result(10)
    assert (executor.counters.hedges, nodes.links[SECOND].asked) == (0, 0)


class Stumbling(FakeLink):
    """Its first message is lost after a second, those after it are answered."""

    def ask_now(self, kind: str, fields: dict[str, Any], tensors: Sequence[WireTensor]) -> Question:
        if self.asked:
            return super().ask_now(kind, fields, tensors)
        self.asked += 1
        question = Question(1, self.node)
        asyncio.get_running_loop().call_later(1.0, question.settle, LinkLost("expected a link, found it ended"))
        return question


def test_what_a_node_alone_has_is_asked_of_it_again_though_the_hedge_is_silent(thread: NetworkThread) -> None:
    """At once when its message fails, not when the replica of the rest was waited for."""
    nodes = FakeNodes(first=0, second=60)
    nodes.links[FIRST] = Stumbling(FIRST, 0)
    nodes.alone = frozenset({5})
    executor = Executor(thread, nodes, system_monotonic, system_entropy, ExecutorOptions("exact", 2.0))
    hidden = torch.randn(3, 8)
    _, alone = executor.begin(MODEL, [ExpertCall(1, 2, hidden), ExpertCall(1, 5, hidden)]).result(10)
    assert isinstance(alone, torch.Tensor)
    assert torch.equal(alone, hidden)
    assert nodes.waiting == 0


def test_who_gives_up_in_the_turn_in_which_it_is_late_leaves_nothing_under_way(
    thread: NetworkThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two messages were sent; the tasks that were to wait for them never began."""
    nodes = FakeNodes(first=0.5, second=0.5)
    both = (Assignment(FIRST, (0,)), Assignment(SECOND, (1,)))
    made = ExpertPlan("dynamic", (), both, ((), ()), {FIRST: 0.03, SECOND: 0.03}, ())
    monkeypatch.setattr(nodes, "plan", lambda *_: made)
    late = _Beginning.late

    def given_up(self: _Beginning) -> None:
        late(self)
        self.promised.cancel()

    monkeypatch.setattr(_Beginning, "late", given_up)
    executor = Executor(thread, nodes, system_monotonic, system_entropy, ExecutorOptions("exact", 2.0))
    promised = executor.begin(MODEL, [ExpertCall(1, expert, torch.randn(3, 8)) for expert in (2, 5)])
    with pytest.raises(CancelledError):
        promised.result(10)
    time.sleep(0.2)
    assert (nodes.waiting, [link.called_off for link in nodes.links.values()]) == (0, [1, 1])


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
