"""A lead that computes its own first layers, and calls that get stuck on their way from stage to stage."""

from __future__ import annotations

import time
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from blyan.inference.pipeline_step import PipelineStepper
from blyan.inference.stage_session import Passage, Session, StageNodes, Way, leases, look, stuck
from blyan.model.stepping import PagesLost, Run
from blyan.network.questions import NoAnswer, Refused
from blyan.primitives import limits
from blyan.primitives.errors import BlockCorrupt, InvalidInput, MalformedMessage
from blyan.primitives.ids import PublicKey
from blyan.wire.framing import Message
from blyan.wire.stage_call import Passed
from blyan.wire.stage_lease import Progress, open_kind, parse_progress
from blyan.wire.stage_shapes import Hop
from random_models import RandomWeights, small_config
from stage_links import MODEL, FakeLink, House, compared, right_of, stepper_of, steps_of

CONFIG = small_config()
WEIGHTS = RandomWeights(CONFIG)
A, B = (PublicKey(letter * 64) for letter in "ab")
HOPS = (Hop(A, 0, 2), Hop(B, 2, 3))


def stage_calls(house: House) -> list[tuple[int, int]]:
    """The layers of the calls that were sent."""
    return [tuple(message.fields["layers"]) for _, _, what, message in house.sent if what == "stage"]


@pytest.mark.parametrize(
    ("lead", "spans", "asked"),
    [
        (range(3), (range(3),), [(2, 3)]),
        (range(1), (range(1, 3),), [(1, 3)]),
        (range(2), (range(2), range(2, 3)), [(2, 3)]),
        (range(3), (), []),
    ],
)
def test_the_lead_computes_its_own_layers_and_no_bit_changes(
    lead: range, spans: tuple[range, ...], asked: list[tuple[int, int]]
) -> None:
    """Without a hop for them; what it holds alone needs no stage at all."""
    steps = steps_of()
    with House(CONFIG, WEIGHTS, *spans, lead=lead) as house:
        stepper = stepper_of(house)
        for runs, right in zip(steps, right_of(house, steps), strict=True):
            compared(stepper.step(runs), right)
        stepper.close()
        assert stage_calls(house) == asked * len(steps)


def test_a_lead_that_loses_its_stage_takes_more_layers_itself() -> None:
    """The stage held the last layer alone with it; the pages of before are of no use."""
    steps = steps_of()
    with House(CONFIG, WEIGHTS, range(3), lead=range(3)) as house:
        right = right_of(house, steps)
        stepper = stepper_of(house)
        compared(stepper.step(steps[0]), right[0])
        house.lose(house.keys[0])
        with pytest.raises(PagesLost):
            stepper.step(steps[1])
        compared(stepper.step(steps[0]), right[0])
        compared(stepper.step(steps[1]), right[1])
        assert len(stage_calls(house)) == 1


def seen(taken: tuple[int, int], passed: tuple[int, int], milliseconds: int) -> dict[PublicKey, Progress]:
    return {node: Progress(*each, milliseconds) for node, *each in zip((A, B), taken, passed, strict=True)}


def stuck_at(seen: dict[PublicKey, Progress], moving_s: float = 0.0) -> tuple[set[PublicKey], Way | None] | None:
    found = stuck(HOPS, seen, 5, moving_s)
    return None if found is None else (set(found.nodes), found.way)


def test_where_a_call_is_stuck() -> None:
    """At who does not take or give what this node itself sent or waits for; else on the way between two stages, for
    neither's word is worth more. Never at who may be computing it."""
    assert ({A}, None) == stuck_at(seen((4, 4), (4, 4), 900))
    assert stuck_at(seen((5, 4), (4, 4), 900)) is None
    assert stuck_at(seen((5, 4), (5, 4), 10)) is None
    assert (set(), Way(A, B)) == stuck_at(seen((5, 4), (5, 4), 900))
    assert stuck_at(seen((5, 5), (5, 4), 900)) is None
    assert stuck_at(seen((5, 5), (5, 5), 10)) is None
    assert ({B}, None) == stuck_at(seen((5, 5), (5, 5), 900))
    assert stuck_at(seen((5, 4), (5, 4), 900), moving_s=1.0) is None
    assert (set(), Way(A, B)) == stuck_at(seen((5, 4), (5, 4), 1300), moving_s=1.0)


