"""When all keys and values are lost, what runs is computed again from its tokens, in its place, to the same answer."""

from __future__ import annotations

import random
import time
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from batches import CONFIG, MANIFEST, answer, bench, expected, model_of
from blyan.inference.pipeline_session import Led
from blyan.inference.pipeline_step import Lead, PipelineStepper
from blyan.inference.session import Failed, Finished
from blyan.inference.stage_session import Session, StageLost
from blyan.model.sampling import Sampling
from blyan.model.stepping import PagesLost
from blyan.primitives.errors import StageUnavailable
from blyan.primitives.ids import PublicKey
from blyan.wire.stage_shapes import Hop
from fakes import TokenPages
from random_models import RandomWeights


def losing(*at: int):
    """A stepper that forgets everything before these of its steps, and says so."""

    def prepare(made: TokenPages) -> None:
        step, count = made.step, 0

        def stepped(*arguments):
            nonlocal count
            count += 1
            if count in at:
                made._tokens[:] = -1
                raise PagesLost("lost")
            return step(*arguments)

        made.step = stepped  # type: ignore[method-assign]

    return prepare


@pytest.mark.parametrize("drafts", [0, 4])
@pytest.mark.parametrize("pages", [200, 14])
def test_answers_are_those_of_a_model_that_lost_nothing(pages: int, drafts: int) -> None:
    """Also where prompts begin alike, memory is short, guesses are under way, and it happens twice in a row."""
    chance = random.Random(1)
    alike = [chance.randrange(61) for _ in range(70)]
    prompts = [alike[: 35 * (each % 3)] + [chance.randrange(61) for _ in range(40)] for each in range(9)]
    with bench(pages=pages, drafts_max=drafts, prepare=losing(2, 9, 10, 31)) as made:
        ways = [Sampling(seed=number) if number % 2 else Sampling(temperature=0.0) for number in range(9)]
        received = [made.submit(answer(prompt, 24, how, drafts)) for prompt, how in zip(prompts, ways, strict=True)]
        for one, prompt, how in zip(received, prompts, ways, strict=True):
            assert isinstance(one.end(), Finished)
            steps = expected(prompt, 24, how)
            assert [step.token for step in steps] == one.tokens
            assert [step.logprob for step in steps] == one.logprobs
            positions = len(prompt) + 23
            used = sum(count for delta in one.deltas for _, _, count in delta.experts)
            assert positions * len(CONFIG.moe_layers) * CONFIG.experts_per_token == used
        assert made.scheduler.counters.recomputed >= 8
        made.settle(lambda: made.pool.free == made.pool.pages)


@pytest.mark.parametrize("good", [0, 1])
def test_who_was_to_be_computed_alone_is_not_once_the_pages_are_lost(good: int) -> None:
    """A step fails as a whole, and of its runs by themselves the first or the second finds the pages gone."""
    prompts = list(range(1, 40)), list(range(5, 50))
    starts: list[list[int]] = []

    def prepare(made: TokenPages) -> None:
        step, bad = made.step, -1

        def stepped(runs: Any, *arguments: Any) -> Any:
            nonlocal bad
            starts.append([run.start for run in runs])
            if bad < 0 and len(runs) > 1 and len(starts) > 6:
                bad = 0
                raise StageUnavailable("none")
            if 0 <= bad <= good:
                bad += 1
                if bad > good:
                    made._tokens[:] = -1
                    raise PagesLost("found again")
            return step(runs, *arguments)

        made.step = stepped  # type: ignore[method-assign]

    with bench(prepare=prepare) as made:
        greedy = Sampling(temperature=0.0)
        received = [made.submit(answer(prompt, 20, greedy)) for prompt in prompts]
        for one, prompt in zip(received, prompts, strict=True):
            assert isinstance(one.end(), Finished)
            assert [step.token for step in expected(prompt, 20, greedy)] == one.tokens
    alone = next(at for at, each in enumerate(starts) if at > 6 and len(each) == 1)
    assert 0 in starts[alone + good + 1], "they begin anew"


class Falling:
    """A lead whose stages are found each time, and are lost in each step."""

    def __init__(self) -> None:
        self.opened = 0

    def open(self, *_: object) -> Future[Session]:
        self.opened += 1
        found: Future[Session] = Future()
        hops = (Hop(PublicKey("a" * 64), 0, CONFIG.layers),)
        found.set_result(Session("5" * 32, MANIFEST, CONFIG, torch.float32, range(0), hops, 64, 64))
        return found

    def begin(self, *_: object) -> None:
        """Nothing."""

    close = begin

    def finish(self, *_: object) -> None:
        raise StageLost("as ever")


def led_by(lead: object, seconds: float = 1.0) -> PipelineStepper:
    led = Led(MANIFEST, CONFIG, RandomWeights(CONFIG), 64, seconds, cast(Any, None))
    head = SimpleNamespace(close=lambda: None)
    return PipelineStepper(led, cast(Lead, lead), lambda: cast(Any, head), time.monotonic)


def through(stepper: PipelineStepper):
    """Steps of the first model go through stages."""
    made: list[TokenPages] = []

    def prepare(found: TokenPages) -> None:
        made.append(found)
        if len(made) == 1:
            found.step = stepper.step  # type: ignore[method-assign]
            found.prepare, found.nodes = stepper.prepare, ()  # type: ignore[attr-defined]

    return prepare


@pytest.mark.parametrize("generations", [1, 3])
def test_generations_end_with_the_fault_where_no_stages_last_for_a_step(generations: int) -> None:
    lead = Falling()
    stepper = led_by(lead)

    with bench(prepare=through(stepper)) as made:
        received = [made.submit(answer(list(range(1, 20)), 4)) for _ in range(generations)]
        try:
            ends = [one.end(5) for one in received]
        finally:
            for one in received:
                one.ticket.cancel()
    assert all(isinstance(end, Failed) and isinstance(end.fault, StageUnavailable) for end in ends)
    assert lead.opened < 40


class Unanswered(Falling):
    """A lead that opens a pipeline to stages that say nothing."""

    def open(self, *_: object) -> Future[Session]:
        self.opened += 1
        return Future()


def test_while_a_pipeline_opens_other_answers_go_on_and_its_own_end_in_time() -> None:
    """The compute thread waits for no stage: who asked for the pipeline waits, as a request."""
    stepper, greedy = led_by(Unanswered(), seconds=2.0), Sampling(temperature=0.0)
    prompt, other = list(range(1, 20)), model_of()
    with bench(pages=128, models=lambda: 2, prepare=through(stepper)) as made:
        began = time.monotonic()
        waits = made.submit(answer(prompt, 4))
        made.settle(lambda: stepper._stages._opening is not None)
        goes_on = made.submit(answer(prompt, 40, greedy), model=other)
        assert isinstance(goes_on.end(), Finished)
        assert time.monotonic() - began < 2, "before anybody was waited for long enough"
        assert [step.token for step in expected(prompt, 40, greedy)] == goes_on.tokens
        assert waits.events.empty()
        end = waits.end(5)
    assert isinstance(end, Failed)
    assert isinstance(end.fault, StageUnavailable)
