"""The fakes behave as the real thing would."""

from blyan.inference.session import Delta, Finished
from fakes import StepByStep


def test_a_step_by_step_generation_waits_for_permission_and_ends_with_finished() -> None:
    """Its events are those of a real generation: deltas, then one Finished."""
    log: list[str] = []
    fake = StepByStep("a", 2, log)
    fake.allowed.release(2)
    events = list(fake)
    assert [type(event) for event in events] == [Delta, Delta, Finished]
    assert log == ["a0", "a1"]
