"""Pages at stages: a share of what a stage has, more where a generation needs it, and back when nobody uses them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, cast

import pytest
import torch

from batches import answer, bench, expected
from blyan.inference.pipeline_session import PipelineSession
from blyan.inference.session import Failed, Finished
from blyan.inference.stage_session import StageLost
from blyan.model.sampling import Sampling
from blyan.model.stepping import KVPages, PagesLost, Run
from blyan.network.questions import Refused
from blyan.primitives.errors import StageUnavailable
from blyan.primitives.ids import PublicKey
from blyan.wire.stage_lease import StageOpen, bytes_left, given_pages, open_kind
from fakes import TokenPages
from random_models import RandomWeights, small_config
from stage_links import MODEL, House, compared, right_of, stepper_of, steps_of

CONFIG = small_config()
WEIGHTS = RandomWeights(CONFIG)
PAGE = KVPages.page_bytes(CONFIG, torch.float32, 3)  # over all layers
GREEDY = Sampling(temperature=0.0)


def house_of(pages: int, stages: int = 1) -> House:
    """Stages with memory for so many pages each."""
    return House(CONFIG, WEIGHTS, *(range(3),) * stages, kv_bytes=pages * PAGE)


def asked(house: House, sender: int, pages: int, least: int = 1, session: str = "a") -> int:
    """Pages that the first stage gives another member."""
    terms = StageOpen(MODEL, str(sender) * 16 + session * 16, 0, 3, pages, least, house.keys[sender])
    link = house.links[house.keys[sender], house.keys[0]]
    return given_pages(terms, house.run(link.request(open_kind, terms.fields(), seconds=1)).fields)


def until(holds: Callable[[], bool]) -> None:
    limit = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < limit, "it does not come to hold"
        time.sleep(0.002)


def test_a_stage_with_little_memory_serves_a_lead_with_much() -> None:
    """It gives half of what it has, and the lead computes with that."""
    steps = steps_of()
    with house_of(12) as house:
        stepper = stepper_of(house, pages=4_096)
        for runs, right in zip(steps, right_of(house, steps), strict=True):
            compared(stepper.step(runs), right)
        host = house.hosts[house.keys[0]]
        assert (stepper.prepare(1, 1), host.leases.pages) == (6, 6)
        assert host.leases.bytes == 6 * PAGE


def test_leads_share_a_stage_and_grow_into_what_others_leave() -> None:
    with house_of(64, 4) as house:
        host = house.hosts[house.keys[0]]
        assert [asked(house, sender, 1_000) for sender in (1, 2, 3)] == [32, 16, 8]
        assert asked(house, 2, 1_000) == 16, "again: as much as is left to others"
        first = next(iter(host.leases))
        house.run(ended(host, first))
        assert asked(house, 2, 1_000) == 28
        assert asked(house, 1, 5, session="b") == 5, "no more than it asks for"
        assert asked(house, 1, 1_000, least=20, session="c") == 20, "what it needs"
        with pytest.raises(Refused, match="at most 11 pages"):
            asked(house, 3, 1_000, least=12, session="a")
        assert host.leases.bytes <= 64 * PAGE


async def ended(host: Any, lease: Any) -> None:
    host.leases.end(lease)


def prepared(stepper: Any, least: int, wanted: int) -> int:
    """What there is once nobody is asked any more."""
    found = 0
    while not found:
        found = stepper.prepare(least, wanted)
        time.sleep(0.001)
    return found


def test_a_lease_grows_in_place_as_far_as_there_is_room() -> None:
    """What was computed in it stays; what does not fit leaves it as it was."""
    steps = steps_of()
    with house_of(14) as house:
        right = right_of(house, steps)
        stepper = stepper_of(house, pages=64)
        compared(stepper.step(steps[0]), right[0])
        assert prepared(stepper, 1, 9) == 9
        assert prepared(stepper, 1, 15) == 9
        compared(stepper.step(steps[1]), right[1])
        assert prepared(stepper, 1, 12) == 12


def test_who_needs_less_than_another_who_left_is_asked_for_it() -> None:
    with house_of(14) as house:
        stepper = stepper_of(house, pages=64)
        assert prepared(stepper, 1, 1) == 7
        answers = threading.Event()
        house.thread.loop.call_soon_threadsafe(answers.wait, 5)
        assert stepper.prepare(1, 15) == 0, "asked for"
        answers.set()
        growing = stepper._stages._growing
        assert growing is not None
        growing[0].result(5)
        assert prepared(stepper, 1, 9) == 9


def test_a_stage_that_is_silent_when_a_lease_grows_is_replaced() -> None:
    """Nobody's answer ends for it."""
    with house_of(64, 2) as house:
        stepper = stepper_of(house, pages=128, seconds=5.0)
        had = prepared(stepper, 1, 1)
        first = stepper.nodes[0]
        house.silent.add(first)
        with pytest.raises(PagesLost):
            prepared(stepper, 1, had + 1)
        assert prepared(stepper, 1, 1) > 0
        assert first not in stepper.nodes


class Nobody:
    """A lead that finds no stages."""

    def open(self, *_: object) -> Future[Any]:
        found: Future[Any] = Future()
        found.set_exception(StageLost("busy"))
        return found


def test_who_comes_long_after_others_found_no_stages_has_as_much_patience_as_they_had() -> None:
    clock = iter(at for came in (0.0, 3600.0) for at in (came, came + 0.9, came + 1.1))
    now = 0.0
    with house_of(8) as house:
        led = stepper_of(house, seconds=1.0)._stages.led
    session = PipelineSession(led, cast(Any, Nobody()), lambda: now)

    def prepare_later() -> int:
        nonlocal now
        now = next(clock)
        return session.prepare(1, 1)

    for _ in range(2):
        assert [prepare_later(), prepare_later()] == [0, 0]
        with pytest.raises(StageUnavailable):
            prepare_later()


