"""The plain reference loop: prefill, then one token at a time, every expert computed here.

It drives the transformer's expert-call seam with local weights. Faster drivers (fused, batched, remote) are held to
what this one gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from blyan.model.choosing import Choice, Chooser, Step, step_of, want_finite
from blyan.model.config import ModelConfig
from blyan.model.gate import Routing
from blyan.model.grammar import Constraint
from blyan.model.kv_cache import KVCache
from blyan.model.likeliest import Scores
from blyan.model.sampling import Sampling
from blyan.model.transformer import drive, forward, logits
from blyan.model.weights import ModelWeights

_echo_rows = 64  # positions scored at once
_prefill_rows = 512  # prompt positions computed at once


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
                want_finite(rows)
                for row, token in zip(rows, following[first:], strict=False):
                    yield step_of(row, token, top, take_used())
        else:
            yield None
    chooser = Chooser(prompt, Choice(sampling, tokens_max, stop_tokens, top), constraint)
    while chooser.left:
        scores = _scores(weights, config, hidden[-1])
        want_finite(scores)
        step = chooser.choose(scores, take_used())
        yield step
        if chooser.left:
            hidden = forward_locally(weights, config, [step.token], cache, count)


@torch.inference_mode()
def _scores(weights: ModelWeights, config: ModelConfig, hidden: Tensor) -> Scores:
    return logits(weights, config, hidden).float().numpy()
