"""Single experts in jitted code: what other nodes ask for, and what a step computes here while it waits for others.

A row's numbers are those of the jitted step, bit for bit, whatever else is computed with it: where an expert is changes
nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blyan.model import fused_layout as at
from blyan.model.config import ModelConfig
from blyan.model.fused_room import Room
from blyan.model.fused_team import FusedTeam
from blyan.model.pace import Pace
from blyan.model.parts import expert_part
from blyan.model.stepping import KVPages, nothing
from blyan.model.weights import ModelWeights
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import NotFound

_rows_at_once: Final = 64
_patience: Final = 2_000  # looks for more before a thread sleeps: tens of microseconds


def lay_ranges(room: Room, experts: int, parts: Sequence[tuple[int, int, int]], slots: int) -> None:
    """What `experts_of` computes: (expert, first slot, slots) each; `slots` in all are routed ones."""
    for place, part in enumerate(parts):
        room.ranges[place, :3] = part
    room.ranges[experts + 1, :2] = len(parts), slots


class FusedMixture:
    """Experts of one model, laid as they are first asked for. `close` ends its threads. One computes at a time."""

    def __init__(
        self,
        weights: ModelWeights,
        config: ModelConfig,
        dtype: torch.dtype,
        sample: tuple[int, int],
        threads: int,
        monotonic: Monotonic,
    ) -> None:
        """`sample`: layer and number of an expert that is here; its matrices are stored as all others are."""
        self._config, self.dtype = config, dtype
        first = expert_part(*sample)
        self._team = FusedTeam(
            weights,
            config,
            KVPages(config, dtype, 0),
            threads,
            monotonic,
            dtype=dtype,
            held=lambda name: name == first,
            patience=_patience,
        )
        self._team.make_room(_rows_at_once, 1)
        self._pace = Pace(threads)
        self._computing = threading.Lock()  # a team that is told to stop in the midst would leave old numbers
        self._closed = False

    def answer(self, layer: int, experts: Sequence[int], rows: Sequence[int], hidden: Tensor) -> Tensor:
        """What each expert gives for its rows, one expert's after the other's: [n, hidden] to the same shape.

        Faults as `ModelWeights.part`'s; `NotFound` once it is closed.
        """
        given = hidden.float().numpy()
        out = np.empty_like(given)
        with self._computing:
            if self._closed:
                raise NotFound("experts: expected them hosted here, found them given back")
            while True:
                for expert in experts:
                    self._team.tables.take(layer, expert)
                begin = 0
                for piece in _pieces(experts, rows):
                    end = begin + sum(count for _, count in piece)
                    self._computed(layer, piece, given[begin:end], out[begin:end])
                    begin = end
                if all(self._team.tables.is_good(layer, expert) for expert in experts):
                    return torch.from_numpy(out).to(self.dtype)

    def has(self, layer: int, expert: int) -> bool:
        """Whether an expert is laid: computing with it opens and hashes nothing, if its file is what it was."""
        return self._team.tables.was_taken(layer, expert)

    def close(self) -> None:
        """End its threads, after what they compute now. From any thread."""
        with self._computing:
            if not self._closed:
                self._closed = True
                self._team.close()

    def _computed(self, layer: int, piece: Sequence[tuple[int, int]], given: NDArray[Any], out: NDArray[Any]) -> None:
        room, count = self._team.room, len(given)
        parts: list[tuple[int, int, int]] = []
        first = 0
        for expert, rows in piece:
            parts.append((expert, first, rows))
            first += rows
        room.rows_at(at.NORMED)[:count] = given
        room.listed[:count] = np.arange(count)
        room.sizes[:] = count, 0, 0
        lay_ranges(room, self._config.experts, parts, count)
        self._team.stretch(at.experts_of(layer), at.mixture_of(layer), count, nothing, self._pace)
        out[:] = room.rows_at(at.LOWERED)[:count]


def _pieces(experts: Sequence[int], rows: Sequence[int]) -> list[list[tuple[int, int]]]:
    """Experts and rows of theirs, as many together as there is room for."""
    pieces: list[list[tuple[int, int]]] = [[]]
    left = _rows_at_once
    for expert, count in zip(experts, rows, strict=True):
        done = 0
        while done < count:
            if not left:
                pieces.append([])
                left = _rows_at_once
            taken = min(left, count - done)
            pieces[-1].append((expert, taken))
            left -= taken
            done += taken
    return pieces
