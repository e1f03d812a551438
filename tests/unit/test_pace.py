"""Which way of computing a small step is quicker is found out, and found out again."""

from __future__ import annotations

from blyan.model.pace import Pace


def run(pace: Pace, steps: int, seconds: dict[int, float]) -> list[int]:
    """Threads of each of so many small steps, which take what is said."""
    used: list[int] = []
    for _ in range(steps):
        used.append(pace.threads(1))
        pace.took(used[-1], 1, seconds[used[-1]])
    return used


def test_all_threads_compute_while_that_is_quicker() -> None:
    used = run(Pace(4), 2000, {4: 0.001, 1: 0.003})
    assert used.count(1) < 50


def test_one_computes_alone_where_the_others_have_no_core_and_all_do_when_they_have() -> None:
    pace = Pace(2)
    first = run(pace, 1000, {2: 0.008, 1: 0.002})
    assert first[:19].count(2) == 8  # a node that starts on a busy machine is not slow for long
    assert first[300:].count(2) < 20
    assert run(pace, 1000, {2: 0.001, 1: 0.002})[300:].count(1) < 20


def test_a_step_of_many_rows_is_for_all_threads_and_counts_for_nothing() -> None:
    pace = Pace(2)
    for _ in range(1000):
        assert pace.threads(100) == 2
        pace.took(2, 100, 9.0)
    assert run(pace, 8, {2: 0.001, 1: 0.002}) == [2] * 8


def test_one_thread_is_one_thread() -> None:
    assert set(run(Pace(1), 500, {1: 0.001})) == {1}
