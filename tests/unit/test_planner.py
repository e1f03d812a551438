"""What each plan should give, from what was measured; which one is taken; how far predictions were off."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blyan.inference.call_times import Calls, CallTimes, Spread
from blyan.inference.partition import Stage, StagePlan
from blyan.inference.planner import Decision, choose
from blyan.inference.planner_error import Came, PlannerError
from blyan.inference.prediction import (
    Correction,
    Delegate,
    Prediction,
    Shape,
    Situation,
    plans,
    predict,
)
from blyan.inference.step_times import Curve, StepSeen, StepTimes
from blyan.inference.trying import Doubt
from blyan.model.stepping import PlanName
from blyan.primitives.ids import PayloadId
from situations import FAR, MODEL, NEAR, SHAPE, alone, curve, parted


def one(found: tuple[Prediction, ...], plan: PlanName) -> Prediction:
    return found[plans.index(plan)]


def test_local_takes_the_steps_of_its_prompt_and_then_one_for_each_token() -> None:
    found = one(predict(alone(), SHAPE), "local")
    assert (found.tokens_per_s, found.first_token_s) == (pytest.approx(100), pytest.approx(0.1))
    assert found.seconds(101) == pytest.approx(0.1 + 100 * 0.01)
    assert found.not_measured == found.assumed == ()


def test_a_long_prompt_takes_several_steps() -> None:
    found = one(predict(alone(), Shape(640, 11, chunk=64)), "local")
    assert found.first_token_s == pytest.approx(1.0)


def test_what_was_not_measured_is_named_and_has_no_numbers() -> None:
    found = one(predict(alone(local=Curve()), SHAPE), "local")
    assert (found.possible, found.tokens_per_s, found.first_token_s) == (True, None, None)
    assert found.not_measured == ("steps of 64 tokens",)
    beside = one(predict(alone(), Shape(64, 10, beside=2)), "local")
    assert beside.not_measured == ("steps of 66 tokens of 3 generations",)


def test_a_prompt_longer_than_any_measured_is_predicted_and_said_to_be() -> None:
    found = one(predict(alone(), Shape(512, 10)), "local")
    assert found.first_token_s == pytest.approx(0.8)
    assert found.assumed == ("steps of 512 tokens take as long a token as smaller ones",)


def test_dynamic_waits_in_each_layer_for_the_slowest_node_that_is_asked() -> None:
    both = (CallTimes(NEAR, 0.001, 0.0, 0.001), CallTimes(FAR, 0.02, 0.0, 0.02))
    near = one(predict(parted(0.02), SHAPE), "dynamic")
    assert near.tokens_per_s == pytest.approx(1 / (0.004 + 2 * 0.02))
    slowest = parted(0, callees=both, spreads=(Spread(2, ((0, 1.0), (1, 1.0))),))
    assert one(predict(slowest, SHAPE), "dynamic").tokens_per_s == pytest.approx(near.tokens_per_s)
    seldom = parted(0, callees=both, spreads=(Spread(2, ((0, 1.0), (1, 0.25))),))
    chance = 1 - 0.75**2
    expected = 0.004 + 2 * (0.02 * chance + 0.001 * (1 - chance))
    assert one(predict(seldom, SHAPE), "dynamic").tokens_per_s == pytest.approx(1 / expected)


def test_what_steps_waited_counts_as_long_as_calls_take_what_they_took() -> None:
    """Of prompts too, whose calls are rare; a node that has become slow is seen in its calls first."""
    steps = StepTimes()
    steps.add(MODEL, StepSeen("dynamic", 0.014, 0.01, 1, 1, 100))
    steps.add(MODEL, StepSeen("dynamic", 0.5, 0.3, 1, 64, 0))
    known = steps.curve(MODEL, "dynamic")
    same = one(predict(parted(0.004, dynamic=known), SHAPE), "dynamic")
    assert (same.tokens_per_s, same.first_token_s) == (pytest.approx(1 / 0.014), pytest.approx(0.5))
    slow = one(predict(parted(0.05, dynamic=known), SHAPE), "dynamic")
    assert slow.tokens_per_s == pytest.approx(1 / (0.004 + 2 * 0.05))
    assert slow.first_token_s == pytest.approx(0.5 + 2 * 0.05 - 0.01)


def test_calls_that_were_never_made_are_not_guessed() -> None:
    unknown = parted(0, callees=(CallTimes(NEAR, None, None, None),))
    assert one(predict(unknown, SHAPE), "dynamic").not_measured == (f"round trip to {'1' * 12}",)
    pinged = one(predict(parted(0, callees=(CallTimes(NEAR, None, None, 0.02),)), SHAPE), "dynamic")
    assert pinged.tokens_per_s == pytest.approx(1 / 0.044)
    assert pinged.assumed == (f"calls of {'1' * 12} take a round trip",)
    never = one(predict(parted(0.01, dynamic=Curve()), SHAPE), "dynamic")
    assert never.not_measured == ("steps of 64 tokens with other nodes",)


def test_experts_that_nobody_has_make_every_plan_impossible() -> None:
    made = choose(parted(0.01, nobody=3), SHAPE)
    assert (made.plan, [each.possible for each in made.predictions]) == (None, [False] * 4)
    assert "3 experts are neither here nor at a node that answers" in made.said


def test_local_is_said_to_be_faster_where_others_have_the_experts_too() -> None:
    """At best two round trips a token, if nothing else took time."""
    call = CallTimes(FAR, None, None, 0.02)
    made = choose(alone(callees=(call,), spreads=(Spread(2, ((0, 1.0),)),)), SHAPE)
    assert made.plan == "local"
    assert made.said == "local: 100.0 tokens/s, 3.7 times as fast as dynamic"
    assert made.of("dynamic").tokens_per_s == pytest.approx(1 / 0.04)
    assert any("at most" in each for each in made.of("dynamic").assumed)


def test_why_others_are_not_asked_for_experts_that_are_all_here_is_said() -> None:
    offered = frozenset({"local", "static_delegate", "pipeline"})
    missing = replace(parted(0.02), missing=0)
    assert "but not asked: they are here too" in one(predict(replace(missing, offered=offered), SHAPE), "dynamic").why
    assert "not asked" not in one(predict(missing, SHAPE), "dynamic").why
    assert "not asked" not in one(predict(parted(0.02), SHAPE), "dynamic").why


def everything(**more: object) -> Situation:
    """A node that has all plans to choose from."""
    delegate = Delegate(FAR, curve(0.005, 0.05), 0.02)
    stages = StagePlan(NEAR, (Stage(NEAR, 0, 1), Stage(FAR, 1, 2)), 0.02, 0.03)
    return alone(**{"delegate": delegate, "stages": stages, "offered": frozenset(plans)} | more)


def test_the_plan_with_the_shortest_answer_is_taken() -> None:
    """A pipeline that reads fast for short answers, a delegate that writes fast for long ones."""
    assert choose(everything(), Shape(64, 101)).plan == "static_delegate"
    assert choose(everything(), Shape(64, 2)).plan == "pipeline"
    assert choose(everything(offered=frozenset({"local"})), Shape(64, 101)).plan == "local"


def test_a_delegate_pays_its_round_trip_once() -> None:
    found = one(predict(everything(), SHAPE), "static_delegate")
    assert (found.first_token_s, found.tokens_per_s) == (pytest.approx(0.07), pytest.approx(200))
    unknown = Delegate(FAR, Curve(), None)
    assert len(one(predict(everything(delegate=unknown), SHAPE), "static_delegate").not_measured) == 2


def calls(call_s: float | None, share: float = 0.5, stretch: float = 1.0) -> Calls:
    """For so much of each of three layers, with one expert a token."""
    callee = CallTimes(NEAR, call_s, None if call_s is None else 0.0, call_s)
    return Calls(1, (callee,), (Spread(3, ((0, share),)),), stretch)


def test_a_delegate_whose_steps_were_all_waiting_by_its_word_breaks_no_plan() -> None:
    """Nobody computes in no time at all."""
    times = StepTimes()
    for seconds, tokens in ((0.01, 1), (0.1, 64)):
        times.add(MODEL, StepSeen("local", seconds, seconds, 1, tokens, 0))
    waited = times.curve(MODEL, "local")
    for local in (curve(0.01, 0.1), waited):
        situation = alone(
            local=local, delegate=Delegate(NEAR, waited, 0.02), offered=frozenset({"local", "static_delegate"})
        )
        for shape in (SHAPE, Shape(64, 500), Shape(1000, 1000)):
            rates = [each.tokens_per_s for each in choose(situation, shape).predictions]
            assert all(rate is None or math.isfinite(rate) for rate in rates)


def test_a_delegate_calls_for_what_it_lacks_in_each_token_that_uses_it() -> None:
    """In half of the layers' steps, and in every layer of a prompt."""
    lacking = Delegate(FAR, curve(0.005, 0.05), 0.02, lacking=3, calls=calls(0.01))
    found = one(predict(everything(delegate=lacking), SHAPE), "static_delegate")
    assert found.tokens_per_s == pytest.approx(1 / (0.005 + 3 * 0.5 * 0.01))
    assert found.first_token_s == pytest.approx(0.05 + 0.02 + 3 * 0.01)
    assert "3 experts called" in found.why
    assert found.assumed == (f"calls of {'2' * 12} take what they take from here, or its round trip if that is longer",)
    unknown = replace(lacking, calls=calls(None))
    said = one(predict(everything(delegate=unknown), SHAPE), "static_delegate")
    assert (said.tokens_per_s, said.not_measured) == (None, (f"round trip to {'1' * 12}",))


