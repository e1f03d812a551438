"""The jitted stepper: whole steps of a model whose experts are all mapped here.

Weights stay where they are mapped; nothing is copied or converted. A file that changed since it was verified is noticed
after each step and before its results leave. Its numbers are those of the plain path up to the order of sums
(`tests/unit/test_fused_step.py` says how near), and one row's do not depend on the others, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from blyan.model.config import ModelConfig
from blyan.model.eager_step import EagerStepper
from blyan.model.fused_room import Angles
from blyan.model.fused_team import FusedTeam
from blyan.model.parts import layer_part
from blyan.model.stepping import KVPages, Ready, Run, RunResult, nothing
from blyan.model.weight_tables import kinds
from blyan.model.weights import ModelWeights
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import NotComputable

_dense: Final = (torch.float32, torch.bfloat16, torch.float16)


def obstacle(config: ModelConfig, dtype: torch.dtype) -> str | None:
    """Why a model cannot be stepped here: the vectors need multiples of eight; None for all that is usual."""
    widths = {
        "hidden": (config.hidden, 8),
        "head_dim": (config.head_dim, 16),
        "expert_intermediate": (config.expert_intermediate, 8),
        "shared_intermediate": (config.shared_intermediate, 8),
        "dense_intermediate": (config.dense_intermediate if len(config.moe_layers) < config.layers else 0, 8),
    }
    for name, (width, unit) in widths.items():
        if width % unit:
            return f"{name}: expected a multiple of {unit}, found {width}"
    return None if dtype in _dense else f"dtype: expected one of {_dense}, found {dtype}"


def kind_of(weights: ModelWeights, dtype: torch.dtype, layer: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """How matrices are stored, by those of a layer, and how everything else is, as `simd` names it."""
    return stored_as(weights.part(layer_part(layer))["self_attn.q_proj.weight"].dtype, dtype)


def stored_as(matrix: torch.dtype, dtype: torch.dtype) -> tuple[NDArray[Any], NDArray[Any]]:
    """The same, of the types themselves."""
    return kinds[matrix], kinds[dtype]


class FusedStepper:
    """Computes steps of one model with every expert mapped here. `close` ends its threads."""

    def __init__(
        self, weights: ModelWeights, config: ModelConfig, kv: KVPages, threads: int, monotonic: Monotonic
    ) -> None:
        reason = obstacle(config, kv.keys.dtype)
        assert reason is None, reason
        self._weights, self._config = weights, config
        self.team = FusedTeam(weights, config, kv, threads, monotonic, dtype=kv.keys.dtype)
        self._angles = Angles(config, kv.keys.dtype)
        self._plain = EagerStepper(weights, config, kv)

    def step(self, runs: Sequence[Run], ready: Ready = nothing) -> list[RunResult]:
        """See `stepping.Stepper`."""
        if not self._weights.experts_all_resident:  # a budget came with another model
            return self._plain.step(runs, ready)
        rows, scored = sum(len(run.tokens) for run in runs), sum(run.scored for run in runs)
        team = self.team
        team.make_room(rows, sum(len(run.pages) for run in runs))
        scores = np.empty((scored, self._config.vocab_size), np.float32)
        while True:
            angles = team.room.lay_out(runs, self._angles, scores)
            team.compute(rows, ready)
            ready = nothing
            del angles  # read until here
            if team.tables.unchanged(team.room.chosen, rows):
                break
            team.map_again()
        want_finite(team.room.bad[:scored])
        return team.room.results(runs, scores)

    def close(self) -> None:
        """End the other threads."""
        self.team.close()


def want_finite(bad: NDArray[np.int64]) -> None:
    """`NotComputable` if one of the rows is noted as bad."""
    if bad.any():
        raise NotComputable("logits: expected finite numbers, found infinities or NaN (an overflow in this dtype?)")
