"""How long layers take that a lead computes itself, by its own steps: what trial calls tell of stages. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from blyan.network.measurements import LayerTimes

_few_rows: Final = 4  # at most, of a step that tells of one row
_many_rows: Final = 16  # at least, of one that tells of each row more
_weight: Final = 0.2  # of the newest step


@dataclass(slots=True)
class OwnTimes:
    """Of one model. One thread notes, any may look."""

    _layer_s: float | None = None  # of one row
    _row_s: float | None = None  # of each row more

    def note(self, layers: int, rows: int, seconds: float) -> None:
        """So many layers took so long for so many rows."""
        layer = seconds / layers
        if rows <= _few_rows:
            self._layer_s = _moved(self._layer_s, layer / rows)
        elif rows >= _many_rows:
            self._row_s = _moved(self._row_s, layer / rows)

    def times(self, now: float) -> LayerTimes | None:
        """As of a stage without a way to it; None before a step with few rows. Rows more take as long till measured."""
        if self._layer_s is None:
            return None
        return LayerTimes(0.0, self._layer_s, self._layer_s if self._row_s is None else self._row_s, math.inf, now)


def _moved(before: float | None, seconds: float) -> float:
    return seconds if before is None else before + _weight * (seconds - before)