def test_calls_that_steps_of_a_delegate_waited_for_are_not_counted_twice() -> None:
    """What it was measured with counts as long as it lacks as much; what it has meanwhile is waited for no more."""
    known = Delegate(FAR, curve(0.02, 0.08, 0.015), 0.0, lacking=3, calls=calls(0.01))
    found = one(predict(everything(delegate=known), SHAPE), "static_delegate")
    assert (found.tokens_per_s, found.first_token_s) == (pytest.approx(50), pytest.approx(0.08))
    whole = one(predict(everything(delegate=replace(known, lacking=0, calls=Calls(1))), SHAPE), "static_delegate")
    assert (whole.tokens_per_s, whole.first_token_s) == (pytest.approx(200), pytest.approx(0.065))


def test_the_faster_of_this_node_and_a_delegate_that_lacks_some_is_taken() -> None:
    """A delegate that would be three times as fast with all is slower, if what it lacks is far."""
    lacking = Delegate(FAR, curve(0.003, 0.03), 0.001, lacking=3, calls=calls(0.05))
    assert choose(everything(delegate=lacking, stages=None), SHAPE).plan == "local"
    near = replace(lacking, calls=calls(0.001))
    assert choose(everything(delegate=near, stages=None), SHAPE).plan == "static_delegate"


