"""Choices drawn from one seeded generator.

A curriculum makes about ten choices per dialogue; drawing them one by one from torch costs more than the choice, so
they are drawn in runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")

_run = 4096


class Draws:
    """An endless stream of choices; the same seed gives the same choices."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._stream = self._uniform()

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return next(self._stream) < probability

    def fraction(self) -> float:
        """A number from 0 to below 1."""
        return next(self._stream)

    def below(self, bound: int) -> int:
        """An integer from 0 to bound - 1."""
        return int(next(self._stream) * bound)

    def pick(self, choices: Sequence[T]) -> T:
        """One of `choices`, all equally likely."""
        return choices[self.below(len(choices))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in a random order."""
        return [items[i] for i in torch.randperm(len(items), generator=self._generator).tolist()]

    def _uniform(self) -> Iterator[float]:
        while True:
            yield from torch.rand(_run, generator=self._generator, dtype=torch.float64).tolist()
