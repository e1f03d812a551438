"""When all keys and values are lost, what runs is computed again from its tokens, in its place, to the same answer."""

from __future__ import annotations

import random

import pytest

from batches import CONFIG, answer, bench, expected
from blyan.inference.session import Finished
from blyan.model.sampling import Sampling
from blyan.model.stepping import PagesLost
from fakes import TokenPages


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
