"""What a gateway knows of nodes that lead: what their steps take, and how busy they are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from blyan.inference.call_times import Calls, CallTimes, Spread
from blyan.inference.delegation import Candidate
from blyan.inference.leads import Leads
from blyan.inference.registry import Registry
from blyan.inference.snapshot import Rank
from blyan.inference.step_times import StepTimes
from blyan.network.gossip import SummaryTable
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.wire.peer import Holding

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

    def answer(
        self, first_s: float, step_s: float, steps: int, together: int = 1, called_s: float = 0.0, **said: Any
    ) -> None:
        """One whole answer to a prompt of a hundred tokens."""
        self.leads.began(NODE)
        calls = Calls(1, (CallTimes(NODE, called_s, 0.0, called_s),), (Spread(1, ((0, 1.0),)),))
        pace = self.leads.follow(NODE, MODEL, 100, calls)
        self.now += first_s
        pace.came(1, **said)
        for _ in range(steps // together):
            self.now += step_s * together
            pace.came(together, **said)
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


def candidate(scene: Scene) -> Candidate:
    """The node as one to be asked: linked, proven, and with the trunk."""
    link = SimpleNamespace(peer=SimpleNamespace(holdings={MODEL: Holding(True, b"")}, queue=0), heard=scene.now)
    view = SimpleNamespace(rank=Rank.proven, measured=SimpleNamespace(rtt_s=0.01))
    links: Any = SimpleNamespace(open={NODE: None}, link=lambda _node: link)
    registry: Any = SimpleNamespace(standing=lambda _node, _now: SimpleNamespace(view=view))
    (found,) = replace(scene.leads, links=links, registry=registry).candidates(MODEL)
    return found


def test_what_a_lead_took_by_plain_code_counts_no_more_once_jitted_code_took_over() -> None:
    """From the first such answer on, of its prompt and of its tokens, and in which order leads are asked."""
    scene = Scene()
    for _ in range(20):
        scene.answer(0.4, 0.05, 24)
    scene.answer(0.1, 0.01, 8, jitted=True)
    assert (scene.reading(100), scene.reading(1)) == (pytest.approx(0.1), pytest.approx(0.01))
    assert candidate(scene).step_s == pytest.approx(0.01)
    assert scene.steps.curve(MODEL, "static_delegate", NODE).jitted


def test_no_mean_is_of_steps_by_two_codes() -> None:
    """Where jitted code takes over in the middle of an answer, and less than a measurement came of plain code."""
    scene = Scene()
    pace = scene.leads.follow(NODE, MODEL, 100)
    for steps, step_s, jitted in ((1, 0.4, False), (4, 0.05, False), (8, 0.01, True)):
        scene.now += steps * step_s
        pace.came(steps, jitted=jitted)
    pace.over()
    assert (scene.reading(100), scene.reading(1)) == (pytest.approx(0.4), pytest.approx(0.01))


def test_times_of_a_lead_are_in_doubt_by_plain_code_at_once_and_else_when_they_are_old() -> None:
    scene = Scene()
    assert candidate(scene).doubt == "cold", "it was never asked"
    for jitted, expected in ((False, (None, "cold", "cold")), (True, (None, None, "stale"))):
        scene.answer(0.1, 0.01, 8, jitted=jitted)
        for seconds, doubt in zip((1, 20, 50), expected, strict=True):
            scene.now += seconds
            assert candidate(scene).doubt == doubt, (jitted, seconds)


def test_what_a_lead_waits_for_experts_elsewhere_is_told_apart_from_its_own_steps() -> None:
    """By its word, and no more than nearly all that it took; how much longer than expected goes with its calls."""
    scene = Scene()
    scene.answer(0.1, 0.03, 16, waited_s=0.02, called_s=0.01)
    found = scene.steps.curve(MODEL, "static_delegate", NODE)
    assert [found.step(1, tokens, 100) for tokens in (1, 100)] == [
        pytest.approx((0.03, 0.02, False)),
        pytest.approx((0.1, 0.02, False)),
    ]
    assert (candidate(scene).step_s, candidate(scene).stretch) == (pytest.approx(0.01), pytest.approx(2.0))
    scene = Scene()
    scene.answer(0.1, 0.03, 16, waited_s=600.0, called_s=0.03)
    reading = scene.steps.curve(MODEL, "static_delegate", NODE).step(1, 1, 100)
    assert reading is not None and reading.own_s == pytest.approx(0.0006)
    assert candidate(scene).step_s == pytest.approx(0.0006)


@pytest.mark.parametrize(("called_s", "own_s", "stretch"), [(0.0, 0.03, 1.0), (0.0001, 0.0284, 16.0)])
def test_a_lead_waits_no_longer_than_calls_ever_take_and_not_at_all_if_it_lacks_nothing(
    called_s: float, own_s: float, stretch: float
) -> None:
    """A slow one that says that it only waits would be taken for the quickest."""
    scene = Scene()
    scene.answer(0.1, 0.03, 16, waited_s=600.0, called_s=called_s)
    assert (candidate(scene).step_s, candidate(scene).stretch) == (pytest.approx(own_s), stretch)


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
