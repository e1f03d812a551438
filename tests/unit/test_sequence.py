"""Runs of a sequence, and what a run tells of the one after it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batches import RULES, answer, bench, expected
from blyan.inference.needs import Need
from blyan.inference.pages import PagePool
from blyan.inference.sequence import TokenSequence
from blyan.inference.session import Finished
from blyan.model.sampling import Sampling
from blyan.model.stepping import Run
from fakes import TokenPages

POSITIONS = 1_024


def admitted(need: Need, alike: int) -> TokenSequence:
    """It has pages for all of its tokens, and nothing is computed."""
    sequence = TokenSequence(1, "client", alike)
    sequence.ask(need)
    pool = PagePool(POSITIONS // 32)
    held = pool.begin(sequence.tokens, compute_min=need.end, share=0)
    assert pool.extend(held, need.end)
    sequence.begin(held, 0)
    return sequence


@given(st.integers(1, 700), st.integers(1, 300), st.integers(0, 800), st.integers(16, POSITIONS), st.booleans())
def test_the_run_that_is_told_ahead_is_the_one_that_comes(
    length: int, most: int, reach: int, alike: int, hidden: bool
) -> None:
    """Word for word, whatever a prompt's length and wherever rotary scalings have it cut; the last tells of none."""
    sequence = admitted(Need(0, tuple(range(length)), 1, hidden, reach=reach), alike)
    told: Run | None = None
    while not sequence.complete:
        run = sequence.run(most, ahead=True)
        plain = run._replace(following=None)
        assert plain == sequence.run(most)
        assert told is None or told == plain
        told = run.following
        sequence.computed += len(run.tokens)
        assert (told is None) == sequence.complete


def test_nothing_is_told_of_a_draft() -> None:
    """What follows it depends on which guesses were right."""
    sequence = admitted(Need(0, (1, 2, 3, 4), 3, drafts=2), POSITIONS)
    assert sequence.run(2, ahead=True).following is None


@pytest.mark.parametrize("leased", [True, False])
def test_a_step_tells_ahead_where_one_prompt_is_read_through_stages(leased: bool) -> None:
    """Where others are in the step too the next one is another; a stepper without stages has no use for it."""
    steps: list[list[Run]] = []

    def prepare(made: TokenPages) -> None:
        step = made.step

        def stepped(runs: Any, *arguments: Any) -> Any:
            steps.append(list(runs))
            return step(runs, *arguments)

        made.step = stepped  # type: ignore[method-assign]
        if leased:
            made.prepare, made.nodes = (lambda _least, _wanted: 64), ()  # type: ignore[attr-defined]

    prompt, rules = list(range(1, 50)), replace(RULES, step_tokens=20, prompt_tokens=20)
    with bench(rules=rules, prepare=prepare) as made:
        greedy = Sampling(temperature=0.0)
        for _ in range(2):
            received = made.submit(answer(prompt, 3, greedy))
            assert isinstance(received.end(), Finished)
            assert [step.token for step in expected(prompt, 3, greedy)] == received.tokens
            prompt = prompt[::-1]
    told = [run.following for runs in steps for run in runs]
    assert any(told) == leased
    for runs, following in pairwise(steps):
        if runs[0].following is not None:
            assert following[0]._replace(following=None) == runs[0].following
