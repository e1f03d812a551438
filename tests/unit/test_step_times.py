"""What a curve says of steps that were measured, of those between and beyond, and of those that nothing tells of."""

import pytest

from batches import MANIFEST, answer, bench
from blyan.inference.session import Finished
from blyan.inference.step_times import Curve, Reading, StepSeen, StepTimes
from blyan.model.stepping import PlanName
from blyan.primitives import limits
from blyan.primitives.ids import PayloadId

MODEL = PayloadId("a" * 64)


def step(seconds: float, tokens: int = 1, positions: float = 0, generations: int = 1, waited: float = 0.0) -> StepSeen:
    return StepSeen("local", seconds, waited, generations, tokens, positions)


def curve(*steps: StepSeen) -> Curve:
    times = StepTimes()
    for each in steps:
        times.add(MODEL, each)
    return times.curve(MODEL, "local")


def read(found: Curve, tokens: int, positions: float = 0, generations: int = 1) -> Reading:
    reading = found.step(generations, tokens, positions)
    assert reading is not None
    return reading


def test_what_was_measured_is_said_as_it_was() -> None:
    found = curve(step(0.01, waited=0.004), step(0.1, 100))
    assert read(found, 1) == pytest.approx((0.01, 0.004, False))
    assert read(found, 1).own_s == pytest.approx(0.006)
    assert read(found, 100).seconds == pytest.approx(0.1)


TINY = {1: 2.25, 4: 3.09, 16: 5.52, 32: 7.54, 64: 10.76, 128: 17.79, 256: 32.36, 512: 70.59}
LARGER = {1: 5.02, 4: 9.87, 16: 23.14, 32: 36.46, 64: 58.19, 128: 100.68, 256: 188.65, 512: 390.64}


@pytest.mark.parametrize("seen", [TINY, LARGER], ids=["tiny", "200m"])
def test_what_lies_between_two_measured_sizes_is_off_by_a_fifth_at_most(seen: dict[int, float]) -> None:
    """By milliseconds of steps of two models, taken on one core when nothing else ran."""
    for low, high in ((1, 16), (1, 64), (1, 256), (16, 256), (64, 512), (1, 512)):
        found = curve(step(seen[low] / 1e3, low), step(seen[high] / 1e3, high))
        for tokens in (each for each in seen if low < each < high):
            assert read(found, tokens).seconds == pytest.approx(seen[tokens] / 1e3, rel=0.21)


def test_the_first_step_of_a_size_counts_for_no_more_than_those_after_it() -> None:
    """It is often late: blocks are opened, and code is new to the processor."""
    assert read(curve(step(0.5, 100), step(0.1, 100), step(0.11, 100)), 100).seconds == pytest.approx(0.11)


def test_what_lies_beyond_takes_as_long_a_token_and_is_said_to_be_beyond() -> None:
    reading = read(curve(step(0.01), step(0.1, 100)), 400)
    assert (reading.seconds, reading.beyond) == (pytest.approx(0.4), True)


def test_nothing_is_said_of_single_tokens_when_prompts_alone_were_measured() -> None:
    assert curve(step(0.1, 100)).step(1, 1, 0) is None
    assert curve().step(1, 1, 0) is None


def test_generations_together_are_not_one_with_as_many_tokens() -> None:
    found = curve(step(0.01), step(0.05, 8, generations=8))
    assert found.step(1, 8, 0) != found.step(8, 8, 0)
    assert read(found, 8, generations=8).seconds == pytest.approx(0.05)
    assert curve(step(0.01)).step(2, 2, 0) is None


def test_the_steps_nearest_in_length_tell() -> None:
    found = curve(step(0.01, positions=10), step(0.03, positions=3_000))
    assert read(found, 1, 20).seconds == pytest.approx(0.01)
    assert read(found, 1, 4_000).seconds == pytest.approx(0.03)


def test_the_last_steps_count_and_odd_ones_do_not() -> None:
    slow = [step(1.0)] * 32
    steady = [step(0.01)] * 31
    assert read(curve(*slow, *steady, step(5.0)), 1).seconds == pytest.approx(0.01)


def test_the_scheduler_times_each_step_with_its_tokens_and_what_lies_before_them() -> None:
    """A prompt of 100 tokens in pieces of at most 64, then a token a step; by plan local, for nobody else computes."""
    seen: list[tuple[PayloadId, StepSeen]] = []
    with bench(timed=lambda model, step, jitted=False: seen.append((model, step))) as made:
        assert isinstance(made.submit(answer(range(1, 51), 3)).end(), Finished)
        assert isinstance(made.submit(answer([7] * 100, 3)).end(), Finished)
        made.settle(lambda: len(seen) == 7)
    assert {model for model, _ in seen} == {MANIFEST}
    found = [(step.plan, step.generations, step.tokens, step.positions, step.waited_s) for _, step in seen]
    assert found[:3] == [("local", 1, count, before, 0.0) for count, before in ((50, 0), (1, 50), (1, 51))]
    assert [each[2:4] for each in found[3:]] == [(64, 0), (36, 64), (1, 100), (1, 101)]
    assert all(step.seconds > 0 for _, step in seen)


def test_other_code_begins_anew() -> None:
    """Steps of the plain path say nothing of the jitted one."""
    times = StepTimes()
    times.add(MODEL, step(1.0))
    times.add(MODEL, step(0.1), jitted=True)
    assert read(times.curve(MODEL, "local"), 1).seconds == pytest.approx(0.1)


def test_what_other_code_took_stands_until_as_many_tokens_are_computed_anew() -> None:
    """A prompt by plain code is nearer to the truth than as many single tokens; and it is said that not all is new."""
    times = StepTimes()
    times.add(MODEL, step(1.0))
    times.add(MODEL, step(4.0, 64))
    times.add(MODEL, step(0.1, positions=500), jitted=True)
    found = times.curve(MODEL, "local")
    assert (read(found, 1).seconds, read(found, 64).seconds) == (pytest.approx(0.1), pytest.approx(4.0))
    assert not found.jitted
    times.add(MODEL, step(0.4, 64), jitted=True)
    found = times.curve(MODEL, "local")
    assert (read(found, 64).seconds, found.jitted) == (pytest.approx(0.4), True)
    assert not times.curve(MODEL, "dynamic").jitted


def test_models_that_computed_long_ago_are_forgotten() -> None:
    times, plan = StepTimes(), PlanName.__args__[0]
    models = [PayloadId(f"{number:064x}") for number in range(limits.models_timed_max + 1)]
    for each in models:
        times.add(each, step(0.1))
    assert [each for each in models if not times.curve(each, plan).points] == models[:1]
