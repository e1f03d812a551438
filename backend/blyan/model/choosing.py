"""From one position's scores to its token: penalties, constraint, sampling, and what is told of it.

The one place where tokens are chosen: the plain loop (`generate`) and the batched path (`inference/decoding`) differ
only in who computes the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from blyan.model.grammar import Constraint
from blyan.model.likeliest import Scores, are_finite, best_first
from blyan.model.sampler import History, sample
from blyan.model.sampling import Sampling
from blyan.primitives.digest import uniform
from blyan.primitives.errors import NotComputable


class Candidate(NamedTuple):
    """A token and its log-probability under the model, before temperature."""

    token: int
    logprob: float


class Step(NamedTuple):
    """One position: the token that stands or was chosen there, and what the model thought."""

    token: int
    logprob: float | None  # None for the first prompt token, which nothing predicts, and where nobody asked
    top: tuple[Candidate, ...]
    experts: tuple[tuple[int, int, int], ...]  # (layer, expert, tokens routed) since the last step


@dataclass(frozen=True, slots=True)
class Choice:
    """How one answer's tokens are chosen, and when it ends."""

    sampling: Sampling
    tokens_max: int
    stop_tokens: frozenset[int] = field(default_factory=frozenset[int])
    top: int = 0  # candidates told with each token
    told: bool = True  # whether log-probabilities are


def is_plain(choice: Choice) -> bool:
    """Whether nothing but scores, seed and position decides on a token, and nothing is told of its scores."""
    return not (choice.told or choice.sampling.reshapes)


def drawn(scores: Scores, sampling: Sampling, position: int) -> int:
    """The token at a position by its scores [vocab], reshaped already."""
    if sampling.temperature == 0.0:
        return int(scores.argmax())
    return sample(scores, sampling, uniform(sampling.seed, position))


class Chooser:
    """Chooses the tokens of one answer, one after the other."""

    def __init__(self, prompt: Sequence[int], choice: Choice, constraint: Constraint | None = None) -> None:
        self._choice = choice
        self._constraint = constraint
        self._history = History(prompt)
        self._position = len(prompt)
        self._end = len(prompt) + choice.tokens_max
        self.stopped = False  # by a stop token or by the constraint

    @property
    def left(self) -> int:
        """How many more tokens there may be."""
        return 0 if self.stopped else self._end - self._position

    def choose(self, scores: Scores, experts: tuple[tuple[int, int, int], ...]) -> Step:
        """The next token by its scores [vocab], which are finite. Not after `left` is 0.

        The token with which the constraint ends is the last, and so is a stop token.
        """
        sampling = self._choice.sampling
        possible = self._history.reshaped(scores, sampling)
        if self._constraint is not None:
            possible = self._constraint.allowed(possible)
        token = drawn(possible, sampling, self._position)
        self.take(token)
        if not self._choice.told:
            return Step(token, None, (), experts)
        return step_of(scores, token, self._choice.top, experts)

    @property
    def plain(self) -> bool:
        """Whether nothing but the scores, the seed and the position decides, and nothing is told of the scores."""
        return self._constraint is None and is_plain(self._choice)

    def accept(self, token: int, experts: tuple[tuple[int, int, int], ...]) -> Step:
        """The next token is this one, which was drawn where its scores are."""
        assert self.plain, "drawn elsewhere"
        self.take(token)
        return Step(token, None, (), experts)

    def take(self, token: int) -> None:
        """The next token is this one: it was chosen here, or elsewhere before this answer was gone on with."""
        if self._choice.sampling.reshapes:
            self._history.take(token)
        self._position += 1
        if self._constraint is not None:
            self._constraint.take(token)
        self.stopped = token in self._choice.stop_tokens or (self._constraint is not None and self._constraint.ended)


def want_finite(scores: Scores) -> None:
    """`NotComputable` unless every score is a finite number."""
    if not are_finite(scores):
        raise NotComputable("logits: expected finite numbers, found infinities or NaN (an overflow in this dtype?)")


def step_of(scores: Scores, token: int, top: int, experts: tuple[tuple[int, int, int], ...]) -> Step:
    """What the model thought of `token` by the scores [vocab] of its position, with the `top` likeliest."""
    logprob, likeliest = told(scores, token, top)
    return Step(token, logprob, tuple(Candidate(*each) for each in likeliest), experts)


def told(scores: Scores, token: int, top: int = 0) -> tuple[float, list[tuple[int, float]]]:
    """The log-probability of a token under scores [vocab], and the `top` likeliest tokens with theirs, best first."""
    logprobs = torch.log_softmax(torch.from_numpy(scores), dim=-1).numpy()  # a single row, hence by a single thread
    listed = best_first(scores, top)[:top] if top else ()
    return float(logprobs[token]), [(int(other), float(logprobs[other])) for other in listed]
