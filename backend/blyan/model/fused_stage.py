"""A range of a model's layers, and its head, in jitted code: stretches of the whole step.

Hidden states are put where the whole step would have them. So a row of a pipeline's is the whole step's, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blyan.model import fused_layout as at
from blyan.model.config import ModelConfig
from blyan.model.fused_room import Angles
from blyan.model.fused_step import want_finite
from blyan.model.fused_team import FusedTeam
from blyan.model.parts import part_position
from blyan.model.stage_step import EagerLayers
from blyan.model.stepping import KVPages, Run, Stretch, nothing, page_positions
from blyan.model.weights import ModelWeights
from blyan.primitives.clock import Monotonic

_patience: Final = 2_000  # looks for a next stretch before a thread sleeps: others need the cores meanwhile


class FusedLayers:
    """Implements `stepping.LayerStepper` with every expert of its layers mapped here. `close` ends its threads."""

    def __init__(
        self,
        weights: ModelWeights,
        config: ModelConfig,
        kv: KVPages,
        threads: int,
        monotonic: Monotonic,
        layers: range,
    ) -> None:
        assert len(layers), "a stage has layers"
        self._weights, self._config, self._layers = weights, config, layers
        self._dtype = kv.keys.dtype
        self._team = FusedTeam(
            weights,
            config,
            kv,
            threads,
            monotonic,
            dtype=self._dtype,
            held=partial(_of_layers, layers),
            patience=_patience,
        )
        self._angles = Angles(config, self._dtype)
        self._plain = EagerLayers(weights, config, kv, layers)
        moe = [number for number, layer in enumerate(config.moe_layers) if layer in layers]
        self._moe = slice(moe[0], moe[-1] + 1) if moe else slice(0, 0)

    def through(self, hidden: Tensor, runs: Sequence[Stretch]) -> tuple[Tensor, NDArray[np.int32]]:
        """See `stepping.LayerStepper`."""
        if not self._weights.experts_all_resident:
            return self._plain.through(hidden, runs)
        rows, team = len(hidden), self._team
        made = [Run((0,) * run.rows, run.start, run.pages, reach=run.reach) for run in runs]
        team.make_room(rows, sum(len(run.pages) for run in runs))
        given = hidden.float().numpy()
        scores = np.empty((0, self._config.vocab_size), np.float32)
        begin, end = at.attention_of(self._layers.start), at.attention_of(self._layers.stop)
        while True:
            angles = team.room.lay_out(made, self._angles, scores)
            team.room.rows_at(at.X)[:rows] = given
            team.stretch(begin, end, rows, nothing, team.pace)
            del angles  # read until here
            if team.tables.unchanged(team.room.chosen, rows):
                break
            team.map_again()
        states = torch.from_numpy(team.room.rows_at(at.X)[:rows].copy()).to(self._dtype)
        return states, team.room.chosen[self._moe, :rows].astype(np.int32)

    def close(self) -> None:
        """End the other threads."""
        self._team.close()


class FusedHead:
    """Final norm and scores. Implements `stage_step.Head`. `close` ends its threads."""

    def __init__(
        self, weights: ModelWeights, config: ModelConfig, dtype: torch.dtype, threads: int, monotonic: Monotonic
    ) -> None:
        self._config = config
        held = ("head", "embed") if config.tied_embeddings else ("head",)
        self._team = FusedTeam(
            weights,
            config,
            KVPages(config, dtype, 1, range(0)),
            threads,
            monotonic,
            dtype=dtype,
            held=held.__contains__,
            patience=_patience,
        )
        self._angles = Angles(config, dtype)

    def scores(self, hidden: Tensor) -> NDArray[np.float32]:
        """See `stage_step.Head`."""
        count, layers, team = len(hidden), self._config.layers, self._team
        run = Run((0,) * count, 0, (0,) * -(-count // page_positions), count)
        team.make_room(count, len(run.pages))
        given = hidden.float().numpy()
        scores = np.empty((count, self._config.vocab_size), np.float32)
        while True:
            angles = team.room.lay_out([run], self._angles, scores)
            # the last layer's mixture goes before the final norm: of a layer that is not held it is what stands there
            team.room.rows_at(at.X)[:count] = given
            team.room.rows_at(at.LOWERED)[:count] = 0.0
            team.stretch(at.mixture_of(layers - 1), at.scores_of(layers) + 1, count, nothing, team.pace)
            del angles
            if team.tables.unchanged(team.room.chosen, count):
                break
            team.map_again()
        want_finite(team.room.bad[:count])
        return scores

    def close(self) -> None:
        """End the other threads."""
        self._team.close()


def _of_layers(layers: range, part: str) -> bool:
    return part_position(part)[0] in layers
