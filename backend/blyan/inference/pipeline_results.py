"""What a step's calls through stages gave, put together for each run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blyan.inference.head_in_turn import HeadInTurn
from blyan.inference.pipeline_pieces import Part, Piece
from blyan.inference.stage_session import Outcome
from blyan.model.config import ModelConfig
from blyan.model.stepping import Run, RunFault, RunResult
from blyan.primitives.errors import Fault, NotComputable
from blyan.wire.stage_draws import not_finite

_not_finite: Final = "layers: expected finite numbers, found others (an overflow in this dtype?)"


@dataclass(slots=True)
class _Given:
    """Of one run, so far."""

    chosen: list[NDArray[Any]] = field(default_factory=list[NDArray[Any]])
    scores: list[NDArray[np.float32]] = field(default_factory=list[NDArray[np.float32]])
    states: list[Tensor] = field(default_factory=list[Tensor])


class Gathered:
    """Of one step. Scores are computed as its pieces come."""

    def __init__(
        self, runs: Sequence[Run], config: ModelConfig, head: HeadInTurn, normed: Callable[[Tensor], Tensor]
    ) -> None:
        self._runs, self._config, self._head, self._normed = runs, config, head, normed
        self._given = [_Given() for _ in runs]
        self._faults: dict[int, Fault] = {}
        self.drawn: dict[int, int] = {}  # run → its token

    def take(self, piece: Piece, outcome: Outcome) -> None:
        """What came of one call."""
        hidden, first = outcome.hidden, 0
        sound = hidden is None or bool(torch.isfinite(hidden).all())
        for place, part in enumerate(piece.parts):
            end = first + part.rows
            if part.index >= 0:
                self._given[part.index].chosen.append(outcome.chosen[:, first:end])
                if hidden is None:
                    self._take_token(part, outcome.tokens[place], asked=piece.draws[place] is not None)
                else:
                    self._take_hidden(part, hidden[first:end], sound=sound)
            first = end

    def results(self) -> list[RunResult | RunFault]:
        """One for each run, in order."""
        none = np.empty((0, self._config.vocab_size), np.float32)
        return [
            RunFault(self._faults[index])
            if index in self._faults
            else RunResult(
                _joined(given.scores) if given.scores else none,
                np.concatenate(given.chosen, axis=1),
                torch.cat(given.states) if given.states else None,
                self.drawn.get(index),
            )
            for index, given in enumerate(self._given)
        ]

    def _take_token(self, part: Part, token: int, *, asked: bool) -> None:
        if token == not_finite:
            self._faults.setdefault(part.index, NotComputable(_not_finite))
        elif asked:
            self.drawn[part.index] = token

    def _take_hidden(self, part: Part, hidden: Tensor, *, sound: bool) -> None:
        run, given = self._runs[part.index], self._given[part.index]
        if not sound and not bool(torch.isfinite(hidden).all()):
            self._faults.setdefault(part.index, NotComputable(_not_finite))
        if run.hidden:
            given.states.append(self._normed(hidden))
        scored = max(0, part.end - max(part.begin, len(run.tokens) - run.scored))
        if scored and part.index not in self._faults:
            try:
                given.scores.append(self._head.current().scores(hidden[len(hidden) - scored :]))
            except Fault as reason:
                self._faults[part.index] = reason


def _joined(scores: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return scores[0] if len(scores) == 1 else np.concatenate(scores)
