"""From scores to one token: penalties and biases, then greedy, or temperature with top-k, top-p and min-p.

The uniform number that is handed in is PRF(seed, position) (`primitives/digest.uniform`), so a replay draws the same
tokens. Penalties as the OpenAI API reference has them (frequency, presence: of generated tokens), and Keskar et al.
2019, arXiv:1909.05858, section 4.1 (repetition: of prompt tokens too).

Tokens are drawn from the vocabulary in falling order of their scores, equal ones by id, but it is sorted only where the
draw falls. Every weight is a multiple of one unit, so small that sums of them are exact in any order: the head's
weights, those of a range of scores and the whole vocabulary's fit together to the last bit, and the token is the one
that sorting everything would find (`tests/plain_sampler.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from blyan.model.likeliest import Scores, best_first, order
from blyan.model.sampling import Sampling
from blyan.primitives.errors import InvalidInput

_head: Final = 64  # tokens among which most draws fall
_ranges: Final = 1_024  # of scores, of which only those are sorted in which something is looked for
_temperature_min: Final = 1e-30  # fp32 knows nothing much smaller
_lightest: Final = 37.0  # exponents below minus this weigh nothing in any vocabulary

Weights: TypeAlias = NDArray[np.float64]


class History:
    """Which tokens stand in the prompt, and how often each was generated: what penalties look at."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self._prompt = prompt
        self._generated = _Tally(())
        self._seen: _Tally | None = None  # made when a penalty first asks for it
        self._bias: tuple[Sampling, NDArray[np.int64], Scores] | None = None

    def take(self, token: int) -> None:
        """A token was generated."""
        self._generated.add(token)
        if self._seen is not None:
            self._seen.add(token)

    def reshaped(self, scores: Scores, sampling: Sampling) -> Scores:
        """Scores [vocab] with penalties and biases; the ones given where there are none."""
        if not sampling.reshapes:
            return scores
        array = scores.copy()
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # the least penalties are 0 in fp32
            if sampling.repetition_penalty != 1.0:
                if self._seen is None:
                    self._seen = _Tally((*self._prompt, *self._generated.tokens.tolist()))
                penalty, seen = np.float32(sampling.repetition_penalty), self._seen.tokens
                found = array[seen]
                array[seen] = np.where(found > 0, found / penalty, found * penalty)
            frequency, presence = np.float32(sampling.frequency_penalty), np.float32(sampling.presence_penalty)
            if frequency or presence:
                array[self._generated.tokens] -= frequency * self._generated.counts + presence
            if sampling.logit_bias:
                np.add.at(array, *self._biases(sampling, len(array)))
        return array

    def _biases(self, sampling: Sampling, vocab: int) -> tuple[NDArray[np.int64], Scores]:
        if self._bias is None or self._bias[0] is not sampling:
            tokens, biases = zip(*sampling.logit_bias, strict=True)
            beyond = next((token for token in tokens if token >= vocab), None)
            if beyond is not None:
                raise InvalidInput(f"logit_bias: expected token ids below {vocab}, found {beyond}")
            self._bias = (sampling, np.array(tokens, dtype=np.int64), np.array(biases, dtype=np.float32))
        return self._bias[1], self._bias[2]


