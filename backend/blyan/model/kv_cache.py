"""Keys and values of past positions, per layer, for a batch of equally long sequences.

`KVCache` is contiguous, grown by doubling up to the context length: the plain loop's. Those of sequences that a
scheduler runs lie in pages (`stepping.KVPages`, read through `eager_step.PagedCache`).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from blyan.model.config import ModelConfig

_first_capacity = 256  # positions


class Cache(Protocol):
    """What attention needs of past keys and values, wherever they lie."""

    @property
    def length(self) -> int:
        """Positions that are filled; the next ones follow them."""
        ...

    @property
    def reach(self) -> int:
        """How long the sequence is known to become, 0 if that is not known."""
        ...

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values [B, kv_heads, T, head_dim] after `length`; return all up to there."""
        ...

    def advance(self, positions: int) -> None:
        """Count `positions` more as filled, after every layer has appended."""
        ...


class KVCache:
    """`length` positions are filled; `append` is called once per layer for each new run of positions.

    `reach` is how long the sequence is known to become, such as the prompt's length while it is computed in runs.
    """

    def __init__(self, config: ModelConfig, batch: int = 1, reach: int = 0) -> None:
        self.reach = reach
        self._config = config
        self._batch = batch
        self._keys: list[Tensor | None] = [None] * config.layers  # each [B, kv_heads, capacity, head_dim]
        self._values: list[Tensor | None] = [None] * config.layers
        self.length = 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values [B, kv_heads, T, head_dim] after `length`; return all up to there.

        `length` itself moves only by `advance`, after every layer has appended.
        """
        end = self.length + keys.shape[2]
        held_keys, held_values = self._keys[layer], self._values[layer]
        if held_keys is None or held_values is None or held_keys.shape[2] < end:
            held_keys = self._grown(held_keys, end, keys)
            held_values = self._grown(held_values, end, values)
            self._keys[layer], self._values[layer] = held_keys, held_values
        held_keys[:, :, self.length : end] = keys
        held_values[:, :, self.length : end] = values
        return held_keys[:, :, :end], held_values[:, :, :end]

    def advance(self, positions: int) -> None:
        """Count `positions` more as filled."""
        self.length += positions

    def _grown(self, held: Tensor | None, end: int, like: Tensor) -> Tensor:
        capacity = _first_capacity if held is None else held.shape[2]
        while capacity < end:
            capacity *= 2
        capacity = max(end, min(capacity, self._config.context_length))
        fresh = torch.empty(
            (self._batch, self._config.kv_heads, capacity, self._config.head_dim), dtype=like.dtype, device=like.device
        )
        if held is not None:
            fresh[:, :, : self.length] = held[:, :, : self.length]
        return fresh
