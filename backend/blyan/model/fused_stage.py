"""A range of a model's layers, and its head, in jitted code: the same code as the whole step's, given other tables.

Hidden states come in the place of embeddings, and leave before the next norm. So a row of a pipeline's is the whole
step's, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blyan.model.config import ModelConfig
from blyan.model.fused_layout import X
from blyan.model.fused_step import FusedThreads
from blyan.model.stage_step import EagerLayers
from blyan.model.stepping import KVPages, Run, Stretch, nothing, page_positions
from blyan.model.weights import ModelWeights
from blyan.primitives.clock import Monotonic


class FusedLayers(FusedThreads):
    """Implements `stepping.LayerStepper` with every expert of its layers mapped here."""

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
        super().__init__(weights, config, kv, threads, monotonic, layers)
        self._dtype = kv.keys.dtype
        self._plain = EagerLayers(weights, config, kv, layers)

    def through(self, hidden: Tensor, runs: Sequence[Stretch]) -> tuple[Tensor, NDArray[np.int32]]:
        """See `stepping.LayerStepper`."""
        if not self._weights.experts_all_resident:
            return self._plain.through(hidden, runs)
        hidden = hidden.contiguous()
        made: list[Run] = []
        first = 0
        for run in runs:
            rows = tuple(range(first, first + run.rows))
            made.append(Run(rows, run.start, run.pages, reach=run.reach))
            first += run.rows
        self._stepped(made, nothing, hidden)
        return self._room.states(X, 0, first).to(self._dtype), self._room.experts()


class FusedHead(FusedThreads):
    """Final norm and scores. Implements `stage_step.Head`."""

    def __init__(
        self, weights: ModelWeights, config: ModelConfig, dtype: torch.dtype, threads: int, monotonic: Monotonic
    ) -> None:
        super().__init__(weights, config, KVPages(config, dtype, 1, range(0)), threads, monotonic, range(0))

    def scores(self, hidden: Tensor) -> NDArray[np.float32]:
        """See `stage_step.Head`."""
        count = len(hidden)
        run = Run(tuple(range(count)), 0, (0,) * -(-count // page_positions), count)
        return self._stepped([run], nothing, hidden.contiguous())
