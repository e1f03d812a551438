"""How long layers take that a lead computes itself, by its own steps: what trial calls tell of stages. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from blyan.network.measurements import LayerTimes

_few_rows: Final = 4  # at most, of a step that tells of one row
_many_rows: Final = 16  # at least, of one that tells of each row more
_weight: Final = 0.2  # of the newest step
_stale_s: Final = 300.0  # after its last step nothing is known any more: as stages are tried again


class OwnStep(NamedTuple):
    """Layers of one step."""

    by: int  # a number of whoever computed them: of a quicker one what was before tells nothing
    layers: int
    rows: int
    seconds: float
    now: float  # when they were done, on the monotonic clock


NoteOwnStep: TypeAlias = Callable[[OwnStep], None]


@dataclass(slots=True)
class OwnTimes:
    """Of one model. One thread notes, any may look."""

    _by: int = 0
    _layer_s: float | None = None  # of one row
    _row_s: float | None = None  # of each row more
    _at: float = -math.inf

    def note(self, step: OwnStep) -> None:
        """These layers took so long for so many rows."""
        if step.by != self._by:
            self._by, self._layer_s, self._row_s = step.by, None, None
        self._at = step.now
        row = step.seconds / step.layers / step.rows
        if step.rows <= _few_rows:
            self._layer_s = _moved(self._layer_s, row)
        elif step.rows >= _many_rows:
            self._row_s = _moved(self._row_s, row)

    def times(self, now: float) -> LayerTimes | None:
        """As of a stage without a way to it. Rows more take as long as the first until some were measured.

        None before a step with few rows, and long after the last one.
        """
        if self._layer_s is None or now - self._at > _stale_s:
            return None
        row = self._layer_s if self._row_s is None else self._row_s
        return LayerTimes(0.0, self._layer_s, row, math.inf, self._at)


def _moved(before: float | None, seconds: float) -> float:
    return seconds if before is None else before + _weight * (seconds - before)
