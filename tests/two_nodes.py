"""Two nodes and links to them, as the executor sees them, which answer as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from blyan.inference.executor import Executor, ExecutorOptions
from blyan.inference.plan import Assignment, CallSpec, ExpertPlan
from blyan.model.experts import ExpertCall
from blyan.network.measurements import Failure
from blyan.network.questions import LinkLost, Question
from blyan.network.thread import NetworkThread
from blyan.primitives.clock import system_entropy, system_monotonic
from blyan.primitives.errors import ExpertUnavailable
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.wire.expert_call import answer_of, parse_batch
from blyan.wire.framing import WireTensor
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
        self.waiting = self.moved = self.plans = 0
        self.moving = 0.0
        self.newcomers: tuple[PublicKey, ...] = ()
        self.alone: frozenset[int] = frozenset()  # experts of the first node alone
        self.budget = True
        self.outrun_s: dict[PublicKey, float] = {}
        self.failures: list[tuple[PublicKey, Failure]] = []
        self.good: list[PublicKey] = []
        self.trials: tuple[PublicKey, ...] = ()

    def plan(self, model: PayloadId, calls: Sequence[CallSpec], without: frozenset[PublicKey]) -> ExpertPlan:
        self.plans += 1
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


def ask(thread: NetworkThread, nodes: FakeNodes, call_seconds: float = 2.0) -> Any:
    executor = Executor(thread, nodes, system_monotonic, system_entropy, ExecutorOptions("exact", call_seconds))
    hidden = torch.randn(3, 8)
    (found,) = executor.begin(MODEL, [ExpertCall(1, 2, hidden)]).result(10)
    assert isinstance(found, ExpertUnavailable) or torch.equal(found, hidden)
    return executor, found
