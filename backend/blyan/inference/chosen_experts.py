"""Which experts computed each position: kept beside its keys, so that a reused prefix tells of them too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from blyan.model.config import ModelConfig
from blyan.model.stepping import page_positions


class ChosenExperts:
    """The experts of every position of `pages` pages."""

    def __init__(self, config: ModelConfig, pages: int) -> None:
        self.layers = tuple(config.moe_layers)
        self._chosen = np.empty((pages, page_positions, len(self.layers), config.experts_per_token), np.int16)

    def put(self, pages: Sequence[int], begin: int, chosen: NDArray[np.int32]) -> None:
        """Those [moe layers, n, top_k] of a sequence's positions from `begin` on."""
        if chosen.shape[1] == 1:  # as almost always
            page, place = divmod(begin, page_positions)
            self._chosen[pages[page], place] = chosen[:, 0]
        else:
            self._chosen[_places(pages, begin, begin + chosen.shape[1])] = chosen.transpose(1, 0, 2)

    def of(self, pages: Sequence[int], begin: int, end: int) -> NDArray[np.int16]:
        """Those [n, moe layers, top_k] of a sequence's positions begin … end."""
        if end == begin + 1:
            page, place = divmod(begin, page_positions)
            return self._chosen[pages[page], place : place + 1]
        return self._chosen[_places(pages, begin, end)]

    def close(self) -> None:
        """Give the memory back."""
        self._chosen = self._chosen[:0].copy()


def _places(pages: Sequence[int], begin: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Page and place within the page of each position."""
    first = begin // page_positions
    numbers = np.asarray(pages[first : -(-end // page_positions)], np.int64)
    pages_, places = np.divmod(np.arange(begin, end, dtype=np.int64), page_positions)
    return numbers[pages_ - first], places
