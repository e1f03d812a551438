"""Which experts an answer will use, predicted before it is computed: from its prompt and what was used before. Pure.

A prediction begins with the experts that the prompt's tokens chose in the first layer with experts, and goes through
the layers by which experts follow which (`expert_use` counts both); where little was seen it leans on how often each
expert was used at all, and where nothing was, every expert is as likely.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from blyan.inference.expert_use import ExpertUse, Used

_prior: Final = 8.0  # positions that a layer's mean is worth beside a token's or an expert's own counts
_seen_weight: Final = 4.0  # of what the answer's own prompt was seen to use, beside the prediction
_share: Final = 0.95  # of what a layer is expected to use that a set covers


@dataclass(frozen=True, slots=True)
class ExpertSet:
    """A prediction: how often a position will use each expert, and the fewest that cover nearly all of it."""

    weights: NDArray[np.float32]  # [moe layers, experts]: uses for each position
    numbers: tuple[int, ...]  # as in a summary's bitmap

    def weight(self, number: int) -> float:
        """Uses of an expert for each position."""
        layer, expert = divmod(number, self.weights.shape[1])
        return float(self.weights[layer, expert])


def predict(use: ExpertUse, prompt: Sequence[int], now: float, seen: Used = ()) -> ExpertSet:
    """What an answer to `prompt` will use; `seen` is what its own positions used so far, if any did."""
    counts = use.counts(now)
    means = _normal(counts + _tiny(counts), use.per_token)
    weights = np.empty(means.shape, np.float64)
    weights[0] = _first(use, prompt, means[0], now)
    for place in range(1, len(means)):
        rows = use.followers(place - 1, now)
        weights[place] = means[place]
        if rows is not None:
            scaled = weights[place - 1] / (rows.sum(axis=1) + _prior * use.per_token)
            weights[place] = scaled.astype(np.float32) @ rows + scaled.sum() * _prior * means[place]
    weights = _normal(weights, use.per_token)
    if seen:
        own = np.full_like(weights, 1e-9)
        for place, expert, tokens in use.known(seen):
            own[place, expert] += tokens
        weights = _normal(weights + _seen_weight * _normal(own, use.per_token), use.per_token)
    return ExpertSet(weights.astype(np.float32), _covering(weights))


def _first(use: ExpertUse, prompt: Sequence[int], mean: NDArray[np.float64], now: float) -> NDArray[np.float64]:
    """What the first layer uses for each of the prompt's tokens, on average."""
    counts = Counter(prompt)
    found = zip(counts.values(), use.firsts(counts, now), strict=True)
    seen = [(times, own) for times, own in found if own is not None]
    if not seen:
        return mean
    times = np.array([each for each, _ in seen], np.float64)
    own = np.stack([each for _, each in seen]).astype(np.float64)  # [tokens that were seen, experts]
    each = (own + _prior * mean) * (use.per_token / (own.sum(axis=1, keepdims=True) + _prior * use.per_token))
    return (times @ each + (len(prompt) - times.sum()) * mean) / len(prompt)


def _normal(counts: NDArray[np.float64], per_token: int) -> NDArray[np.float64]:
    """So that each layer's add up to what a position uses."""
    return counts * (per_token / counts.sum(axis=1, keepdims=True))


def _tiny(counts: NDArray[np.float64]) -> float:
    """So much that an expert that was never seen is possible, and that none of them is likelier than another."""
    return max(1e-6, 0.01 * float(counts.sum()) / max(1, counts.size))


def _covering(weights: NDArray[np.float64]) -> tuple[int, ...]:
    """Of each layer the likeliest, until they cover nearly all that it is expected to use."""
    order = np.argsort(-weights, axis=1, kind="stable")
    sums = np.cumsum(np.take_along_axis(weights, order, axis=1), axis=1)
    counts = (sums < _share * sums[:, -1:] - 1e-9).sum(axis=1) + 1
    experts = weights.shape[1]
    return tuple(
        sorted(int(layer * experts + expert) for layer, many in enumerate(counts) for expert in order[layer, :many])
    )
