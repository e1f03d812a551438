"""What a gateway knows of nodes that lead: what their steps take, and how busy they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from blyan.inference.leads import Leads
from blyan.inference.registry import Registry
from blyan.inference.step_times import StepTimes
from blyan.network.gossip import SummaryTable
from blyan.primitives.ids import PayloadId, PublicKey

MODEL = PayloadId("a" * 64)
NODE = PublicKey("1" * 64)


@dataclass
class Scene:
    now: float = 100.0
    steps: StepTimes = field(default_factory=StepTimes)
    leads: Leads = field(init=False)

    def __post_init__(self) -> None:
        links: Any = SimpleNamespace(open={}, link=lambda _node: None)
        self.leads = Leads(Registry(SummaryTable()), links, self.clock, lambda: 0.5, self.steps.add)

    def clock(self) -> float:
        return self.now

    def answer(self, first_s: float, step_s: float, steps: int, together: int = 1) -> None:
        """One whole answer to a prompt of a hundred tokens."""
        self.leads.began(NODE)
        pace = self.leads.follow(NODE, MODEL, 100)
        self.now += first_s
        pace.came(1)
        for _ in range(steps // together):
            self.now += step_s * together
            pace.came(together)
        pace.over()
        self.leads.ended(NODE)

    def reading(self, tokens: int, generations: int = 1) -> float:
        found = self.steps.curve(MODEL, "static_delegate", NODE).step(generations, tokens, 100)
        assert found is not None
        return found.seconds


def test_steps_of_a_lead_are_measured_as_they_come() -> None:
    """The prompt as one step, less the round trip; tokens by themselves or several at once."""
    scene = Scene()
    scene.leads.registry.measurements.ping(NODE, 0.02, scene.now)
    scene.answer(0.12, 0.01, 16, together=4)
    assert (scene.reading(100), scene.reading(1)) == (pytest.approx(0.1), pytest.approx(0.01))
    assert scene.steps.curve(MODEL, "static_delegate").points == (), "nobody else's"


def test_a_lead_that_became_slow_is_known_to_be_after_a_few_answers() -> None:
    scene = Scene()
    for _ in range(20):
        scene.answer(0.1, 0.01, 24)
    for _ in range(3):
        scene.answer(0.4, 0.05, 24)
    assert scene.reading(1) == pytest.approx(0.05)


def test_steps_beside_other_generations_are_told_apart() -> None:
    scene = Scene()
    scene.answer(0.1, 0.01, 8)
    scene.leads.began(NODE)
    scene.answer(0.1, 0.015, 8)
    assert (scene.reading(1), scene.reading(2, 2)) == (pytest.approx(0.01), pytest.approx(0.015))


def test_what_a_node_says_of_its_queue_less_what_this_node_asked_is_others() -> None:
    """Also for a while after an answer, for what it says is older."""
    scene = Scene()
    scene.leads.began(NODE)
    scene.leads.began(NODE)
    assert scene.leads._ours(NODE, scene.now) == 2
    scene.leads.ended(NODE)
    scene.leads.ended(NODE)
    assert scene.leads._ours(NODE, scene.now + 3) == 2
    assert scene.leads._ours(NODE, scene.now + 30) == 0
