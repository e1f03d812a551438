"""Many hidden states to one vector: their mean, divided by its length."""

from __future__ import annotations

import torch
from torch import Tensor


class MeanPool:
    """Takes hidden states as they are computed."""

    def __init__(self, hidden: int) -> None:
        self._total = torch.zeros(hidden, dtype=torch.float64)

    def add(self, states: Tensor) -> None:
        """Hidden states [T, hidden] of T positions."""
        self._total += states.double().sum(0)

    def vector(self) -> tuple[float, ...]:
        """[hidden], of length one. The number of positions falls out of it."""
        return tuple((self._total / torch.linalg.vector_norm(self._total).clamp(min=1e-30)).tolist())
