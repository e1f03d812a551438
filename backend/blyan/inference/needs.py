"""What a generation asks of whoever computes, and what it is given.

A generation is a generator: it yields `Need`s and events, and is sent an `Answer` for each need. It knows nothing of
batches, pages and other generations, so that the scheduler may compute its needs with others', in pieces, or twice.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from blyan.model.stepping import Drawing


class Need(NamedTuple):
    """Positions to compute. What was computed from `start` on before is forgotten."""

    start: int  # positions before `tokens`, which the generation has asked for already
    tokens: tuple[int, ...]  # at least one
    scored: int = 0  # for how many of the last positions scores are wanted
    hidden: bool = False  # whether the hidden states of all of `tokens` are wanted
    drafts: int = 0  # how many of the last tokens are guesses, which may be left out with their scores
    reach: int = 0  # how long the sequence is known to become: the prompt's length
    drawing: Drawing | None = None  # with one score wanted: the token that follows is as good as that

    @property
    def end(self) -> int:
        """Positions of the sequence with these."""
        return self.start + len(self.tokens)


class Answer(NamedTuple):
    """What became of a need."""

    scores: NDArray[np.float32]  # [scored, vocab], fewer by the drafts that were left out
    chosen: NDArray[np.int16]  # [n, moe layers, top_k]: the experts of each position that was asked for
    layers: tuple[int, ...]  # the numbers of the moe layers
    hidden: Tensor | None = None  # [n, hidden] if it was wanted
    drafts_max: int = 0  # how many guesses are welcome with the next need
    drawn: int | None = None  # the token that follows, in place of its scores

    def experts(self, begin: int, end: int) -> tuple[tuple[int, int, int], ...]:
        """(layer, expert, tokens) of positions begin … end of those asked for, in order of layer and expert."""
        chosen = self.chosen[begin:end]
        if not chosen.size:
            return ()
        if len(chosen) == 1:  # as almost always: no expert is there twice
            pairs = zip(self.layers, chosen[0].tolist(), strict=True)
            return tuple((layer, expert, 1) for layer, experts in pairs for expert in sorted(experts))
        span = 1 << 16
        places = chosen.astype(np.int64) + np.asarray(self.layers, np.int64)[None, :, None] * span
        found, counts = np.unique(places, return_counts=True)
        layers, experts = np.divmod(found, span)
        return tuple(zip(layers.tolist(), experts.tolist(), counts.tolist(), strict=True))
