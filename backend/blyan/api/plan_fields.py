"""What plans should give, as `GET /network/plan` says it."""

from __future__ import annotations

from typing import Any

from blyan.inference.planner_error import Errors, PlannerError
from blyan.inference.prediction import Prediction, plans
from blyan.node.planning import Planned
from blyan.primitives import limits


def plan_fields(planned: Planned, errors: PlannerError) -> dict[str, Any]:
    """The request, the plan, every prediction, and how far those of the last answers were off."""
    shape, decision = planned.shape, planned.decision
    corrected = {plan: by.answers for plan, by in planned.corrections}
    told = {plan: found for plan in plans if (found := errors.errors(plan)).answers}
    return {
        "request": {"prompt_tokens": shape.prompt, "tokens": shape.answer, "beside": shape.beside},
        "chosen": decision.plan,
        "said": decision.said,
        "than": decision.than,
        "times": _rounded(decision.times),
        "predictions": [
            {**_prediction(each, planned), "corrected_by": corrected.get(each.plan, 0)} for each in decision.predictions
        ],
        "error": {**_errors(errors.errors()), "plans": {plan: _errors(each) for plan, each in told.items()}},
    }


def _prediction(each: Prediction, planned: Planned) -> dict[str, Any]:
    return {
        "plan": each.plan,
        "possible": each.possible,
        "offered": each.possible and each.plan in planned.situation.offered,
        "why": each.why,
        "tokens_per_s": _rounded(each.tokens_per_s),
        "first_token_s": _rounded(each.first_token_s),
        "seconds": _rounded(each.seconds(planned.shape.answer)),
        "not_measured": list(each.not_measured),
        "assumed": list(each.assumed),
        "nodes": list(each.nodes[: limits.nodes_shown_max]),
    }


def _errors(found: Errors) -> dict[str, Any]:
    return {
        "answers": found.answers,
        "tokens_per_s": _rounded(found.tokens_per_s),
        "first_token_s": _rounded(found.first_token_s),
    }


def _rounded(value: float | None) -> float | None:
    """Six digits that count."""
    return None if value is None else float(f"{value:.6g}")