def test_local_wins_ties() -> None:
    same = everything(delegate=Delegate(FAR, curve(0.0098, 0.08), 0.0), stages=None)
    assert choose(same, SHAPE).plan == "local"


def test_a_plan_that_was_never_measured_is_tried_soon() -> None:
    """By one of four answers, until one has gone by it: it may be many times as fast as what is known."""
    unknown = everything(delegate=Delegate(FAR, Curve(), 0.02), stages=None)
    assert [choose(unknown, SHAPE, (), lambda at=at: at).plan for at in (0.0, 0.24, 0.26, 0.9)] == [
        "static_delegate",
        "static_delegate",
        "local",
        "local",
    ]
    assert choose(unknown, SHAPE).plan == "local"
    assert "not measured: static_delegate" in choose(unknown, SHAPE).said
    nothing = choose(everything(local=Curve(), delegate=Delegate(FAR, Curve(), 0.02), stages=None), SHAPE)
    assert (nothing.plan, nothing.tried) == ("local", True)


def test_what_may_have_become_quicker_is_tried_the_less_often_the_more_that_may_cost() -> None:
    """A fiftieth of the time of answers at most, a twentieth where plain code was measured; never not at all."""

    def shares(slower: float, why: Doubt) -> float:
        delegate = Delegate(FAR, curve(0.01 * slower, 0.1 * slower), 0.0)
        found = everything(delegate=delegate, stages=None, doubts=(("static_delegate", why),))
        draws = [(at + 0.5) / 10_000 for at in range(10_000)]
        return sum(choose(found, SHAPE, (), lambda at=at: at).plan == "static_delegate" for at in draws) / 10_000

    assert [shares(times, "stale") for times in (1.05, 2, 5)] == [pytest.approx(each) for each in (0.25, 0.02, 0.005)]
    assert [shares(times, "cold") for times in (1.2, 2, 5)] == [pytest.approx(each) for each in (0.25, 0.05, 0.0125)]
    assert choose(everything(delegate=Delegate(FAR, curve(0.1, 1.0), 0.0)), SHAPE, (), lambda: 0.0).plan == "local"


def test_what_may_answer_instead_is_in_the_order_of_its_speed() -> None:
    """What is not offered or not possible is left out; what was not measured comes last."""
    made = choose(everything(), SHAPE)
    assert made.order == ("static_delegate", "local", "pipeline")
    assert choose(everything(offered=frozenset({"pipeline", "local"})), SHAPE).order == ("local", "pipeline")
    unknown = everything(delegate=Delegate(FAR, Curve(), 0.02))
    assert choose(unknown, SHAPE).order == ("local", "pipeline", "static_delegate")
    turned = everything(why_not=(("static_delegate", "it was impossible a moment ago"),))
    assert choose(turned, SHAPE).order == ("local", "pipeline")
    assert choose(everything(trunk=False), SHAPE).order == ("static_delegate", "pipeline")


