"""Which routed experts of a model are used: how often, which by one token together, and which follow which.

One count for all who ask: placement by worth, and predictions of what an answer will use (`expert_set`). It counts what
this node computes for its own answers, and what leads tell of answers that they generate for it. An hour ago counts
half. What a step chose is put aside and counted many steps at once, so that a token costs a copy. Threads may share it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from blyan.inference.snapshot import ExpertGrid
from blyan.primitives import limits

Used: TypeAlias = Sequence[tuple[int, int, int]]  # (layer, expert, tokens)

half_life_s: Final = 3_600.0
_aside_max: Final = 256  # positions that wait to be counted
_aside_seconds: Final = 60.0  # without news, after which these are counted as of then
_pairs_of: Final = 32  # positions of these whose pairs are counted, evenly spread
_halvings_max: Final = 20.0  # of what was counted first, until all is counted in smaller units
_halvings_told: Final = 1_000.0  # what is older counts nothing, and a float has no more


class ExpertUse:
    """Of one model; `now` is a monotonic clock's. Bounded: a number an expert, and one a pair where those are few."""

    def __init__(self, grid: ExpertGrid, per_token: int, half_life: float = half_life_s) -> None:
        self.grid, self.per_token = grid, per_token
        self._half_life = half_life
        self._lock = threading.Lock()
        self._aside: list[NDArray[np.int32]] = []
        self._waiting = 0
        self._noted = 0.0
        # All below in units of what counts one at `_base`: a use adds more and more, so that nothing must shrink.
        self._base: float | None = None  # the first moment that anything was said of
        self._positions = self._computed = 0.0
        layers, experts = len(grid.layers), grid.experts
        self._places = {layer: place for place, layer in enumerate(grid.layers)}
        self._counts = np.zeros((layers, experts))
        cells = grid.count * experts
        kept = layers if cells <= limits.use_pairs_max else 0
        self._pairs = np.zeros((kept, experts, experts), np.float32)  # of one layer
        self._paired = np.zeros((kept, experts))
        self._followers = np.zeros((max(0, kept - 1), experts, experts), np.float32)  # of a layer and the next
        self._firsts: OrderedDict[int, NDArray[np.float32]] = OrderedDict()  # by token, the latest last

    def note(self, chosen: NDArray[np.int32], now: float) -> None:
        """Positions of one step, computed here, and their experts [moe layers, n, top k]."""
        aside = np.array(chosen, np.int32)
        with self._lock:
            if self._aside and now > self._noted + _aside_seconds:
                self._count(self._noted)
            self._noted = now
            self._aside.append(aside)
            self._waiting += aside.shape[1]
            if self._waiting >= _aside_max:
                self._count(now)

    def saw_prompt(self, used: Used, positions: int, now: float) -> None:
        """Positions computed elsewhere, of which it is only known what they used together."""
        with self._lock:
            unit = self._unit(now)
            for place, expert, tokens in self.known(used):
                self._counts[place, expert] += tokens * unit
            self._positions += positions * unit

    def saw_token(self, token: int, used: Used, now: float) -> None:
        """One position computed elsewhere, that of `token`."""
        by_layer: dict[int, list[int]] = {}
        for place, expert, _ in self.known(used):
            by_layer.setdefault(place, []).append(expert)
        with self._lock:
            unit = self._unit(now)
            for place, experts in by_layer.items():
                self._counts[place, experts] += unit
                if place < len(self._pairs):
                    self._paired[place, experts] += unit
                    for expert in experts:
                        self._pairs[place, expert, [each for each in experts if each != expert]] += unit
                if place < len(self._followers) and place + 1 in by_layer:
                    self._followers[place][np.ix_(experts, by_layer[place + 1])] += unit
            first = self._firsts.pop(token, None)
            if first is None:
                first = np.zeros(self.grid.experts, np.float32)
            first[by_layer.get(0, [])] += unit
            self._firsts[token] = first
            if len(self._firsts) > limits.usage_tokens_max:
                self._firsts.popitem(last=False)
            self._positions += unit

    def positions(self, now: float) -> float:
        """So many were seen, each as much as it still counts."""
        with self._lock:
            unit = self._count(now)
            return self._positions / unit

    def computed(self, now: float) -> float:
        """Of these, those computed here."""
        with self._lock:
            unit = self._count(now)
            return self._computed / unit

    def counts(self, now: float) -> NDArray[np.float64]:
        """Uses [moe layers, experts], each as much as it still counts."""
        with self._lock:
            unit = self._count(now)
            return self._counts / unit

    def shares(self, now: float) -> NDArray[np.float64]:
        """Uses of each expert for each position [experts of the model]; zeros where nothing was seen."""
        with self._lock:
            self._count(now)
            return (self._counts / max(self._positions, 1e-9)).ravel()

    def pairs(self, layer: int, now: float) -> NDArray[np.float32]:
        """[experts, experts] of one layer: how often the second is used by a token that uses the first, 0 to 1.

        Zeros where nothing was seen, on the diagonal, and for a model of which pairs are too many to be kept.
        """
        place = self._places[layer]
        if not len(self._pairs):
            return np.zeros((self.grid.experts, self.grid.experts), np.float32)
        with self._lock:
            self._count(now)
            used = np.maximum(self._paired[place], 1e-9)
            return (self._pairs[place] / used[:, None]).astype(np.float32)

    def followers(self, place: int, now: float) -> NDArray[np.float32] | None:
        """[experts, experts] of a layer, by its place among those with experts, and the next: uses, as `counts`.

        None where too many pairs would be kept.
        """
        if place >= len(self._followers):
            return None
        with self._lock:
            unit = self._count(now)
            return self._followers[place] / np.float32(unit)

    def firsts(self, tokens: Iterable[int], now: float) -> list[NDArray[np.float32] | None]:
        """Uses [experts] of the first layer by each of these tokens, as `counts`; None of one that was not seen."""
        with self._lock:
            unit = np.float32(self._count(now))
            found = [self._firsts.get(token) for token in tokens]
            return [None if each is None else each / unit for each in found]

    def known(self, used: Used) -> Iterable[tuple[int, int, int]]:
        """(place of the layer, expert, tokens) of what the model has."""
        for layer, expert, tokens in used:
            place = self._places.get(layer)
            if place is not None and 0 <= expert < self.grid.experts:
                yield place, expert, tokens

    def _unit(self, now: float) -> float:
        """What one use counts now, in the units that are kept; the lock is held."""
        base = now if self._base is None else self._base
        self._base, halvings = base, (now - base) / self._half_life
        if halvings <= _halvings_max:
            return 2.0**halvings
        unit = 2.0 ** min(halvings, _halvings_told)
        self._base, smaller = now, np.float32(1 / unit)
        self._positions /= unit
        self._computed /= unit
        self._counts /= unit
        self._paired /= unit
        self._pairs *= smaller
        self._followers *= smaller
        self._firsts = OrderedDict((token, own * smaller) for token, own in self._firsts.items())
        return 1.0

    def _count(self, now: float) -> float:
        """What was put aside; the unit as of now. The lock is held."""
        unit = self._unit(now)
        if not self._aside:
            return unit
        chosen = self._aside[0] if len(self._aside) == 1 else np.concatenate(self._aside, axis=1)
        self._aside, self._waiting = [], 0
        layers, experts = self._counts.shape
        first = np.arange(layers)[:, None, None] * experts
        self._counts += unit * np.bincount((first + chosen).ravel(), minlength=layers * experts).reshape(layers, -1)
        count = chosen.shape[1]
        self._positions += unit * count
        self._computed += unit * count
        if len(self._pairs):
            # by the golden ratio: even steps would see one phase of what has a rhythm
            some = (np.arange(_pairs_of) * 0.6180339887498949 % 1.0 * count).astype(np.int64)
            self._pair(chosen[:, np.unique(some)] if count > _pairs_of else chosen, unit)
        return unit

    def _pair(self, chosen: NDArray[np.int32], unit: float) -> None:
        for place, rows in enumerate(chosen):  # [n, top k]
            np.add.at(self._paired[place], rows.ravel(), unit)
            self._cross(self._pairs[place], rows, rows, unit)
            np.fill_diagonal(self._pairs[place], 0)
            if place + 1 < len(chosen):
                self._cross(self._followers[place], rows, chosen[place + 1], unit)

    def _cross(
        self, into: NDArray[np.float32], before: NDArray[np.int32], after: NDArray[np.int32], unit: float
    ) -> None:
        """Each of the first [n, k] with each of the second [n, k] of its row."""
        cells = before[:, :, None] * self.grid.experts + after[:, None, :]
        np.add.at(into.reshape(-1), cells.ravel(), np.float32(unit))  # a view: what is counted is much less than all
