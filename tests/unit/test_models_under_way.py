"""Models that come, go, break and get more memory while generations are under way; callers that go before they ran."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from batches import CONFIG, Bench, answer, bench, expected, model_of
from blyan.inference.policy import Rules
from blyan.inference.session import Delta, Failed, Finished
from blyan.primitives.errors import BlockCorrupt
from fakes import TokenPages


def held(stepper: TokenPages) -> None:
    """Its steps wait to be allowed."""
    stepper.allowed = threading.Semaphore(0)


def allow(made: Bench, number: int, steps: int = 1_000) -> None:
    """Let the stepper of that number, once it is there, make so many steps."""
    made.settle(lambda: len(made.steppers) > number)
    allowed = made.steppers[number].allowed
    assert allowed is not None
    allowed.release(steps)


def unfit() -> Any:
    """A model whose first block is damaged as soon as `damaged` is set."""
    whole, damaged = model_of(), threading.Event()

    def embed() -> Any:
        if damaged.is_set():
            raise BlockCorrupt("expected one root, computed another")
        return whole.weights.embed()

    weights = SimpleNamespace(embed=embed, cool=embed)
    identity = whole.manifest_id
    return SimpleNamespace(
        manifest_id=identity, manifest=whole.manifest, weights=weights, name="unfit", damaged=damaged
    )


def test_who_leaves_before_the_compute_thread_looked_is_never_computed() -> None:
    """It had taken others when the newcomer came and went, and knew no such number yet."""
    entered, going = threading.Event(), threading.Event()

    def busy() -> Any:
        entered.set()
        going.wait(5)
        yield Finished("stop", 1, 0)

    with bench() as made:
        first = made.submit(busy())
        assert entered.wait(5)
        made.submit(answer([1, 2, 3], 200)).ticket.cancel()
        going.set()
        assert isinstance(first.end(), Finished)
        last = made.submit(answer([4, 5], 2))
        assert isinstance(last.end(), Finished)
        assert made.scheduler.depth() == (0, 0)
        assert {run.tokens[:1] for step in made.steps for run in step if run.start == 0} == {(4,)}


def test_who_listens_no_more_ends_and_the_others_go_on() -> None:
    class Gone:
        def deliver(self, events: object) -> None:
            raise RuntimeError("Event loop is closed")

    with bench() as made:
        made.scheduler.submit(made.model, answer([1, 2], 400), lambda _: None, client="gone", listener=Gone())
        other = made.submit(answer([1, 2, 3], 40))
        assert isinstance(other.end(), Finished)
        assert other.tokens == [step.token for step in expected([1, 2, 3], 40)]
        made.settle(lambda: made.scheduler.depth() == (0, 0))
        assert len(made.steps) < 100


def test_a_model_that_cannot_be_made_ready_ends_nobody_elses_answer() -> None:
    """Loading and unloading it fail for themselves; a damaged block is told to whoever asks it next."""
    bad = unfit()
    bad.damaged.set()
    with bench(models=lambda: 2, prepare=held) as made:
        one = made.submit(answer([1, 2, 3], 20))
        made.settle(lambda: bool(made.steppers))
        made.scheduler.load(bad)
        made.scheduler.unload(bad)
        allow(made, 0)
        assert isinstance(one.end(), Finished)


def test_a_model_damaged_while_its_generation_waits_for_memory_ends_that_one_alone() -> None:
    """Whoever waited beside it, and whoever ran, go on."""
    offered, bad = [1], unfit()
    with bench(models=lambda: offered[0], prepare=held) as made:
        one = made.submit(answer([1, 2, 3], 20))
        made.settle(lambda: bool(made.steppers))
        offered[0] = 2
        two = made.submit(answer([1, 2, 3], 20), model=bad)
        allow(made, 0, 3)
        made.settle(lambda: len(made.steps) == 3)  # the second was made after it had been taken
        bad.damaged.set()
        allow(made, 0)
        fault = two.end()
        assert isinstance(fault, Failed)
        assert isinstance(fault.fault, BlockCorrupt)
        assert isinstance(one.end(), Finished)


def test_a_prompt_for_the_memory_of_a_removed_model_waits_for_it_and_stops_nobody() -> None:
    """The engine under way has the smaller share; it is made again when it has nothing to do."""
    offered = [2]
    with bench(pages=8, models=lambda: offered[0], prepare=held) as made:
        one = made.submit(answer([1, 2, 3], 60))
        made.settle(lambda: bool(made.steppers))
        offered[0] = 1
        long = made.submit(answer(list(range(1, 61)) * 3, 4), client="other")
        short = made.submit(answer([7], 60), client="third")
        allow(made, 0)
        assert isinstance(one.end(), Finished)
        allow(made, 1)
        assert isinstance(long.end(), Finished)
        assert isinstance(short.end(), Finished)


def test_an_answer_grows_into_the_memory_of_a_removed_model() -> None:
    """It was promised that much when it was asked for; its tokens are those of the plain loop."""
    offered = [2]
    with bench(pages=4, models=lambda: offered[0], prepare=held) as made:
        first = made.submit(answer([1, 2, 3], 20))
        made.settle(lambda: bool(made.steppers))
        offered[0] = 1
        long = made.submit(answer([4, 5], 100), client="other")
        allow(made, 0)
        allow(made, 1)
        assert isinstance(first.end(), Finished)
        assert isinstance(long.end(), Finished)
        assert long.tokens == [step.token for step in expected([4, 5], 100)]


def test_a_model_goes_on_with_its_memory_while_a_removed_one_still_answers() -> None:
    """What has become its share is held by the other until its last answer ends; only what needs it waits."""
    offered = [2]
    with bench(pages=8, models=lambda: offered[0], prepare=held) as made:
        before = made.submit(answer([1], 1))
        allow(made, 0)
        assert isinstance(before.end(), Finished)
        removed = made.submit(answer([1, 2, 3], 100), model=model_of())
        made.settle(lambda: len(made.steppers) == 2)
        offered[0] = 1
        short, long = made.submit(answer([1, 2], 10)), made.submit(answer([1, 2] * 90, 5))
        allow(made, 1, 60)
        assert isinstance(short.end(), Finished)
        assert isinstance(removed.events.get(timeout=1), Delta)
        allow(made, 1)
        assert isinstance(removed.end(), Finished)
        allow(made, 2)
        assert isinstance(long.end(), Finished)


def test_a_model_in_the_place_of_another_answers_while_that_one_still_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The old one, offered no more, ends in half of the memory after a while; the new one begins in the other half."""
    monkeypatch.setattr("blyan.inference.housing._patience_seconds", 0.05)
    small = replace(CONFIG, context_length=1_000)
    offered = [model_of(small)]
    with bench(pages=64, offers=lambda model: model is offered[0], prepare=held) as made:
        old = made.submit(answer([1, 2, 3], 60), model=offered[0])
        waiting = made.submit(answer([4, 5], 60), model=offered[0])
        allow(made, 0, 5)
        made.settle(lambda: len(made.steps) == 5)
        offered[0] = model_of(small)
        new = made.submit(answer([7], 5), model=offered[0])
        for _ in range(40):  # far fewer than are left
            if len(made.steppers) == 1:
                allow(made, 0, 1)
                time.sleep(0.01)
        allow(made, 2)
        allow(made, 1, 10)
        assert isinstance(new.end(), Finished)
        assert [engine.pool.pages for engine in made.scheduler.engines] == [32, 32]
        assert made.scheduler.depth()[0] == 2
        allow(made, 1)
        assert isinstance(old.end(), Finished)
        assert isinstance(waiting.end(), Finished)
        assert old.tokens == [step.token for step in expected([1, 2, 3], 60)]
        assert waiting.tokens == [step.token for step in expected([4, 5], 60)]
        long = made.submit(answer([1, 2] * 600, 3), model=offered[0])
        allow(made, 3)
        assert isinstance(long.end(), Finished)
        assert [engine.pool.pages for engine in made.scheduler.engines] == [64]


