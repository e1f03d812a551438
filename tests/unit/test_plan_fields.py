"""What people are told of plans: when this node alone is faster, or would be with what it lacks."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from blyan.api import network_schemas
from blyan.api.plan_fields import plan_fields
from blyan.inference.call_times import CallTimes, Spread
from blyan.inference.planner import choose
from blyan.inference.planner_error import PlannerError
from blyan.inference.prediction import Delegate, Shape
from blyan.node.planning import Planned
from situations import FAR, MODEL, SHAPE, alone, curve, parted


def said(situation: Any, shape: Shape = SHAPE) -> Any:
    """As it is answered, and fits the schema."""
    planned = Planned(MODEL, situation, shape, (), choose(situation, shape))
    found = plan_fields(planned, PlannerError())
    schema = {**network_schemas.plan, "required": list(found), "additionalProperties": False}
    jsonschema.validate(found, schema)
    return found


def test_what_this_node_would_give_with_what_it_lacks_is_said_in_numbers_and_both_languages() -> None:
    found = said(parted(0.02, local=curve(0.01, 0.1), missing_bytes=3 * 2**20))
    held = found["if_held"]
    assert (held["experts"], held["bytes"], held["assumed"]) == (8, 3 * 2**20, [])
    assert (held["tokens_per_s"], held["first_token_s"], held["seconds"]) == pytest.approx((100, 0.1, 1.1))
    assert held["times"] == pytest.approx(4.12, abs=0.01)
    assert found["advice"] == {
        "en": "With the 8 experts that are not here (3.0 MiB), this node alone would be 4.1 times as fast.",
        "ko": "여기에 없는 전문가 8개(3.0 MiB)가 있으면 이 노드 혼자서 4.1배 빠릅니다.",
    }
    one = said(parted(0.02, local=curve(0.01, 0.1), missing=1))
    assert one["advice"]["en"].startswith("With the expert that is not here (0.0 MiB), this")
    least = said(parted(0.02, here=0.25))
    assert "this node alone would be at least 2.3 times as fast." in least["advice"]["en"]
    assert "혼자서 적어도 2.3배" in least["advice"]["ko"]
    assert least["if_held"]["assumed"]


def test_it_is_said_when_this_node_alone_is_faster_and_only_then() -> None:
    call = CallTimes(FAR, None, None, 0.02)
    faster = alone(callees=(call,), spreads=(Spread(2, ((0, 1.0),)),))
    found = said(faster)
    assert (found["chosen"], found["if_held"]) == ("local", None)
    assert found["advice"] == {
        "en": "This node alone is 3.7 times as fast as with others.",
        "ko": "이 노드 혼자가 다른 노드와 함께할 때보다 3.7배 빠릅니다.",
    }
    tie = alone(delegate=Delegate(FAR, curve(0.0098, 0.098), 0.0), offered=frozenset({"local", "static_delegate"}))
    assert (said(tie)["chosen"], said(tie)["than"], said(tie)["advice"]) == ("local", "static_delegate", None)
    assert said(alone())["advice"] is None
    assert said(parted(0.02))["advice"] is None
