"""An answer goes by the first plan that can give it, and its receipt names the plan and the nodes."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import Context
from dataclasses import dataclass, field

import pytest

from blyan.api.metering import computed
from blyan.inference.delivery import Emit
from blyan.inference.session import Delta, Event, Failed, Finished
from blyan.model.stepping import PlanName
from blyan.node.charges import Delivered, worked
from blyan.node.course import Begun, Course
from blyan.node.tracing import begin_trace
from blyan.primitives.errors import BlockCorrupt, Fault, QueueFull, StageUnavailable
from blyan.primitives.ids import PayloadId, PublicKey

OWN, A, B = (PublicKey(letter * 64) for letter in "0ab")
GIVEN: list[Event] = [Delta("x", (), ()), Finished("stop", 3, 1)]


@dataclass
class Way:
    """Gives events, or refuses at once."""

    events: list[Event] = field(default_factory=lambda: list(GIVEN))
    refusal: Fault | None = None
    others: Mapping[PublicKey, int | None] = field(default_factory=dict["PublicKey", "int | None"])
    cancelled: bool = False

    def begin(self, emit: Emit) -> Begun:
        if self.refusal is not None:
            raise self.refusal
        for event in self.events:
            emit(event)
        return self

    def cancel(self) -> None:
        self.cancelled = True

    def worked(self) -> Mapping[PublicKey, int | None]:
        return self.others


def heard(**ways: Way) -> tuple[Course, list[Event]]:
    events: list[Event] = []
    plans: list[PlanName] = list(ways)  # type: ignore[arg-type]
    course = Course(ways.__getitem__, plans, events.append)
    course.begin()
    return course, events


def test_the_first_plan_answers() -> None:
    course, events = heard(pipeline=Way(), dynamic=Way())
    assert (course.plan, course.turned, events) == ("pipeline", 0, GIVEN)


def test_what_is_refused_at_once_goes_by_the_next_plan() -> None:
    course, events = heard(static_delegate=Way(refusal=QueueFull("full")), pipeline=Way())
    assert (course.plan, course.turned, events) == ("pipeline", 1, GIVEN)
    with pytest.raises(QueueFull):
        heard(static_delegate=Way(refusal=StageUnavailable("none")), local=Way(refusal=QueueFull("full")))


def test_what_fails_before_its_first_token_goes_by_the_next_plan_and_later_not() -> None:
    lost = Failed(StageUnavailable("gone"))
    course, events = heard(pipeline=Way([lost]), dynamic=Way())
    assert (course.plan, events) == ("dynamic", GIVEN)
    course, events = heard(pipeline=Way([GIVEN[0], lost]), dynamic=Way())
    assert (course.plan, events) == ("pipeline", [GIVEN[0], lost])
    course, events = heard(pipeline=Way([lost]))
    assert (course.plan, events) == ("pipeline", [lost])


def test_what_is_wrong_whoever_computes_it_is_no_reason_to_try_again() -> None:
    broken = Failed(BlockCorrupt("layer 0"))
    assert heard(local=Way([broken]), static_delegate=Way())[1] == [broken]


def test_who_leaves_ends_what_is_under_way() -> None:
    ways = {"pipeline": Way([Failed(StageUnavailable("gone"))]), "dynamic": Way([])}
    course, _ = heard(**ways)
    course.cancel()
    assert (ways["pipeline"].cancelled, ways["dynamic"].cancelled) == (False, True)


def test_a_receipt_names_the_plan_and_who_computed_what() -> None:
    """Two answers of one request: their nodes together; `mixed` if they went different ways."""
    Context().run(_the_receipt_names_them)


def _the_receipt_names_them() -> None:
    trace = begin_trace(None, b"abcd")
    assert computed() == ("local", {})
    trace.courses += [heard(static_delegate=Way(others={A: 3}))[0], heard(static_delegate=Way(others={A: 4, B: 2}))[0]]
    assert computed() == ("static_delegate", {A: 7, B: 2})
    trace.courses.append(heard(pipeline=Way(others={B: None}))[0])
    assert computed() == ("mixed", {A: 7, B: None})


def test_what_nobody_else_computed_is_the_gateways() -> None:
    def by(plan: str, others: Mapping[PublicKey, int | None]) -> list[tuple[PublicKey, int]]:
        made = worked(OWN, Delivered("m", PayloadId("c" * 64), 5, 9, "", "", plan, others))
        assert {each.prompt_tokens for each in made} == {5}
        return [(each.key, each.completion_tokens) for each in made]

    assert by("local", {}) == by("dynamic", {}) == [(OWN, 9)]
    assert by("static_delegate", {A: 9}) == [(A, 9)]
    assert by("static_delegate", {A: 4, B: 3}) == [(OWN, 2), (A, 4), (B, 3)]
    assert by("pipeline", {A: None, B: None}) == [(OWN, 9), (A, 9), (B, 9)]
