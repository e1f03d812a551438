"""How far predictions were from what came: one number a plan, and by what the next predictions are corrected. Pure.

An error is |predicted - measured| / measured, of predictions as they were given: corrected by earlier answers. The
correction of a plan and model is the median of measured over uncorrected of the last answers, once there are a few.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Final, NamedTuple

from blyan.inference.planner import Correction, Prediction, plans
from blyan.model.stepping import PlanName
from blyan.primitives import limits
from blyan.primitives.ids import PayloadId

_answers_min: Final = 3  # before anything is corrected
_ratios: Final = 16  # of which the median is taken
_ratio_max: Final = 16.0  # beyond it something else is wrong than a prediction


class Came(NamedTuple):
    """What an answer gave."""

    tokens_per_s: float  # after the first token
    first_token_s: float


class Errors(NamedTuple):
    """Medians over the last answers; None of none."""

    answers: int
    tokens_per_s: float | None
    first_token_s: float | None


@dataclass(slots=True)
class PlannerError:
    """Of one node: its event loop's, but `errors` may be read in any thread."""

    _errors: dict[PlanName, deque[Came]] = field(default_factory=dict["PlanName", "deque[Came]"])
    _ratios: dict[tuple[PayloadId, PlanName], deque[Came]] = field(
        default_factory=dict["tuple[PayloadId, PlanName]", "deque[Came]"]
    )

    def note(self, model: PayloadId, predicted: Prediction, used: Correction, came: Came) -> None:
        """An answer ended. `predicted`: as it was given, `used`: the correction in it."""
        rate, first = predicted.tokens_per_s, predicted.first_token_s
        if rate is None or first is None or min(came) <= 0 or min(rate, first) <= 0:
            return
        errors = self._errors.setdefault(predicted.plan, deque(maxlen=limits.planner_errors_kept))
        errors.append(Came(abs(rate / came.tokens_per_s - 1), abs(first / came.first_token_s - 1)))
        ratios = self._ratios.pop((model, predicted.plan), None) or deque[Came](maxlen=_ratios)
        ratios.append(Came(came.tokens_per_s / (rate / used.rate), came.first_token_s / (first / used.first)))
        self._ratios[model, predicted.plan] = ratios
        if len(self._ratios) > limits.models_timed_max:
            del self._ratios[next(iter(self._ratios))]

    def correction(self, model: PayloadId, plan: PlanName) -> Correction:
        """By what predictions of a plan for a model are multiplied."""
        ratios = self._ratios.get((model, plan), ())
        if len(ratios) < _answers_min:
            return Correction()
        rate = median(each.tokens_per_s for each in ratios)
        first = median(each.first_token_s for each in ratios)
        return Correction(_bounded(rate), _bounded(first), len(ratios))

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


def _bounded(ratio: float) -> float:
    return min(_ratio_max, max(1 / _ratio_max, ratio))
