"""For how long a plan that turned out impossible is not chosen."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from batches import CONFIG, MANIFEST, RULES
from blyan.inference.planner_error import Came
from blyan.inference.prediction import Correction, Prediction, plans
from blyan.inference.step_times import StepSeen
from blyan.model.stepping import PlanName
from blyan.node.planning import Planned, Planning, _share


class Clock:
    """Goes by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def planning(clock: Clock) -> Planning:
    """That of a node without peers."""
    return Planning(None, RULES, clock, lambda: 0.5)


def planned(plan: PlanName) -> Planned:
    """A decision for that plan."""
    return Planned(MANIFEST, cast(Any, None), cast(Any, None), (), cast(Any, SimpleNamespace(plan=plan)))


def left_alone(planning: Planning, clock: Clock, plan: PlanName) -> float:
    """Seconds until it may be chosen again; that time has come then."""
    began = clock.now
    while clock.now - began < 1000:
        situation = asyncio.run(planning.situation(MANIFEST, CONFIG, planning.shape(1, 1, 0)))
        if plan not in dict(situation.why_not):
            break
        clock.now += 1
    return clock.now - began


def test_a_pipeline_that_stays_impossible_is_tried_ever_less_often(planning: Planning, clock: Clock) -> None:
    """Each try may hold up everybody whom this node computes for; one that goes well makes it as at first."""
    found: list[float] = []
    for _ in range(9):
        planning.turned(planned("pipeline"), "dynamic")
        planning.turned(planned("pipeline"), "dynamic")  # another that was under way: one try is one
        found.append(left_alone(planning, clock, "pipeline"))
    assert found == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    planning.ended(planned("pipeline"), 1, 1.0, 0.0)
    planning.turned(planned("pipeline"), "dynamic")
    assert left_alone(planning, clock, "pipeline") == 5


def test_another_plan_that_is_impossible_holds_nobody_up(planning: Planning, clock: Clock) -> None:
    for _ in range(3):
        planning.turned(planned("static_delegate"), "dynamic")
        assert left_alone(planning, clock, "static_delegate") == 5
    planning.turned(planned("dynamic"), "dynamic")
    assert left_alone(planning, clock, "dynamic") == 0


def test_plans_are_in_doubt_that_were_not_used_lately_or_by_plain_code_alone(planning: Planning, clock: Clock) -> None:
    """After a few seconds where jitted code may have become ready, after a minute otherwise, and until an answer."""

    def doubts() -> dict[PlanName, str]:
        planning._seen.clear()
        shape = planning.shape(1, 1, 0)
        return dict(asyncio.run(planning.situation(MANIFEST, CONFIG, shape)).doubts)

    planning.steps.add(MANIFEST, StepSeen("local", 0.1, 0.0, 1, 1, 0))
    for answers in range(4):
        assert set(doubts()) == set(plans), f"{answers} answers tell little"
        for plan in plans:
            planning.errors.note(MANIFEST, Prediction(plan, True, "", 10.0, 0.1), Correction(), Came(10.0, 0.1))
    assert doubts() == {}
    clock.now += 6
    assert doubts() == {"local": "cold", "dynamic": "cold", "static_delegate": "cold"}, "the others: not at all"
    planning.ended(planned("local"), 1, 1.0, 0.0)
    assert "local" not in doubts()
    planning.steps.add(MANIFEST, StepSeen("local", 0.1, 0.0, 1, 1, 0), jitted=True)
    clock.now += 6
    assert "local" not in doubts()
    clock.now += 60
    assert (doubts()["local"], doubts()["pipeline"]) == ("stale", "stale")


def test_what_is_missing_counts_in_bytes_and_what_is_here_by_its_use(planning: Planning) -> None:
    """Of four experts of 10 to 40 bytes the second and fourth are here, of which the fourth is never used."""
    here = np.array([False, True, False, True])
    sizes = [SimpleNamespace(length=10 * (number + 1)) for number in range(4)]
    hosted: Any = SimpleNamespace(manifest_id=MANIFEST, grid=SimpleNamespace(count=4), block=sizes.__getitem__)
    assert [planning._missing(hosted, each) for each in (here, ~here, here | ~here)] == [40, 60, 0]
    assert _share(here, np.array([3.0, 1.0, 0.0, 0.0])) == pytest.approx(0.25)
    assert _share(here, np.zeros(4)) == pytest.approx(0.5)
