"""The plain way through a range of a model's layers, and from the last of them to scores: with torch.

As in the plain stepper (`eager_step`), each run's rows are computed by themselves: what it gives does not depend on the
others, and is that stepper's, bit for bit. The jitted way (`fused_stage`) is held to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blyan.model.attention import rms_norm
from blyan.model.config import ModelConfig
from blyan.model.eager_step import PagedCache, scores_of
from blyan.model.experts import ExpertCall
from blyan.model.gate import Routing
from blyan.model.stage import Forward, LayerWeights, through
from blyan.model.stepping import KVPages, LayerStepper, Stretch, page_positions
from blyan.model.transformer import TrunkWeights, drive_together
from blyan.model.weights import ModelWeights


class StageWeights(LayerWeights, Protocol):
    """The trunk of some layers and their routed experts."""

    def answer_together(self, calls: Sequence[ExpertCall]) -> list[Tensor]:
        """What the one expert that all these calls are for gives [n, hidden] for each by itself."""
        ...


class Head(Protocol):
    """What comes after the last layer."""

    def scores(self, hidden: Tensor) -> NDArray[np.float32]:
        """Scores [n, vocab] of hidden states [n, hidden] before the final norm, n at least 1.

        `NotComputable` if they are not finite.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


OfferLayers: TypeAlias = Callable[[Callable[[], LayerStepper]], None]


@dataclass(frozen=True, slots=True)
class StagedModel:
    """A model of which this node computes layers for others."""

    name: str
    config: ModelConfig
    weights: ModelWeights
    dtype: torch.dtype
    holds: Callable[[range], bool]  # whether all of these layers are here
    has: Callable[[str], bool]  # whether one of the trunk's parts that are no layers is

    @property
    def embeds(self) -> bool:
        """Whether embeddings are here."""
        return self.has("embed")

    @property
    def scores(self) -> bool:
        """Whether all that comes after the last layer is here."""
        return self.has("head") and (self.embeds or not self.config.tied_embeddings)


class EagerLayers:
    """Implements `stepping.LayerStepper`."""

    def __init__(self, weights: StageWeights, config: ModelConfig, kv: KVPages, layers: range) -> None:
        self._weights, self._config, self._kv, self._layers = weights, config, kv, layers

    @torch.inference_mode()
    def through(self, hidden: Tensor, runs: Sequence[Stretch]) -> tuple[Tensor, NDArray[np.int32]]:
        """See `stepping.LayerStepper`."""
        chosen: list[list[Tensor]] = [[] for _ in runs]
        pieces = hidden.split([run.rows for run in runs])
        passes = [self._begun(piece, run, noted) for piece, run, noted in zip(pieces, runs, chosen, strict=True)]
        outputs = [given[0] for given in drive_together(passes, self._weights.answer_together)]
        experts = [self._stacked(noted, run.rows) for noted, run in zip(chosen, runs, strict=True)]
        if len(runs) == 1:
            return outputs[0], experts[0]
        return torch.cat(outputs), np.concatenate(experts, axis=1)

    def close(self) -> None:
        """Nothing is held."""

    def _begun(self, hidden: Tensor, run: Stretch, chosen: list[Tensor]) -> Forward:
        """A run before the first of the layers; its experts [n, top_k] of each MoE layer go to `chosen`."""
        assert len(run.pages) * page_positions >= run.start + run.rows, "the pages reach to the run's end"

        def observe(_layer: int, routing: Routing) -> None:
            chosen.append(routing.chosen)

        cache = PagedCache(self._kv, run.pages, run.start, run.reach)
        return through(self._weights, self._config, self._layers, hidden.unsqueeze(0), cache, observe)

    def _stacked(self, chosen: Sequence[Tensor], rows: int) -> NDArray[np.int32]:
        """[moe layers, rows, top_k]"""
        if not chosen:
            return np.empty((0, rows, self._config.experts_per_token), np.int32)
        return torch.stack(list(chosen)).to(torch.int32).numpy()


class EagerHead:
    """Implements `Head`."""

    def __init__(self, weights: TrunkWeights, config: ModelConfig) -> None:
        self._weights, self._config = weights, config

    @torch.inference_mode()
    def scores(self, hidden: Tensor) -> NDArray[np.float32]:
        """See `Head`."""
        normed = rms_norm(hidden, self._weights.head()["norm.weight"], self._config.rms_eps)
        return scores_of(self._weights, self._config, normed, len(normed))

    def close(self) -> None:
        """Nothing is held."""