def test_generations_that_a_node_leads_already_make_its_steps_longer() -> None:
    """By steps beside others where such were measured, else by a quarter for each."""
    beside = everything(delegate=Delegate(FAR, curve(0.005, 0.05), 0.0, beside=2))
    found = one(predict(beside, SHAPE), "static_delegate")
    assert found.tokens_per_s == pytest.approx(1 / (0.005 * 1.5))
    assert found.assumed == ("each of 2 generations beside takes a quarter of a step",)
    times = StepTimes()
    for tokens, taken in ((3, 0.006), (66, 0.07)):
        times.add(MODEL, StepSeen("static_delegate", taken, 0.0, 3, tokens, 100), node=FAR)
    seen = Delegate(FAR, times.curve(MODEL, "static_delegate", FAR), 0.0, beside=2)
    found = one(predict(everything(delegate=seen), SHAPE), "static_delegate")
    assert (found.tokens_per_s, found.first_token_s) == (pytest.approx(1 / 0.006), pytest.approx(0.07))


def test_steps_through_stages_count_more_than_trial_calls() -> None:
    tried = one(predict(everything(), SHAPE), "pipeline")
    assert (tried.tokens_per_s, tried.assumed) == (50, ("answers take what trial calls of each stage add up to",))
    seen = one(predict(everything(piped=curve(0.04, 0.2)), SHAPE), "pipeline")
    assert (seen.tokens_per_s, seen.first_token_s, seen.assumed) == (pytest.approx(25), pytest.approx(0.2), ())
    route = (Stage(FAR, 0, 2),)
    unknown = one(predict(everything(stages=None, route=route), SHAPE), "pipeline")
    assert (unknown.possible, unknown.not_measured) == (True, ("steps of 64 tokens through stages",))


def test_what_stands_of_a_prompt_is_not_computed_again() -> None:
    """Each plan by what stands where it computes."""
    whole, half = Shape(128, 2, chunk=64), Shape(128, 2, chunk=64, reused=64)
    before, after = (
        predict(everything(piped=curve(0.01, 0.1)), whole),
        predict(everything(piped=curve(0.01, 0.1)), half),
    )
    assert one(before, "local").first_token_s == pytest.approx(2 * (one(after, "local").first_token_s or 0))
    assert one(before, "pipeline") == one(after, "pipeline")
    staged = predict(everything(piped=curve(0.01, 0.1)), Shape(128, 2, chunk=64, reused_staged=128))
    assert (one(staged, "pipeline").first_token_s or 1) < 0.02


seconds = st.floats(1e-5, 10)


@settings(max_examples=200, deadline=None)
@given(st.tuples(*[seconds] * 6), st.integers(1, 4_000), st.integers(1, 4_000))
def test_what_is_taken_is_never_much_slower_than_anything_offered(
    times: tuple[float, ...], prompt: int, answer: int
) -> None:
    delegate = Delegate(FAR, curve(times[2], times[3]), 0.01)
    stages = StagePlan(NEAR, (Stage(NEAR, 0, 2),), times[4], times[5])
    situation = everything(local=curve(times[0], times[1]), delegate=delegate, stages=stages)
    shape = Shape(prompt, answer)
    made = choose(situation, shape)
    assert made.plan is not None
    taken = made.of(made.plan).seconds(answer)
    least = min(each for plan in made.predictions if (each := plan.seconds(answer)) is not None)
    assert taken is not None and least <= taken <= 1.0501 * least
    assert all(math.isfinite(each.tokens_per_s) for each in made.predictions if each.tokens_per_s is not None)


def test_it_is_said_when_this_node_alone_would_be_faster_with_what_it_lacks() -> None:
    """By its steps from when it had all: 100 tokens a second, where asking others gives less than half."""
    known = parted(0.02, local=curve(0.01, 0.1), missing_bytes=3 * 2**20)
    made = choose(known, SHAPE)
    assert made.plan == "dynamic" and made.held is not None
    assert (made.held.experts, made.held.size, made.held.prediction.assumed) == (8, 3 * 2**20, ())
    assert made.held.prediction.tokens_per_s == pytest.approx(100)
    assert made.held.times == pytest.approx((0.134 + 100 * 0.044) / 1.1)
    with_all = (
        "with the 8 experts that are not here (3.0 MiB) this node alone would be 4.1 times as fast as any of these"
    )
    assert made.said.endswith(with_all)
    corrected = choose(known, SHAPE, (("local", Correction(0.5, 2.0, 8)),))
    assert corrected.held is not None
    assert corrected.held.prediction.tokens_per_s == pytest.approx(50)


