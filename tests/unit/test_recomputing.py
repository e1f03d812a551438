"""When all keys and values are lost, what runs is computed again from its tokens, in its place, to the same answer."""

from __future__ import annotations

import random
import time
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from batches import CONFIG, MANIFEST, answer, bench, expected
from blyan.inference.pipeline_step import Lead, Led, PipelineStepper
from blyan.inference.session import Failed, Finished
from blyan.inference.stage_session import Session, StageLost
from blyan.model.sampling import Sampling
from blyan.model.stepping import PagesLost
from blyan.primitives.errors import StageUnavailable
from blyan.primitives.ids import PublicKey
from blyan.wire.stage_call import Hop
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
        found.set_result(Session("5" * 32, MANIFEST, CONFIG, torch.float32, range(0), hops))
        return found

    def begin(self, *_: object) -> None:
        """Nothing."""

    close = begin

    def finish(self, *_: object) -> None:
        raise StageLost("as ever")


@pytest.mark.parametrize("generations", [1, 3])
def test_generations_end_with_the_fault_where_no_stages_last_for_a_step(generations: int) -> None:
    lead = Falling()
    led = Led(MANIFEST, CONFIG, RandomWeights(CONFIG), 64, 1.0, cast(Any, None))
    head = SimpleNamespace(close=lambda: None)
    stepper = PipelineStepper(led, cast(Lead, lead), lambda _: cast(Any, head), time.monotonic, time.sleep)

    def prepare(made: TokenPages) -> None:
        made.step = stepper.step  # type: ignore[method-assign]

    with bench(prepare=prepare) as made:
        received = [made.submit(answer(list(range(1, 20)), 4)) for _ in range(generations)]
        try:
            ends = [one.end(5) for one in received]
        finally:
            for one in received:
                one.ticket.cancel()
    assert all(isinstance(end, Failed) and isinstance(end.fault, StageUnavailable) for end in ends)
    assert lead.opened < 40