SENT = [Run((1, 2), 0, (0,), 1)]


def lost_until_it_goes_well(stepper: PipelineStepper) -> int:
    """How often the step loses its stages before it is computed."""
    for lost in range(8):
        with suppress(PagesLost):
            compared(stepper.step(SENT), stepper.step(SENT))
            return lost
    raise AssertionError("it never goes well")


@pytest.mark.parametrize("spans", [(range(3),) * 3, (range(1), range(1, 3), range(1, 3))])
def test_a_stage_that_answers_with_a_fault_is_left_for_another(spans: tuple[range, ...]) -> None:
    """It names nobody: its own answer names it."""
    with House(CONFIG, WEIGHTS, *spans) as house:
        bad = house.keys[1]

        def broken(*_: object) -> Passed:
            raise BlockCorrupt("a block")

        house.hosts[bad]._compute = broken
        assert lost_until_it_goes_well(stepper_of(house)) == 1
        assert house.lead.counters.of(bad).lost == 1
        assert [house.hosts[key].counters.calls for key in (bad, house.keys[2])] == [0, 2]


def not_finite(house: House, key: PublicKey) -> None:
    """That stage gives numbers that are none."""
    host = house.hosts[key]
    compute = host._compute

    def computed(*arguments: Any) -> Passed:
        given = compute(*arguments)
        hidden = np.frombuffer(given.hidden, "<f4").copy()
        hidden[1] = np.nan
        return Passed(hidden.tobytes(), given.chosen)

    host._compute = computed


@pytest.mark.parametrize("place", [0, 1])
def test_a_stage_that_gives_what_is_no_number_is_named_and_left(place: int) -> None:
    """It gives none for ordinary rows either, as the lead finds that asks it: nobody else's word counts."""
    with House(CONFIG, WEIGHTS, range(1), range(1, 3), range(1), range(1, 3)) as house:
        right = right_of(house, [SENT])[0]
        not_finite(house, house.keys[place])
        stepper = stepper_of(house)
        assert lost_until_it_goes_well(stepper) == 1
        compared(stepper.step(SENT), right)
        assert [int(at == place) for at in range(4)] == [house.lead.counters.of(key).lost for key in house.keys]


