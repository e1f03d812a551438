"""What the executor tells of messages that nobody waits for any more; the rest is in the swarm's tests."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
import torch

from blyan.inference.executor import Executor
from blyan.inference.plan import Assignment, CallSpec, ExpertPlan
from blyan.model.experts import ExpertCall
from blyan.network.thread import NetworkThread
from blyan.primitives.clock import system_entropy
from swarms import MODEL, node


class Silent:
    """A link that never answers."""

    async def request(self, kind: str, fields: object, tensors: object, *, seconds: float) -> None:
        await asyncio.Event().wait()


@dataclass
class OneNode:
    """A node that is always planned, and what was said of it."""

    said: list[tuple[str, int]] = field(default_factory=list)
    asked: threading.Event = field(default_factory=threading.Event)
    dropped_once: threading.Event = field(default_factory=threading.Event)

    def plan(self, model: object, calls: Sequence[CallSpec], without: object) -> ExpertPlan:
        every = tuple(range(len(calls)))
        return ExpertPlan("dynamic", (), (Assignment(node(1), every),), ((),) * len(calls), {node(1): 60.0}, ())

    def link(self, key: object) -> Silent:
        return Silent()

    def began(self, key: object, rows: int) -> None:
        self.said.append(("began", rows))
        self.asked.set()

    def dropped(self, key: object, rows: int) -> None:
        self.said.append(("dropped", rows))
        self.dropped_once.set()


@pytest.fixture
def thread() -> Iterator[NetworkThread]:
    made = NetworkThread()
    yield made
    made.close()


def test_a_message_whose_caller_left_is_told_as_dropped(thread: NetworkThread) -> None:
    nodes = OneNode()
    executor = Executor(thread, nodes, time.monotonic, system_entropy)
    future = executor.begin(MODEL, [ExpertCall(0, 1, torch.zeros(3, 4))])
    assert nodes.asked.wait(5)
    future.cancel()
    assert nodes.dropped_once.wait(5)
    assert nodes.said == [("began", 3), ("dropped", 3)]
