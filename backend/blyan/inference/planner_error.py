"""How far predictions were from what came: one number a plan, and by what the next predictions are corrected. Pure.

An error is |predicted - measured| / measured, of predictions as they were given: corrected by earlier answers. The
correction of a plan and model is the median of measured over uncorrected of the last answers, once there are a few;
for the first token the line through them, for something beside steps (waiting, words on their way) takes time too.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Final, NamedTuple

from blyan.inference.prediction import Correction, Prediction, plans
from blyan.model.stepping import PlanName
from blyan.primitives import limits
from blyan.primitives.ids import PayloadId

_answers_min: Final = 3  # before anything is corrected
_ratios: Final = 16  # of which the median is taken
_apart: Final = 1.5  # times, by which two predictions differ that tell of a slope
_ratio_max: Final = 16.0  # beyond it something else is wrong than a prediction


class Came(NamedTuple):
    """What an answer gave."""

    tokens_per_s: float  # after the first token
    first_token_s: float


class _Ratio(NamedTuple):
    """What an answer gave beside what was predicted without correction."""

    rate: float  # measured by predicted
    predicted_s: float  # until the first token
    measured_s: float


class Errors(NamedTuple):
    """Medians over the last answers; None of none."""

    answers: int
    tokens_per_s: float | None
    first_token_s: float | None


@dataclass(slots=True)
class PlannerError:
    """Of one node: its event loop's, but `errors` may be read in any thread."""

    _errors: dict[PlanName, deque[Came]] = field(default_factory=dict["PlanName", "deque[Came]"])
    _ratios: dict[tuple[PayloadId, PlanName], deque[_Ratio]] = field(
        default_factory=dict["tuple[PayloadId, PlanName]", "deque[_Ratio]"]
    )

    def note(self, model: PayloadId, predicted: Prediction, used: Correction, came: Came) -> None:
        """An answer ended. `predicted`: as it was given, `used`: the correction in it."""
        rate, first = predicted.tokens_per_s, predicted.first_token_s
        if rate is None or first is None or min(came) <= 0 or min(rate, first) <= 0:
            return
        errors = self._errors.setdefault(predicted.plan, deque(maxlen=limits.planner_errors_kept))
        errors.append(Came(abs(rate / came.tokens_per_s - 1), abs(first / came.first_token_s - 1)))
        ratios = self._ratios.pop((model, predicted.plan), None) or deque[_Ratio](maxlen=_ratios)
        steps_s = max(first - used.late_s, 1e-6) / used.first
        ratios.append(_Ratio(came.tokens_per_s / (rate / used.rate), steps_s, came.first_token_s))
        self._ratios[model, predicted.plan] = ratios
        if len(self._ratios) > limits.models_timed_max:
            del self._ratios[next(iter(self._ratios))]

    def correction(self, model: PayloadId, plan: PlanName) -> Correction:
        """By what predictions of a plan for a model are multiplied."""
        ratios = self._ratios.get((model, plan), ())
        if len(ratios) < _answers_min:
            return Correction()
        first, late = _line([(each.predicted_s, each.measured_s) for each in ratios])
        return Correction(_bounded(median(each.rate for each in ratios)), _bounded(first), len(ratios), late)

    def corrections(self, model: PayloadId) -> tuple[tuple[PlanName, Correction], ...]:
        """Of all plans for a model."""
        return tuple((plan, self.correction(model, plan)) for plan in plans)

    def errors(self, plan: PlanName | None = None) -> Errors:
        """Of one plan, or of all together."""
        kept = [list(errors) for name, errors in list(self._errors.items()) if plan in (None, name)]
        found = [each for errors in kept for each in errors]
        if not found:
            return Errors(0, None, None)
        return Errors(
            len(found), median(each.tokens_per_s for each in found), median(each.first_token_s for each in found)
        )


def _line(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """Slope and beginning of the line through most points (Theil 1950, Sen 1968); what comes late does not come early.

    Answers whose predictions lie close together tell of a ratio alone.
    """
    ratio = median(measured / predicted for predicted, measured in pairs)
    slopes = [
        (after - before) / (there - here)
        for number, (here, before) in enumerate(pairs)
        for there, after in pairs[number + 1 :]
        if max(here, there) > _apart * min(here, there)
    ]
    if len(slopes) < len(pairs):
        return ratio, 0.0
    slope = _bounded(median(slopes))
    late = median(measured - slope * predicted for predicted, measured in pairs)
    return (slope, late) if late > 0 else (ratio, 0.0)


def _bounded(ratio: float) -> float:
    return min(_ratio_max, max(1 / _ratio_max, ratio))