def test_a_second_model_waits_for_its_share_no_longer_than_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first's answer goes on in half of the memory, which holds whatever its context allows."""
    monkeypatch.setattr("blyan.inference.housing._patience_seconds", 0.05)
    small, count = replace(CONFIG, context_length=1_000), [1]
    with bench(pages=64, models=lambda: count[0], prepare=held) as made:
        first, one = model_of(small), model_of(small)
        long = made.submit(answer([1, 2, 3], 60), model=first)
        allow(made, 0, 5)
        count[0] = 2
        second = made.submit(answer([7], 5), model=one)
        for _ in range(40):
            if len(made.steppers) == 1:
                allow(made, 0, 1)
                time.sleep(0.01)
        allow(made, 1, 10)
        allow(made, 2)
        assert isinstance(second.end(), Finished)
        assert made.scheduler.depth()[0] == 1
        allow(made, 1)
        assert isinstance(long.end(), Finished)
        assert long.tokens == [step.token for step in expected([1, 2, 3], 60)]


def test_an_engine_made_with_little_grows_though_it_has_always_something_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that took the place of another under load does not keep to what that one had left."""
    monkeypatch.setattr("blyan.inference.housing._patience_seconds", 0.02)
    small = replace(CONFIG, context_length=1_000)
    offered = [model_of(small)]
    with bench(pages=90, offers=lambda model: model is offered[0]) as made:
        old = made.submit(answer([1, 2, 3], 300), model=offered[0])
        made.settle(lambda: len(made.steps) > 2)
        offered[0] = model_of(small)
        asked, told = [], 0
        for number in range(400):  # of sixteen pages each, and six at once
            asked.append(made.submit(answer(prompt := [number % 50, *range(7, 60)] * 9, 9), model=offered[0]))
            if number < 5:
                continue
            assert isinstance(asked[number - 5].end(), Finished)
            assert asked[number - 5].tokens == [
                step.token for step in expected([(number - 5) % 50, *prompt[1:54]] * 9, 9)
            ]
            told += old.events.qsize() > 300
            if told > 60:
                break
        assert [engine.pool.pages for engine in made.scheduler.engines if not engine.idle] == [90]


def test_what_a_removed_model_leaves_is_not_taken_by_whom_it_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that wait with long prompts would take it from each other at every look."""
    monkeypatch.setattr("blyan.inference.housing._patience_seconds", 0.02)
    offered = [model_of(replace(CONFIG, context_length=900))]
    with bench(pages=60, offers=lambda model: model in offered) as made:
        old = made.submit(answer([1, 2, 3], 800), model=offered[0])
        made.settle(lambda: len(made.steps) > 2)
        offered[:] = [model_of(), model_of()]
        long = [made.submit(answer(list(range(1, 56)) * 18, 5), model=each) for each in offered]
        assert isinstance(old.end(), Finished)
        assert len(made.steppers) <= 4
        assert all(isinstance(each.end(), Finished) for each in long)


def test_when_to_come_again_is_told_by_the_pace_while_somebody_waits() -> None:
    """What ended before a quiet hour says nothing of how fast the queue moves now."""
    with bench(rules=Rules(running_max=1, step_tokens=64, prompt_tokens=32), prepare=held) as made:
        made.scheduler._batching.ends.extend((time.monotonic() - 7_200, time.monotonic() - 3_600))
        for _ in range(40):
            made.submit(answer([1], 5))
        assert made.scheduler.retry_seconds() == 5
