"""The plain reference loop: prefill, then one token at a time, every expert computed here.

It drives the transformer's expert-call seam with local weights. Faster drivers (fused, batched, remote) are held to
what this one gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blyan.model.config import ModelConfig
from blyan.model.gate import Routing
from blyan.model.grammar import Constraint
from blyan.model.kv_cache import KVCache
from blyan.model.sampler import History, sample
from blyan.model.sampling import Sampling
from blyan.model.transformer import drive, forward, logits
from blyan.model.weights import ModelWeights
from blyan.primitives.digest import uniform
from blyan.primitives.errors import NotComputable

_echo_rows = 64  # positions scored at once
_prefill_rows = 512  # prompt positions computed at once


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token and its log-probability under the model, before temperature."""

    token: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Step:
    """One position: the token that stands or was chosen there, and what the model thought."""

    token: int
    logprob: float | None  # None for the first prompt token, which nothing predicts
    top: tuple[Candidate, ...]
    experts: tuple[tuple[int, int, int], ...]  # (layer, expert, tokens routed) since the last step


@torch.inference_mode()
def forward_locally(
    weights: ModelWeights,
    config: ModelConfig,
    tokens: Sequence[int],
    cache: KVCache | None,
    observe: Callable[[int, Routing], None] | None = None,
) -> Tensor:
    """Hidden states [T, hidden] of the tokens, all experts computed in this process."""
    steps = forward(weights, config, torch.tensor([tokens], dtype=torch.int64), cache, observe)
    return drive(steps, weights.answer)[0]


def generate(
    weights: ModelWeights,
    config: ModelConfig,
    prompt: Sequence[int],
    sampling: Sampling,
    *,
    tokens_max: int,
    stop_tokens: frozenset[int] = frozenset(),
    top: int = 0,
    echo: bool = False,
    constraint: Constraint | None = None,
) -> Iterator[Step | None]:
    """Yield the prompt's own steps if `echo`, then up to `tokens_max` chosen ones; the last may be a stop token.

    `top` most likely candidates come with each step, as the model scores them, before penalties, `constraint` and
    temperature. The token with which the constraint ends is the last. None
    means that work was done and there is nothing to report yet: a long prompt is computed in runs, so that others get
    their turn between them. The caller has checked that prompt and answer fit the context.
    """
    assert prompt and len(prompt) + tokens_max <= config.context_length, "the caller checks lengths"
    used: Counter[tuple[int, int]] = Counter()

    def count(layer: int, routing: Routing) -> None:
        tally = torch.bincount(routing.chosen.flatten(), minlength=config.experts).tolist()
        used.update({(layer, expert): tokens for expert, tokens in enumerate(tally) if tokens})

    def take_used() -> tuple[tuple[int, int, int], ...]:
        taken = tuple((layer, expert, tokens) for (layer, expert), tokens in sorted(used.items()))
        used.clear()
        return taken

    cache = KVCache(config, reach=len(prompt))
    if echo:
        yield Step(prompt[0], None, (), ())
    hidden = torch.empty(0)
    for begin in range(0, len(prompt), _prefill_rows):
        hidden = forward_locally(weights, config, prompt[begin : begin + _prefill_rows], cache, count)
        if echo:
            following = prompt[begin + 1 : begin + 1 + len(hidden)]
            for first in range(0, len(following), _echo_rows):  # in runs: scores of many positions would fill memory
                rows = _scores(weights, config, hidden[first : min(first + _echo_rows, len(following))])
                for row, token in zip(rows, following[first:], strict=False):
                    yield _step(row, token, top, take_used())
        else:
            yield None
    history = History(prompt)
    for position in range(len(prompt), len(prompt) + tokens_max):
        scores = _scores(weights, config, hidden[-1])
        reshaped = history.reshaped(scores, sampling)
        possible = reshaped if constraint is None else constraint.allowed(reshaped)
        token = sample(possible, sampling, uniform(sampling.seed, position))
        history.take(token)
        if constraint is not None:
            constraint.take(token)
        yield _step(scores, token, top, take_used())
        ended = token in stop_tokens or (constraint is not None and constraint.ended)
        if ended or position + 1 == len(prompt) + tokens_max:
            return
        hidden = forward_locally(weights, config, [token], cache, count)


@torch.inference_mode()
def _scores(weights: ModelWeights, config: ModelConfig, hidden: Tensor) -> Tensor:
    scores = logits(weights, config, hidden).float()
    if not bool(torch.isfinite(scores).all()):
        raise NotComputable("logits: expected finite numbers, found infinities or NaN (an overflow in this dtype?)")
    return scores


def _step(scores: Tensor, token: int, top: int, experts: tuple[tuple[int, int, int], ...]) -> Step:
    logprobs = torch.log_softmax(scores, dim=-1)
    candidates: tuple[Candidate, ...] = ()
    if top:
        values, tokens = logprobs.topk(min(top, len(logprobs)))
        pairs = zip(tokens.tolist(), values.tolist(), strict=True)
        candidates = tuple(Candidate(int(token), float(value)) for token, value in pairs)
    return Step(token, float(logprobs[token]), candidates, experts)
