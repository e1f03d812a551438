"""Which experts the tokens of a swarm use: seeded topics, each with its own experts in every layer; they drift."""

import numpy as np
from numpy.typing import NDArray

from blyan.inference.snapshot import ExpertGrid


class Traffic:
    """Topics by Zipf's law; most experts of a token are of its topic's group, the rest drawn by how hot they are."""

    def __init__(self, grid: ExpertGrid, per_token: int, seed: int, skew: float = 1.0, own: float = 0.8) -> None:
        self.rng = np.random.default_rng(seed)
        self.grid, self.per_token, self._own = grid, per_token, own
        layers, experts = len(grid.layers), grid.experts
        self.topics = max(4, experts // (2 * per_token))
        self.weights = 1.0 / np.arange(1, self.topics + 1) ** skew
        group = 2 * per_token  # experts of a topic in a layer; groups overlap
        self._groups = np.stack(
            [[self.rng.permutation(experts)[:group] for _ in range(layers)] for _ in range(self.topics)]
        )
        hot = 1.0 / (1 + self.rng.permuted(np.tile(np.arange(experts), (layers, 1)), axis=1)) ** skew
        self._hot = hot / hot.sum(axis=1, keepdims=True)

    def drift(self) -> None:
        """What people talk about is another thing now."""
        self.weights = self.rng.permutation(self.weights)

    def tokens(self, count: int) -> NDArray[np.int32]:
        """The experts [layers, count, per token] of so many tokens."""
        layers, experts, few = len(self.grid.layers), self.grid.experts, self.per_token
        topics = self.rng.choice(self.topics, count, p=self.weights / self.weights.sum())
        weight = np.broadcast_to((1 - self._own) * self._hot[:, None], (layers, count, experts)).copy()
        groups = self._groups[topics].transpose(1, 0, 2)  # [layers, count, group]
        own = np.full(groups.shape, self._own / groups.shape[2])
        np.put_along_axis(weight, groups, np.take_along_axis(weight, groups, 2) + own, 2)
        lots = self.rng.exponential(size=weight.shape) / weight  # the first few of a weighted lottery
        return np.argpartition(lots, few, axis=2)[:, :, :few].astype(np.int32)
