"""Interrupted at whatever step: nothing acknowledged is lost, nothing half is visible, the next run succeeds.

Each change of the disk is a step. Before every one of them the power is cut, with what was not synced lost, torn or
kept by a seed; before every one of them a real process gets a real SIGKILL; and before every one of them the process is
killed, the next one does the work again, and then the power is cut.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from blyan.primitives.ids import PayloadId
from fault_layer import copied, cut_at, killed_at, killed_then_cut, steps_of
from scenarios import KILLED, SCENARIOS, Scenario, store_of

pytestmark = pytest.mark.slow

STEPS_MAX = 32  # of a long scenario, evenly chosen; `scripts/test --long` takes every step with several seeds
RESTARTS_MAX = 24  # of those that are followed by the same work and a power cut


def prepared(tmp_path: Path, scenario: Scenario) -> tuple[Path, int]:
    """A disk before the scenario, and how many steps it takes."""
    base = tmp_path / "base"
    base.mkdir()
    scenario.prepare(base)
    work = copied(base, tmp_path / "work")
    return base, steps_of(work, lambda: scenario.act(work, lambda _text: None))


def chosen(steps: int, most: int) -> list[int]:
    """Every step, or as many of them as may be taken, the first and last among them."""
    every = list(range(1, steps + 1))
    return every if steps <= most else sorted({*random.Random(steps).sample(every, most - 2), 1, steps})


def cut_everywhere(tmp_path: Path, scenario: Scenario, most: int, seeds: int) -> int:
    """Cut the power before each of up to `most` steps, with several outcomes each; return how many cuts it was."""
    base, steps = prepared(tmp_path, scenario)
    assert steps > 10, "the door to the disk is the one that is watched"
    for step in chosen(steps, most):
        for seed in range(seeds):
            work = copied(base, tmp_path / "work")
            left = tmp_path / "left"
            acknowledged: list[str] = []
            act = partial(scenario.act, work, acknowledged.append)
            cut = cut_at(work, step, step * 1_000 + seed, left, act)
            assert cut, f"step {step} of {steps} was not reached"
            try:
                scenario.check(left, acknowledged)
            except BaseException as reason:
                reason.add_note(f"power cut before step {step} of {steps}, seed {step * 1_000 + seed}")
                raise
            shutil.rmtree(left)
    return len(chosen(steps, most)) * seeds


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_power_cut_loses_nothing_that_was_acknowledged(tmp_path: Path, name: str) -> None:
    """Writes that were not synced are gone, torn or there."""
    cut_everywhere(tmp_path, SCENARIOS[name], STEPS_MAX, 1)


@pytest.mark.long
@pytest.mark.parametrize("name", SCENARIOS)
def test_power_cuts_at_every_step_with_many_outcomes(
    tmp_path: Path, name: str, long_result: Callable[[str, str], None]
) -> None:
    """All steps, twenty outcomes each."""
    cuts = cut_everywhere(tmp_path, SCENARIOS[name], sys.maxsize, 20)
    long_result(f"power cuts: {name}", f"{cuts:,} cuts, nothing acknowledged lost, nothing half visible")


def restarted_everywhere(tmp_path: Path, scenario: Scenario, most: int, seeds: int) -> int:
    """Kill before each of up to `most` steps, do the work again, then cut the power; return how many cuts it was."""
    base, steps = prepared(tmp_path, scenario)
    targets = [tmp_path / f"left-{seed}" for seed in range(seeds)]
    for step in chosen(steps, most):
        work = copied(base, tmp_path / "work")
        acknowledged: list[str] = []
        killed = killed_then_cut(
            work,
            step,
            [(target, step * 1_000 + seed) for seed, target in enumerate(targets)],
            partial(scenario.act, work, acknowledged.append),
            partial(scenario.again or scenario.act, work, acknowledged.append),
        )
        assert killed, f"step {step} of {steps} was not reached"
        for seed, left in enumerate(targets):
            try:
                scenario.check(left, acknowledged)
            except BaseException as reason:
                reason.add_note(f"SIGKILL before step {step} of {steps}, then a power cut, seed {step * 1_000 + seed}")
                raise
            shutil.rmtree(left)
    return len(chosen(steps, most)) * seeds


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_a_restart_relies_on_outlives_a_power_cut(tmp_path: Path, name: str) -> None:
    """A name that a killed process left, and did not sync, is there for the next one and could still be lost."""
    restarted_everywhere(tmp_path, SCENARIOS[name], RESTARTS_MAX, 2)


def test_a_pin_that_was_let_go_does_not_come_back(tmp_path: Path) -> None:
    """A killed `unpin` removed it; the next one found none and said so."""
    scenario = Scenario(
        "unpin",
        lambda folder: store_of(folder).pin(PayloadId("cd" * 32), "kept"),
        lambda folder, _: void(store_of(folder).unpin(PayloadId("cd" * 32))),
        lambda folder, _: void(store_of(folder).pins() == {} or pytest.fail("it came back")),
    )
    restarted_everywhere(tmp_path, scenario, STEPS_MAX, 6)


def void(_: object) -> None:
    """For a lambda that stands for a procedure."""


@pytest.mark.long
@pytest.mark.parametrize("name", SCENARIOS)
def test_restarts_at_every_step_and_power_cuts_with_many_outcomes(
    tmp_path: Path, name: str, long_result: Callable[[str, str], None]
) -> None:
    """All steps, twenty outcomes each."""
    cuts = restarted_everywhere(tmp_path, SCENARIOS[name], sys.maxsize, 20)
    long_result(f"kill, restart, power cut: {name}", f"{cuts:,} cuts, nothing acknowledged lost")


def note(said: Path, text: str) -> None:
    """Say to somebody outside what was acknowledged; it is out of the process when this returns."""
    with said.open("a") as file:
        file.write(f"{text}\n")


def kill_everywhere(tmp_path: Path, scenario: Scenario, most: int) -> None:
    base, steps = prepared(tmp_path, scenario)
    for step in chosen(steps, most):
        work = copied(base, tmp_path / "work")
        said = tmp_path / "said"
        said.write_bytes(b"")
        killed = killed_at(work, step, partial(scenario.act, work, partial(note, said)))
        assert killed, f"step {step} of {steps} was not reached"
        try:
            scenario.check(work, said.read_text().splitlines())
        except BaseException as reason:
            reason.add_note(f"SIGKILL before step {step} of {steps}")
            raise


@pytest.mark.parametrize("name", KILLED)
def test_a_killed_process_loses_nothing_that_was_acknowledged(tmp_path: Path, name: str) -> None:
    """SIGKILL; what the process had written is on the disk, and what it had not is not."""
    done = subprocess.run(
        [sys.executable, __file__, name, str(tmp_path), str(STEPS_MAX)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
        capture_output=True,
        check=False,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0, done.stderr[-4_000:]


if __name__ == "__main__":  # one process that has everything imported and no threads, whose children are killed
    kill_everywhere(Path(sys.argv[2]), KILLED[sys.argv[1]], int(sys.argv[3]))
