"""How often each routed expert of a model was used lately, and which of one layer were used by one token together.

Counted where tokens are computed, by whoever drives the layers; decayed by time, so that an hour ago counts half. What
a step chose is put aside and counted many steps at once, so that a token costs a copy. Threads may share it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from blyan.inference.snapshot import ExpertGrid
from blyan.primitives import limits

half_life_s: Final = 3_600.0
_aside_max: Final = 256  # positions that wait to be counted
_aside_seconds: Final = 60.0  # without news, after which these are counted as of then
_pairs_of: Final = 32  # positions of these whose pairs are counted, evenly spread


class ExpertUse:
    """Of one model; `now` is a monotonic clock's. Bounded: a number an expert, and one a pair where those are few."""

    def __init__(self, grid: ExpertGrid, half_life: float = half_life_s) -> None:
        self.grid = grid
        self._half_life = half_life
        self._lock = threading.Lock()
        self._aside: list[NDArray[np.int32]] = []
        self._waiting = 0
        self._counts = np.zeros((len(grid.layers), grid.experts))
        cells = grid.count * grid.experts
        kept = len(grid.layers) if cells <= limits.use_pairs_max else 0
        self._pairs = np.zeros((kept, grid.experts, grid.experts), np.float32)
        self._paired = np.zeros((kept, grid.experts))
        self._positions = 0.0
        self._at = self._noted = 0.0

    def note(self, chosen: NDArray[np.int32], now: float) -> None:
        """Positions of one step and their experts [moe layers, n, top k]."""
        aside = np.array(chosen, np.int32)
        with self._lock:
            if self._aside and now > self._noted + _aside_seconds:
                self._count(self._noted)
            self._noted = now
            self._aside.append(aside)
            self._waiting += aside.shape[1]
            if self._waiting >= _aside_max:
                self._count(now)

    def note_token(self, chosen: Mapping[int, Sequence[int]], now: float) -> None:
        """The experts of one token by layer, of every layer that has some."""
        self.note(np.array([[chosen[layer]] for layer in self.grid.layers], np.int32), now)

    def positions(self, now: float) -> float:
        """So many were seen, each as much as it still counts."""
        with self._lock:
            self._count(now)
            return self._positions

    def shares(self, now: float) -> NDArray[np.float64]:
        """Uses of each expert for each position [experts of the model]; zeros where nothing was seen."""
        with self._lock:
            self._count(now)
            return (self._counts / max(self._positions, 1e-9)).ravel()

    def pairs(self, layer: int, now: float) -> NDArray[np.float32]:
        """[experts, experts] of one layer: how often the second is used by a token that uses the first, 0 to 1.

        Zeros where nothing was seen, on the diagonal, and for a model of which pairs are too many to be kept.
        """
        place = self.grid.layers.index(layer)
        if not len(self._pairs):
            return np.zeros((self.grid.experts, self.grid.experts), np.float32)
        with self._lock:
            self._count(now)
            used = np.maximum(self._paired[place], 1e-9)
            return (self._pairs[place] / used[:, None]).astype(np.float32)

    def _count(self, now: float) -> None:
        """What was put aside; the lock is held."""
        decay = 0.5 ** (max(0.0, now - self._at) / self._half_life)
        self._at = max(now, self._at)
        self._counts *= decay
        self._positions *= decay
        if decay < 1.0 - 1e-6 and len(self._pairs):
            self._pairs *= np.float32(decay)
            self._paired *= decay
        if not self._aside:
            return
        chosen = self._aside[0] if len(self._aside) == 1 else np.concatenate(self._aside, axis=1)
        self._aside, self._waiting = [], 0
        layers, experts = len(self.grid.layers), self.grid.experts
        first = np.arange(layers)[:, None, None] * experts
        self._counts += np.bincount((first + chosen).ravel(), minlength=layers * experts).reshape(layers, experts)
        self._positions += chosen.shape[1]
        if len(self._pairs):
            count = chosen.shape[1]
            # by the golden ratio: even steps would see one phase of what has a rhythm
            some = (np.arange(_pairs_of) * 0.6180339887498949 % 1.0 * count).astype(np.int64)
            self._pair(chosen[:, np.unique(some)] if count > _pairs_of else chosen, experts)

    def _pair(self, chosen: NDArray[np.int32], experts: int) -> None:
        for place, rows in enumerate(chosen):  # [n, top k]
            cells = rows[:, :, None] * experts + rows[:, None, :]
            found = np.bincount(cells.ravel(), minlength=experts * experts).reshape(experts, experts)
            self._paired[place] += found.diagonal()
            np.fill_diagonal(found, 0)
            self._pairs[place] += found
