"""What a plan reads: nodes with a rank and a score, and who holds which expert. Frozen; caches inside, no news.

Holders are a bit matrix [experts of the model, nodes], so that a thousand nodes with ten thousand experts take a
megabyte, and the nodes of one expert are one row.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blyan.network.breaker import State
from blyan.network.measurements import Measured
from blyan.primitives import limits
from blyan.primitives.ids import PayloadId, PublicKey

_rank_step: Final = 1e6  # seconds, beyond any score


class Rank(IntEnum):
    """In which order nodes are asked, whatever their speed; the lowest first."""

    proven = 0
    newcomer = 1  # too little is known: a small share, else like `draining`
    draining = 2
    probe = 3  # its breaker is half-open
    doubtful = 4  # its reputation is below the gate
    broken = 5  # its breaker is open: only when nobody else has the expert
    unreachable = 6  # never asked


@dataclass(frozen=True, slots=True)
class ExpertGrid:
    """The routed experts of a model, numbered by layer and then expert, as in a summary's bitmap."""

    layers: tuple[int, ...]  # those with experts, by their number in the model
    experts: int  # of each

    @property
    def count(self) -> int:
        """How many routed experts there are."""
        return len(self.layers) * self.experts


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node as plans see it."""

    node: PublicKey
    boot: str
    rank: Rank
    score: float  # seconds that a call is expected to take, with what waits there already
    hedge_after: float  # seconds after which a call of ordinary size is late
    draining: bool
    breaker: State
    reputation: float  # lower bound, 0 to 1
    measured: Measured


class Choice(NamedTuple):
    """Who may compute one expert, as indices of nodes."""

    settled: tuple[int, ...]  # the best rank that there is: one of these is asked
    admitted: tuple[int, ...]  # newcomers, which are asked now and then in place of the settled; the same without any
    probes: tuple[int, ...]  # those with a half-open breaker, none of which is in `settled`
    order: tuple[int, ...]  # all that can be asked, the best first
    names: tuple[PublicKey, ...]  # of `order`
    fallbacks: dict[int, tuple[PublicKey, ...]]  # by whoever was asked first: a cache of `after`

    def after(self, chosen: int) -> tuple[PublicKey, ...]:
        """Who is asked when `chosen` fails, in order."""
        others = [name for at, name in zip(self.order, self.names, strict=True) if at != chosen]
        found = self.fallbacks[chosen] = tuple(others[: limits.expert_fallbacks_max])
        return found


@dataclass(frozen=True, slots=True)
class Holders:
    """Who says that it holds which expert of one model, less what turned out untrue."""

    grid: ExpertGrid
    bits: NDArray[np.uint8]  # [experts, ceil(nodes / 8)], node n in bit n % 8 of byte n // 8
    first: Mapping[int, int]  # layer → number of its first expert
    _rows: dict[int, tuple[int, ...]] = field(default_factory=dict[int, tuple[int, ...]], compare=False)

    @classmethod
    def nobody(cls, grid: ExpertGrid) -> Holders:
        """Of a model of which nothing is known."""
        first = {layer: at * grid.experts for at, layer in enumerate(grid.layers)}
        return cls(grid, np.zeros((grid.count, 0), dtype=np.uint8), first)

    def with_nodes(self, said: Mapping[int, bytes]) -> Holders:
        """The same with other bitmaps of some nodes, by their index; what is beyond the model's experts is ignored."""
        width = max(self.bits.shape[1], (max(said, default=0) >> 3) + 1)
        bits = np.zeros((self.grid.count, width), dtype=np.uint8)
        bits[:, : self.bits.shape[1]] = self.bits
        for index, raw in said.items():
            flags = np.unpackbits(np.frombuffer(raw[: (self.grid.count + 7) >> 3], dtype=np.uint8), bitorder="little")[
                : self.grid.count
            ]
            column = bits[:, index >> 3]
            column &= np.uint8(0xFF ^ 1 << (index & 7))
            column[: len(flags)] |= flags << np.uint8(index & 7)
        return Holders(self.grid, bits, self.first)

    def counts(self, among: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Replicas of each expert [experts] on the nodes [n] that count."""
        mask = np.packbits(among, bitorder="little")[: self.bits.shape[1]]
        return np.bitwise_count(self.bits[:, : len(mask)] & mask).sum(axis=1, dtype=np.int64)

    def of(self, number: int) -> tuple[int, ...]:
        """Indices of the nodes with that expert, rising."""
        if number not in self._rows:
            first = number - number % self.grid.experts  # its layer is asked for as a whole
            flags = np.unpackbits(self.bits[first : first + self.grid.experts], axis=1, bitorder="little")
            experts, nodes = np.nonzero(flags)
            ends = np.searchsorted(experts, np.arange(1, self.grid.experts + 1)).tolist()
            listed: list[int] = nodes.tolist()
            begin = 0
            for expert, end in enumerate(ends):
                self._rows[first + expert] = tuple(listed[begin:end])
                begin = end
        return self._rows[number]


class RegistrySnapshot:
    """The registry as of one moment. Two with one version give the same plans for the same draws."""

    __slots__ = ("_by_holders", "_choices", "_keys", "models", "nodes", "probing", "scores", "taken", "version")

    def __init__(
        self, version: int, taken: float, nodes: tuple[NodeView | None, ...], models: Mapping[PayloadId, Holders]
    ) -> None:
        self.version = version
        self.taken = taken  # on the registry's clock
        self.nodes = nodes  # by index; None where there is no node any more
        self.models = models
        self.scores = tuple(0.0 if view is None else view.score for view in nodes)  # by index
        self.probing = any(view is not None and view.rank == Rank.probe for view in nodes)
        # One number to sort by: rank, then score, which no rank's step is smaller than.
        self._keys = tuple(
            math.inf if view is None or view.rank == Rank.unreachable else view.rank * _rank_step + view.score
            for view in nodes
        )
        self._choices: dict[PayloadId, dict[tuple[int, int], Choice | None]] = {}
        self._by_holders: dict[tuple[int, ...], Choice | None] = {}

    def holders(self, manifest: PayloadId, layer: int, expert: int) -> tuple[PublicKey, ...]:
        """Who can be asked for an expert, the best first."""
        choice = self.choice(manifest, layer, expert)
        return () if choice is None else choice.names

    def view(self, index: int) -> NodeView:
        """The node with that index, which a choice names."""
        view = self.nodes[index]
        assert view is not None, "an index of a choice is a node's"
        return view

    def choices(self, manifest: PayloadId) -> dict[tuple[int, int], Choice | None]:
        """Choices that were made before, by layer and expert; `choice` makes others."""
        return self._choices.setdefault(manifest, {})

    def choice(self, manifest: PayloadId, layer: int, expert: int) -> Choice | None:
        """Who may compute an expert, None when nobody can be asked."""
        made = self.choices(manifest)
        key = (layer, expert)
        if key not in made:
            model = self.models.get(manifest)
            first = None if model is None else model.first.get(layer)
            if model is None or first is None or not 0 <= expert < model.grid.experts:
                made[key] = None
            else:
                made[key] = self._among(model.of(first + expert))
        return made[key]

    def _among(self, holders: tuple[int, ...]) -> Choice | None:
        """The choice among these nodes. Experts that lie on the same nodes share it."""
        if holders not in self._by_holders:
            self._by_holders[holders] = self._choose(holders)
        return self._by_holders[holders]

    def _choose(self, holders: tuple[int, ...]) -> Choice | None:
        keys = self._keys
        known = [at for at in holders if at < len(keys)]
        known.sort(key=keys.__getitem__)
        while known and keys[known[-1]] == math.inf:
            known.pop()
        if not known:
            return None
        order = tuple(known)
        names = tuple([self.view(at).node for at in order])
        best = int(keys[order[0]] / _rank_step)
        if keys[order[-1]] < (best + 1) * _rank_step:
            return Choice(order, order, (), order, names, {})
        ranks = [int(keys[at] / _rank_step) for at in order]
        settled = order[: bisect_right(ranks, best)]
        admitted = order[bisect_left(ranks, Rank.newcomer) : bisect_right(ranks, Rank.newcomer)] or settled
        probes = order[bisect_left(ranks, Rank.probe) : bisect_right(ranks, Rank.probe)] if best < Rank.probe else ()
        return Choice(settled, admitted, probes, order, names, {})