def test_leases_that_nobody_uses_are_given_back_and_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blyan.inference.stage_lead._renew_seconds", 0.02)
    monkeypatch.setattr("blyan.primitives.limits.stage_idle_seconds", 0.1)
    steps = steps_of()
    with house_of(64) as house:
        right = right_of(house, steps)
        stepper, host = stepper_of(house), house.hosts[house.keys[0]]
        compared(stepper.step(steps[0]), right[0])
        until(lambda: not len(host.leases))
        with pytest.raises(PagesLost):
            stepper.step(steps[1])
        monkeypatch.setattr("blyan.primitives.limits.stage_idle_seconds", 60.0)
        compared(stepper.step(steps[0]), right[0])
        compared(stepper.step(steps[1]), right[1])
        assert (house.lead.counters.lost, house.lead.counters.of(house.keys[0]).lost) == (0, 0), "nobody is to blame"


def test_who_has_no_room_for_what_is_needed_says_how_much_there_is() -> None:
    with house_of(5) as house:
        stepper = stepper_of(house, pages=64, seconds=0.1)
        with pytest.raises(StageUnavailable):
            prepared(stepper, 6, 6)
        assert house.room == {house.keys[0]: 5 * PAGE}
        assert prepared(stepper, 5, 5) == 5


def test_a_lead_is_told_with_its_lease_how_much_it_can_have_there() -> None:
    """Less what other leads have; what it has itself is its own."""
    with house_of(8, 3) as house:
        assert asked(house, 1, 3, least=3) == 3
        assert prepared(stepper_of(house, pages=64), 2, 2)
        assert house.room == {house.keys[0]: 5 * PAGE, house.keys[1]: 8 * PAGE}


@pytest.mark.parametrize("said", [{}, {"room": -1}, {"room": "5"}, {"room": True}, {"room": 1 << 64}])
def test_who_says_nothing_of_its_room_may_have_any(said: dict[str, object]) -> None:
    """As stages of before did."""
    assert bytes_left(said) is None


class Room:
    """Pages that stages give: some at first, as many more as are needed up to a bound."""

    def __init__(self, pages: int, most: int) -> None:
        self.pages, self.most = pages, most
        self.nodes = ()
        self.steps: list[list[Run]] = []

    def prepare(self, _least: int, wanted: int) -> int:
        if self.pages < wanted <= self.most:
            self.pages = wanted
        return self.pages

    def install(self, made: TokenPages) -> None:
        made.prepare, made.nodes = self.prepare, self.nodes  # type: ignore[attr-defined]
        self.steps = made.steps


@pytest.mark.parametrize(("pages", "most"), [(7, 7), (3, 9)])
def test_answers_are_right_in_however_few_pages_and_what_is_too_long_alone_ends(pages: int, most: int) -> None:
    """Of 200 pages that the lead could count there are few; longer ones make them grow, or go another way."""
    room = Room(pages, most)
    with bench(pages=200, prepare=room.install) as made:
        prompts = [[(7 * at + number) % 61 for at in range(40 * (number + 1))] for number in range(4)]
        received = [made.submit(answer(prompt, 24, GREEDY)) for prompt in prompts]
        long = made.submit(answer([3] * 400, 4, GREEDY))
        for one, prompt in zip(received, prompts, strict=True):
            assert isinstance(one.end(), Finished)
            assert [step.token for step in expected(prompt, 24, GREEDY)] == one.tokens
        end = long.end()
        assert isinstance(end, Failed)
        assert isinstance(end.fault, StageUnavailable)
        assert all(page < most for step in room.steps for run in step for page in run.pages)
        assert made.pool.pages == room.pages
        made.settle(lambda: made.pool.free == made.pool.pages)


def test_an_answer_that_outgrows_what_stages_have_ends_where_they_end() -> None:
    room = Room(2, 3)
    with bench(pages=200, prepare=room.install) as made:
        one = made.submit(answer(list(range(50)), 200, GREEDY))
        end = one.end()
        assert isinstance(end, Failed)
        assert isinstance(end.fault, StageUnavailable)
        right = [step.token for step in expected(list(range(50)), 60, GREEDY)]
        assert len(one.tokens) >= 3 * 32 - 50
        assert right[: len(one.tokens)] == one.tokens


class Changing(TokenPages):
    """Pages at one node, and after some steps at another, for what was in them is lost."""

    nodes = (PublicKey("a" * 64), PublicKey("b" * 64))

    def prepare(self, _least: int, _wanted: int) -> int:
        if len(self.steps) == 5 and len(self.nodes) == 2:
            self.nodes = (PublicKey("c" * 64),)
            self._tokens[:] = -1
            raise PagesLost("lost")
        return self._tokens.shape[0]


def test_an_answer_names_all_who_computed_a_part_of_it_and_no_others() -> None:
    """Who was lost midway too; one that began later has nothing of them."""

    def change(made: TokenPages) -> None:
        made.__class__ = Changing

    with bench(prepare=change) as made:
        first = made.submit(answer(list(range(40)), 24, GREEDY))
        assert isinstance(first.end(), Finished)
        later = made.submit(answer(list(range(9)), 4, GREEDY))
        assert isinstance(later.end(), Finished)
        assert [step.token for step in expected(list(range(40)), 24, GREEDY)] == first.tokens
        assert [node[0] for node in first.ticket.job.worked] == ["a", "b", "c"]
        assert [node[0] for node in later.ticket.job.worked] == ["c"]
