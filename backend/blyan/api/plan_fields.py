"""What plans should give, as `GET /network/plan` says it."""

from __future__ import annotations

from typing import Any

from blyan.inference.planner import Decision, Held, tie
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
        "if_held": None if decision.held is None else _held(decision.held, shape.answer),
        "advice": _advice(decision),
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


def _held(held: Held, answer: int) -> dict[str, Any]:
    expected = held.prediction
    return {
        "experts": held.experts,
        "bytes": held.size,
        "tokens_per_s": _rounded(expected.tokens_per_s),
        "first_token_s": _rounded(expected.first_token_s),
        "seconds": _rounded(expected.seconds(answer)),
        "times": _rounded(held.times),
        "assumed": list(expected.assumed),
    }


def _advice(decision: Decision) -> dict[str, str] | None:
    """For people, in both languages: when this node alone is faster, or would be with what it lacks."""
    held = decision.held
    if held is not None:
        times, size = f"{float(f'{held.times:.2g}'):g}", f"{held.size / limits.MIB:.1f} MiB"
        what = f"the {held.experts} experts that are not here" if held.experts > 1 else "the expert that is not here"
        least, least_ko = ("at least ", "적어도 ") if held.prediction.assumed else ("", "")
        return {
            "en": f"With {what} ({size}), this node alone would be {least}{times} times as fast.",
            "ko": f"여기에 없는 전문가 {held.experts}개({size})가 있으면 이 노드 혼자서 {least_ko}{times}배 빠릅니다.",
        }
    if decision.plan != "local" or decision.times is None or decision.times < 1 + tie:
        return None
    times = f"{float(f'{decision.times:.2g}'):g}"
    return {
        "en": f"This node alone is {times} times as fast as with others.",
        "ko": f"이 노드 혼자가 다른 노드와 함께할 때보다 {times}배 빠릅니다.",
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
