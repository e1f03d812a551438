"""A generation that waits for its next answer keeps nothing of the last one: a view of a whole step's scores."""

from __future__ import annotations

import contextlib
import weakref

import numpy as np
import pytest

from blyan.inference.decoding import decode
from blyan.inference.needs import Answer, Need
from blyan.model.choosing import Choice, Step
from blyan.model.sampling import Sampling

VOCAB = 16


class Scores(np.ndarray):
    """An array that can be referred to weakly."""


@pytest.mark.parametrize("echo", [False, True])
def test_scores_of_a_step_are_let_go_before_the_next_is_waited_for(echo: bool) -> None:
    prompt = tuple(index % VOCAB for index in range(100))
    steps = decode(prompt, Choice(Sampling(temperature=0.0), tokens_max=3), echo=echo, routed=False)
    item: Need | Step = next(steps)
    asked = 0
    with contextlib.suppress(StopIteration):
        while True:
            assert isinstance(item, Need)
            whole = np.zeros((64 + item.scored, VOCAB), np.float32).view(Scores)  # of all in the batch
            kept = weakref.ref(whole)
            item = steps.send(Answer(whole[: item.scored].view(np.ndarray), np.empty((0, 0, 0), np.int16), ()))
            del whole
            while isinstance(item, Step):
                item = next(steps)
            asked += 1
            assert kept() is None, "while it waits"
    assert asked >= 2