def leased(house: House, how: str, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The second stage answers no renewal of a lease any more, or with a fault, once something is in the list."""
    request, begun = FakeLink.request, list[bool]()

    async def answered(link: FakeLink, kind: str, *arguments: Any, seconds: float) -> Message:
        if kind == open_kind and link.peer.node == house.keys[1] and begun:
            house.sent.append((house.lead_key, house.keys[1], "renewal", Message({}, ())))
            if how != "now and then" or len(renewals(house)) % 2:
                raise Refused(house.keys[1], "busy", "none", {}) if how == "refused" else NoAnswer("late")
        return await request(link, kind, *arguments, seconds=seconds)

    monkeypatch.setattr(FakeLink, "request", answered)
    monkeypatch.setattr("blyan.inference.stage_lead._renew_seconds", 0.05)
    return begun


def renewals(house: House) -> list[str]:
    return [what for _, _, what, _ in house.sent if what == "renewal"]


@pytest.mark.parametrize(("how", "needed"), [("refused", 1), ("silent", 2)])
def test_a_stage_whose_lease_does_not_go_on_is_named(how: str, needed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that says nothing once may be late; a lease lasts for three renewals."""
    with House(CONFIG, WEIGHTS, *(range(3),) * 3) as house:
        begun = leased(house, how, monkeypatch)
        stepper_of(house).step(SENT)
        begun.append(True)
        session = house.lead.sessions[0]
        until = time.monotonic() + 5
        while session.lost is None and time.monotonic() < until:
            time.sleep(0.005)
        assert session.lost is not None
        assert frozenset(house.keys[1:2]) == session.lost.nodes
        assert needed == len(renewals(house))


def test_renewals_that_are_late_now_and_then_end_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    with House(CONFIG, WEIGHTS, *(range(3),) * 2) as house:
        begun = leased(house, "now and then", monkeypatch)
        stepper = stepper_of(house)
        stepper.step(SENT)
        begun.append(True)
        until = time.monotonic() + 5
        while len(renewals(house)) < 6 and time.monotonic() < until:
            time.sleep(0.005)
        stepper.step(SENT)
        assert (len(renewals(house)) >= 6, house.lead.counters.lost) == (True, 0)


@pytest.mark.parametrize(("rows", "seconds"), [(0, 0.6), (20_000, 0.6 + 20_000 * CONFIG.hidden * 4 / (128 << 10))])
async def test_a_lease_is_given_the_time_that_what_is_under_way_takes(rows: int, seconds: float) -> None:
    """Its renewal may lie behind a long prompt, as a look does."""
    link = BusyLink(False)
    nodes = SimpleNamespace(link=lambda _node: link, round_trip=lambda _node: 0.01)
    session = Session("5" * 32, MODEL, CONFIG, torch.float32, range(0), HOPS, asked=4)
    session.rows = rows
    for lease in leases(cast(StageNodes, nodes), A, session, 4):
        with pytest.raises(NoAnswer):
            await lease
        assert seconds == pytest.approx(link.granted)


class BusyLink:
    """A link on which much is on its way: what is asked is not answered in time."""

    def __init__(self, says: bool) -> None:
        self.heard, self._says = 0.0, says

    async def request(self, *_: object, seconds: float) -> Message:
        self.granted = seconds
        self.heard += self._says
        raise NoAnswer("late")


@pytest.mark.parametrize(("rows", "says", "there"), [(20_000, True, True), (20_000, False, False), (2, True, False)])
async def test_a_stage_whose_answer_lies_behind_a_long_prompt_is_there_if_it_says_anything(
    rows: int, says: bool, there: bool
) -> None:
    """Beside a token nothing lies before an answer."""
    link = BusyLink(says)
    nodes = SimpleNamespace(link=lambda _node: link, round_trip=lambda _node: 0.01)
    session = Session("5" * 32, MODEL, CONFIG, torch.float32, range(0), HOPS, fixed=0.005)
    session.rows = rows
    found = await look(cast(StageNodes, nodes), session, A)
    assert (found is not None) == there
    assert found is None or stuck(HOPS, {A: found, B: found}, 5) is None
    assert link.granted == pytest.approx(2.25 if rows > 2 else 0.25, abs=0.01)


async def test_a_stage_may_be_silent_for_longer_with_its_first_calls() -> None:
    """It loads jitted code then, and its loop stands still for as long as that takes."""
    link = BusyLink(False)
    nodes = SimpleNamespace(link=lambda _node: link, round_trip=lambda _node: 0.01)
    await look(cast(StageNodes, nodes), Session("5" * 32, MODEL, CONFIG, torch.float32, range(0), HOPS), A)
    assert link.granted == pytest.approx(0.5)


@pytest.mark.parametrize("place", [0, 1])
def test_a_stage_that_falls_silent_in_the_first_call_of_a_session_is_noticed_soon(place: int) -> None:
    """Nobody knows yet how long calls take: that is no reason to wait."""
    with House(CONFIG, WEIGHTS, range(1), range(1, 3)) as house:
        stepper = stepper_of(house)
        while not stepper.prepare(1, 1):
            time.sleep(0.001)
        house.silent.add(house.keys[place])
        began = time.monotonic()
        with pytest.raises(PagesLost):
            PipelineStepper.step(stepper, SENT)
        assert time.monotonic() - began < 2, "0.75 s, on a machine that does nothing else"
        assert house.lead.counters.of(house.keys[place]).lost == 1


def took(session: Session, number: int, rows: int, seconds: float) -> None:
    """A call of so many rows came after so long."""
    session.add(Passage(cast(Any, SimpleNamespace(number=number, count=rows)), 0.0))
    session.take(number, Message({}, ()), seconds)


def test_a_long_first_call_says_what_a_row_takes_and_nothing_of_calls_of_few_rows() -> None:
    session = Session("5" * 32, MODEL, CONFIG, torch.float32, range(0), HOPS)
    took(session, 1, 500, 5.0)
    session.rows = 1
    assert (session.fixed, session.expected()) == (None, pytest.approx(0.01))
    took(session, 2, 1, 0.02)
    session.rows = 1
    assert (session.fixed, session.expected()) == (0.02, pytest.approx(0.03))


def test_a_step_that_no_call_may_hold_leaves_its_session_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails alone: the stages are asked for the next one as if it had never been."""
    steps = steps_of()
    with House(CONFIG, WEIGHTS, range(3)) as house:
        right = right_of(house, steps)
        stepper = stepper_of(house)
        compared(stepper.step(steps[0]), right[0])
        with monkeypatch.context() as less:
            less.setattr(limits, "stage_call_pages_max", 1)
            with pytest.raises(InvalidInput):
                stepper.step(steps[1])
        compared(stepper.step(steps[1]), right[1])
        assert (house.lead.counters.sessions, house.lead.counters.lost) == (1, 0)


@pytest.mark.parametrize(
    "fields",
    [{}, {"taken": 1, "passed": 2, "ms": 0}, {"taken": 2, "passed": -1, "ms": 0}, {"taken": "1", "passed": 1, "ms": 0}],
)
def test_what_is_no_progress_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(MalformedMessage):
        parse_progress(fields)
    assert parse_progress(Progress(3, 2, 7).fields()) == Progress(3, 2, 7)


@pytest.mark.parametrize("which", ["stage", "stage_end"])
def test_a_call_that_gets_lost_between_two_stages_that_answer_is_noticed_soon(which: str) -> None:
    """Nobody says that he took a call: the lead sees where it is not."""
    steps = steps_of()
    with House(CONFIG, WEIGHTS, range(1), range(1, 3), range(1, 3)) as house:
        right = right_of(house, steps)
        stepper = stepper_of(house)
        compared(stepper.step(steps[0]), right[0])

        def swallowing(kind: str, message: Message) -> Message:
            if kind == which and (kind == "stage_end" or not message.fields["route"]):
                house.now += 1  # by the clock of the stages
                raise MalformedMessage("as if it had never come")
            return message

        house.tamper = swallowing
        began = time.monotonic()
        with pytest.raises(PagesLost):
            stepper.step(steps[1])
        assert time.monotonic() - began < 2
        house.tamper = lambda _kind, message: message
        compared(stepper.step(steps[0]), right[0])
        blamed = int(which == "stage_end")  # what the last one gave is between it and the lead
        assert [0, blamed, 0] == [house.lead.counters.of(key).lost for key in house.keys]
        assert sum(host.counters.calls for host in house.hosts.values()) >= 5


def test_a_lease_that_could_not_be_given_back_is_when_more_is_asked_of_the_stage() -> None:
    """Else it would take memory for as long as its lead lives, or half a minute."""
    with House(CONFIG, WEIGHTS, range(3), range(3)) as house:
        stepper = stepper_of(house)
        step = [Run((1, 2), 0, (0,), 1)]
        stepper.step(step)
        first, second = (house.hosts[key] for key in house.keys)
        house.silent.add(house.keys[0])
        with pytest.raises(PagesLost):
            stepper.step(step)
        stepper.step(step)
        assert (len(first.leases), len(second.leases)) == (1, 1)
        house.silent.clear()
        house.lose(house.keys[1])
        with pytest.raises(PagesLost):
            stepper.step(step)
        stepper.step(step)
        assert len(first.leases) == 1