def test_what_all_experts_would_take_here_is_bounded_by_those_that_are_here() -> None:
    """A node that computes a quarter of them in 4 ms a token takes 16 ms at most with all, and waits for none."""
    made = choose(parted(0.02, here=0.25), SHAPE)
    assert made.held is not None
    assert made.held.prediction.tokens_per_s == pytest.approx(1 / 0.016)
    assert "this node alone would be at least 2." in made.said
    assert made.held.prediction.assumed


@pytest.mark.parametrize(
    "change",
    [
        {"local": curve(0.044, 0.134)},
        {"local": curve(0.01, 0.1), "fits": False},
        {"local": curve(0.01, 0.1), "trunk": False},
        {"here": 0.05},
        {},
        {"missing": 0, "local": curve(0.01, 0.1)},
        {"local": curve(0.01, 0.1), "nobody": 1},
        {"trunk": False, "here": 0.9, "delegate": Delegate(FAR, curve(1.0, 9.0), 0.0), "offered": frozenset(plans)},
    ],
    ids=[
        "not faster",
        "no room",
        "no trunk",
        "not for sure",
        "not measured",
        "nothing missing",
        "nothing to compare",
        "layers",
    ],
)
def test_nothing_is_said_of_what_this_node_lacks_that_numbers_do_not_show(change: dict[str, object]) -> None:
    made = choose(parted(0.02, **change), SHAPE)
    assert made.held is None
    assert "would be" not in made.said


def test_a_faster_node_elsewhere_is_what_this_node_is_compared_with() -> None:
    """Not the plan that lacks least: a delegate that gives more than this node could makes what it lacks no matter."""
    delegate = Delegate(FAR, curve(0.005, 0.05), 0.0)
    offered = frozenset({"dynamic", "static_delegate"})
    made = choose(parted(0.02, local=curve(0.01, 0.1), delegate=delegate, offered=offered), SHAPE)
    assert (made.plan, made.held) == ("static_delegate", None)


def noted(errors: PlannerError, rate: float, first: float) -> Decision:
    """One more answer of so many tokens a second, predicted as the next would be."""
    corrections = errors.corrections(MODEL)
    made = choose(alone(), SHAPE, corrections)
    errors.note(MODEL, made.of("local"), dict(corrections)["local"], Came(rate, first))
    return made


def test_errors_are_said_and_what_is_wrong_each_time_is_corrected() -> None:
    """A node that gives 80 tokens a second where steps alone would give 100."""
    errors = PlannerError()
    for _ in range(3):
        noted(errors, 80, 0.2)
    assert errors.errors() == (3, pytest.approx(0.25), pytest.approx(0.5))
    assert errors.correction(MODEL, "local") == Correction(pytest.approx(0.8), pytest.approx(2.0), 3)
    made = noted(errors, 80, 0.2).of("local")
    assert (made.tokens_per_s, made.first_token_s) == (pytest.approx(80), pytest.approx(0.2))
    for _ in range(10):
        noted(errors, 80, 0.2)
    assert errors.errors("local").tokens_per_s == pytest.approx(0, abs=1e-9)
    assert errors.errors("dynamic") == (0, None, None)
    assert errors.correction(PayloadId("b" * 64), "local") == Correction()


def test_what_takes_time_beside_steps_is_added_and_not_multiplied() -> None:
    """Prompts of all lengths come 20 ms later than their steps: much of a short one, and little of a long one."""
    errors = PlannerError()
    for prompt in (64, 640, 64, 320, 1_280, 128):
        shape = Shape(prompt, 11, chunk=64)
        steps = one(predict(alone(), shape), "local").first_token_s
        corrections = errors.corrections(MODEL)
        predicted = one(predict(alone(), shape, corrections), "local")
        assert steps is not None
        errors.note(MODEL, predicted, dict(corrections)["local"], Came(100, steps + 0.02))
    found = errors.correction(MODEL, "local")
    assert (found.first, found.late_s) == (pytest.approx(1), pytest.approx(0.02))


def test_nothing_is_noted_of_what_was_not_predicted() -> None:
    errors = PlannerError()
    errors.note(MODEL, Prediction("local", True, "here"), Correction(), Came(10, 0.1))
    assert errors.errors() == (0, None, None)
