"""The plain stepper: the runs of a step side by side through the transformer's expert-call seam, every expert here.

They meet only where an expert that several chose is not in memory: it is read once a step. Each run's rows are computed
by themselves, so what it gives cannot depend on the others. This is the reference that the jitted stepper is held to,
and computes where that one is not ready or not possible. One sequence at a time, its numbers are the plain loop's
(`generate`), bit for bit, if its positions are cut into the same runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from blyan.model.config import ModelConfig
from blyan.model.experts import ExpertCall
from blyan.model.gate import Routing
from blyan.model.likeliest import Scores, are_finite
from blyan.model.stage import Forward
from blyan.model.stepping import KVPages, Ready, Run, RunResult, nothing, page_positions
from blyan.model.transformer import TrunkWeights, drive_together, forward, logits
from blyan.primitives.errors import NotComputable


class LocalWeights(TrunkWeights, Protocol):
    """The trunk and every routed expert."""

    def answer_together(self, calls: Sequence[ExpertCall]) -> list[Tensor]:
        """What the one expert that all these calls are for gives [n, hidden] for each by itself."""
        ...


class PagedCache:
    """One sequence's keys and values in pages, as attention wants them. Implements `kv_cache.Cache`."""

    def __init__(self, kv: KVPages, pages: Sequence[int], length: int, reach: int) -> None:
        self._kv = kv
        self._pages = torch.tensor(pages, dtype=torch.int64)
        self.length = length
        self.reach = reach

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values [1, kv_heads, T, head_dim] after `length`; return all up to there, gathered."""
        end = self.length + keys.shape[2]
        at = layer - self._kv.first
        return self._placed(self._kv.keys[at], keys, end), self._placed(self._kv.values[at], values, end)

    def advance(self, positions: int) -> None:
        """Count `positions` more as filled."""
        self.length += positions

    def _placed(self, paged: Tensor, new: Tensor, end: int) -> Tensor:
        """`new` [1, kv_heads, T, head_dim] into `paged` [pages, kv_heads, page_positions, head_dim]; all of 0 … end."""
        positions = torch.arange(self.length, end)
        # indices on both sides of a slice: what they pick comes first, [T, kv_heads, head_dim]
        paged[self._pages[positions // page_positions], :, positions % page_positions] = (
            new[0].transpose(0, 1).to(paged.dtype)
        )
        used = -(-end // page_positions)
        gathered = paged[self._pages[:used]].transpose(0, 1)  # [kv_heads, used, page_positions, head_dim]
        return gathered.reshape(1, gathered.shape[0], -1, gathered.shape[3])[:, :, :end].to(new.dtype)


class EagerStepper:
    """Computes runs with torch, layer by layer. Implements `stepping.Stepper`.

    Memory beside the pages: the hidden states of all runs and what experts make of them in one layer, the gathered keys
    and values of one run in one layer, and all scores; so callers bound the sums of `len(run.tokens)` and `run.scored`.
    """

    def __init__(self, weights: LocalWeights, config: ModelConfig, kv: KVPages) -> None:
        self._weights = weights
        self._config = config
        self._kv = kv

    @torch.inference_mode()
    def step(self, runs: Sequence[Run], ready: Ready = nothing) -> list[RunResult]:
        """One result per run, in order. `NotComputable` if scores are not finite, and whatever opening a block raises;
        then the pages of the runs are undefined from each run's `start` on."""
        ready()
        chosen: list[list[Tensor]] = [[] for _ in runs]
        passes = [self._begun(run, noted) for run, noted in zip(runs, chosen, strict=True)]
        hidden = drive_together(passes, self._weights.answer_together)
        return [
            result_of(self._weights, self._config, run, states[0], noted)
            for run, states, noted in zip(runs, hidden, chosen, strict=True)
        ]

    def close(self) -> None:
        """Nothing is held."""

    def _begun(self, run: Run, chosen: list[Tensor]) -> Forward:
        """A run before its first layer; its experts [n, top_k] of each MoE layer go to `chosen`."""
        count = len(run.tokens)
        assert count and 0 <= run.scored <= count, "a run has positions, and scores at most those"
        assert len(run.pages) * page_positions >= run.start + count, "the pages reach to the run's end"

        def observe(_layer: int, routing: Routing) -> None:
            chosen.append(routing.chosen)

        cache = PagedCache(self._kv, run.pages, run.start, run.reach)
        tokens = torch.tensor([run.tokens], dtype=torch.int64)
        return forward(self._weights, self._config, tokens, cache, observe)


def result_of(
    weights: TrunkWeights, config: ModelConfig, run: Run, hidden: Tensor, chosen: Sequence[Tensor]
) -> RunResult:
    """What a run gave, of its final hidden states [n, hidden] and the experts chosen [n, top_k] in each MoE layer.

    `NotComputable` if scores are not finite.
    """
    experts = np.empty((0, len(run.tokens), config.experts_per_token), dtype=np.int32)
    if chosen:
        experts = torch.stack(list(chosen)).to(torch.int32).numpy()
    scores = scores_of(weights, config, hidden, run.scored)
    return RunResult(scores, experts, hidden if run.hidden else None)


def scores_of(weights: TrunkWeights, config: ModelConfig, hidden: Tensor, scored: int) -> Scores:
    """Scores [scored, vocab] of the last so many final hidden states [n, hidden]; `NotComputable` if not finite."""
    if not scored:
        return np.empty((0, config.vocab_size), np.float32)
    # one row as a vector: another kernel than a matrix of one row, and the one that the plain loop uses
    rows = hidden[-1] if scored == 1 else hidden[-scored:]
    scores = logits(weights, config, rows).float().view(scored, -1).numpy()
    if not are_finite(scores):
        raise NotComputable("logits: expected finite numbers, found infinities or NaN (an overflow in this dtype?)")
    return scores