class _Tally:
    """How often each of some tokens came, as arrays; adding one costs the same however many there are."""

    def __init__(self, tokens: Iterable[int]) -> None:
        self._places: dict[int, int] = {}
        self._tokens = np.empty(64, dtype=np.int64)
        self._counts = np.empty(64, dtype=np.float32)
        for token in tokens:
            self.add(token)

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Each token once, in the order in which they came first."""
        return self._tokens[: len(self._places)]

    @property
    def counts(self) -> Scores:
        """How often each of `tokens` came."""
        return self._counts[: len(self._places)]

    def add(self, token: int) -> None:
        """One more."""
        at = self._places.get(token)
        if at is None:
            at = self._places[token] = len(self._places)
            if at == len(self._tokens):
                self._tokens = np.concatenate((self._tokens, np.empty_like(self._tokens)))
                self._counts = np.concatenate((self._counts, np.empty_like(self._counts)))
            self._tokens[at], self._counts[at] = token, 0
        self._counts[at] += 1


def sample(scores: Scores, sampling: Sampling, uniform: float) -> int:
    """Choose a token id from scores [vocab], fp32, minus infinity for those that may not come.

    `uniform` in [0, 1) is ignored when greedy. Temperatures below 1e-30 count as 1e-30.
    """
    best = int(scores.argmax())
    peak = scores[best]
    if sampling.temperature == 0.0 or peak == -np.inf:
        return best
    with np.errstate(over="ignore"):
        if sampling.top_k:
            head = best_first(scores, sampling.top_k)[: sampling.top_k]
        elif len(scores) <= _head:
            head = best_first(scores, _head)
        else:
            return _from_all(scores, peak, sampling, uniform)
        weights = weights_of(scores[head], peak, sampling.temperature, len(scores))
    cumulative = weights.cumsum()
    kept = int(cumulative.searchsorted(sampling.top_p * cumulative[-1])) + 1
    if sampling.min_p:
        kept = min(kept, _reaching(weights, sampling.min_p))
    return int(head[_place(cumulative, float(cumulative[kept - 1]), uniform)])


def weights_of(scores: Scores, peak: np.float32, temperature: float, vocab: int) -> Weights:
    """exp((score - peak) / temperature) of each score, where `peak` is the best of the `vocab` scores.

    Multiples of 2^-(52 - ceil(log2 vocab)): for 32,000 tokens none is off by more than 1e-11 of the best one's.
    """
    if peak == np.inf:  # a penalty can divide that far
        return np.where(scores == peak, 1.0, 0.0)
    exponents = scores - peak  # minus the best score first, or a tiny temperature would divide into infinities
    exponents /= np.float32(max(temperature, _temperature_min))
    weights = np.exp(exponents, out=exponents).astype(np.float64)
    magic = 1.5 * 2.0 ** (vocab - 1).bit_length()  # numbers next to it are multiples of the unit
    weights += magic
    weights -= magic
    return weights


def _from_all(array: Scores, peak: np.float32, sampling: Sampling, uniform: float) -> int:
    """Without top-k: what top-p keeps depends on the whole vocabulary, and most draws still fall into its head."""
    weights = weights_of(array, peak, sampling.temperature, len(array))
    total = float(weights.sum())
    head = best_first(array, _head)
    cumulative = weights[head].cumsum()
    ranges = _Ranges(array, weights, peak, sampling.temperature)
    mass = total
    if sampling.top_p < 1.0:
        wanted = sampling.top_p * total
        at = int(cumulative.searchsorted(wanted))
        mass = float(cumulative[at]) if at < len(head) else ranges.find(wanted, "left")[1]
    if sampling.min_p:
        kept = _reaching(weights[head], sampling.min_p)
        reaching = float(cumulative[kept - 1] if kept < len(head) else weights[weights >= sampling.min_p].sum())
        mass = min(mass, reaching)
    place = _place(cumulative, mass, uniform)
    return int(head[place]) if place < len(head) else ranges.find(uniform * mass, "right")[0]


class _Ranges:
    """The vocabulary in ranges of scores, best first, to find a place in its order by sorting one of them."""

    def __init__(self, array: Scores, weights: Weights, peak: np.float32, temperature: float) -> None:
        self._array, self._weights, self._peak = array, weights, peak
        self._width = np.float32(max(temperature, _temperature_min) * _lightest / _ranges)
        self._made: tuple[NDArray[np.int32], Weights] | None = None

    def find(self, mass: float, side: Literal["left", "right"]) -> tuple[int, float]:
        """The first token by which the running mass reaches (left) or passes (right) `mass`, and that mass."""
        ranges, cumulative = self._made = self._made or self._make()
        at = int(cumulative.searchsorted(mass, side))
        tokens = order(self._array, np.flatnonzero(ranges == at))
        before = cumulative[at - 1] if at else 0.0
        within = before + self._weights[tokens].cumsum()
        place = int(within.searchsorted(mass, side))
        return int(tokens[place]), float(within[place])

    def _make(self) -> tuple[NDArray[np.int32], Weights]:
        if self._peak == np.inf:
            ranges = np.where(self._array == self._peak, 0, _ranges - 1).astype(np.int32)
        else:
            below = np.minimum((self._peak - self._array) / self._width, np.float32(_ranges - 1))
            ranges = below.astype(np.int32)
        return ranges, np.bincount(ranges, self._weights, _ranges).cumsum()


def _reaching(weights: Weights, share: float) -> int:
    """How many weights, in falling order, reach a share of the best one's, which is 1."""
    return int((weights >= share).sum())


def _place(cumulative: Weights, mass: float, uniform: float) -> int:
    """Where in running sums of weights a draw from the first `mass` falls: the first that passes it."""
    assert uniform < 1.0, "below 1, no product with it rounds up to the mass"
    return int(cumulative.searchsorted(uniform * mass, "right"))
