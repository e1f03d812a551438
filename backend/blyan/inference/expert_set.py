"""Which experts an answer will use, predicted before it is computed: from its prompt and what was used before. Pure.

Counts are kept of the experts that tokens chose in a model's first layer with experts, and of which experts of one
layer follow which of the layer before. A prediction goes through the layers by these; where little was seen it
leans on how often each expert was used at all, and where nothing was, every expert is as likely. Counts decay.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from blyan.inference.snapshot import ExpertGrid
from blyan.primitives import limits

Used: TypeAlias = Sequence[tuple[int, int, int]]  # (layer, expert, tokens)

_half_life: Final = 20_000  # positions after which one counts half
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


class CoUsage:
    """What was used of one model. Not thread-safe."""

    def __init__(self, grid: ExpertGrid, per_token: int) -> None:
        layers, experts = len(grid.layers), grid.experts
        self.grid, self._per_token = grid, per_token
        self.positions = 0.0  # that were seen, each as much as it still counts
        self._scale = 1.0  # of what is counted now: it grows, so that nothing that is there must shrink
        self._places = {layer: place for place, layer in enumerate(grid.layers)}
        self._means = np.zeros((layers, experts), np.float64)
        pairs = max(0, layers - 1) * experts * experts
        kept = layers - 1 if 0 < pairs <= limits.usage_cells_max else 0
        self._pairs = np.zeros((kept, experts, experts), np.float32)
        self._firsts: OrderedDict[int, NDArray[np.float32]] = OrderedDict()  # by token, the latest last

    def saw_prompt(self, used: Used, positions: int) -> None:
        """Positions of which it is only known what they used together."""
        self._count(used)
        self._decay(positions)

    def saw_token(self, token: int, used: Used) -> None:
        """One position, that of `token`."""
        self._count(used)
        by_layer = self._by_layer(used)
        for place in range(len(self._pairs)):
            before, after = by_layer.get(place, ()), by_layer.get(place + 1, ())
            if before and after:
                self._pairs[place][np.ix_(before, after)] += self._scale
        first = self._firsts.pop(token, None)
        if first is None:
            first = np.zeros(self.grid.experts, np.float32)
        first[list(by_layer.get(0, ()))] += self._scale
        self._firsts[token] = first
        if len(self._firsts) > limits.usage_tokens_max:
            self._firsts.popitem(last=False)
        self._decay(1)

    def predict(self, prompt: Iterable[int], seen: Used = ()) -> ExpertSet:
        """What an answer to `prompt` will use; `seen` is what its own positions used so far, if any did."""
        means = self._normal(self._means + _tiny(self._means))
        weights = np.empty(means.shape, np.float64)
        weights[0] = self._first(prompt, means[0])
        for place in range(1, len(means)):
            weights[place] = means[place]
            if place - 1 < len(self._pairs):
                rows = self._pairs[place - 1] / np.float32(self._scale)
                scaled = weights[place - 1] / (rows.sum(axis=1) + _prior * self._per_token)
                weights[place] = scaled.astype(np.float32) @ rows + scaled.sum() * _prior * means[place]
        if seen:
            own = np.zeros_like(weights)
            for layer, expert, tokens in self._known(seen):
                own[layer, expert] += tokens
            weights = self._normal(weights + _seen_weight * self._normal(own + 1e-9))
        else:
            weights = self._normal(weights)
        return ExpertSet(weights.astype(np.float32), _covering(weights))

    def _first(self, prompt: Iterable[int], mean: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the first layer uses for each of the prompt's tokens, on average."""
        total, count = np.zeros_like(mean), 0
        for token in prompt:
            found = self._firsts.get(token)
            own = np.zeros_like(mean) if found is None else found.astype(np.float64) / self._scale
            total += self._per_token * (own + _prior * mean) / (own.sum() + _prior * self._per_token)
            count += 1
        return total / count if count else mean

    def _normal(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """So that each layer's add up to what a position uses."""
        return counts * (self._per_token / counts.sum(axis=1, keepdims=True))

    def _count(self, used: Used) -> None:
        for place, expert, tokens in self._known(used):
            self._means[place, expert] += tokens * self._scale

    def _known(self, used: Used) -> Iterable[tuple[int, int, int]]:
        for layer, expert, tokens in used:
            place = self._places.get(layer)
            if place is not None and 0 <= expert < self.grid.experts:
                yield place, expert, tokens

    def _by_layer(self, used: Used) -> Mapping[int, list[int]]:
        found: dict[int, list[int]] = {}
        for place, expert, _ in self._known(used):
            found.setdefault(place, []).append(expert)
        return found

    def _decay(self, positions: int) -> None:
        fading = 0.5 ** (positions / _half_life)
        self.positions = self.positions * fading + positions
        self._scale /= fading
        if self._scale > 1e6:
            self._means /= self._scale
            self._pairs /= np.float32(self._scale)
            self._firsts = OrderedDict((token, own / np.float32(self._scale)) for token, own in self._firsts.items())
            self._scale = 1.0


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
