"""The fakes behave as the real thing would."""

import httpx
import pytest

from blyan.inference.session import Delta, Finished
from fakes import SlowNode, StepByStep


def test_a_step_by_step_generation_waits_for_permission_and_ends_with_finished() -> None:
    """Its events are those of a real generation: deltas, then one Finished."""
    log: list[str] = []
    fake = StepByStep("a", 2, log)
    fake.allowed.release(2)
    events = list(fake)
    assert [type(event) for event in events] == [Delta, Delta, Finished]
    assert log == ["a0", "a1"]


def test_a_slow_node_notes_questions_and_answers_them_in_pieces() -> None:
    """Broken, it closes the connection."""
    with SlowNode(["a", "b"], pause_seconds=0) as node:
        answer = httpx.post(f"{node.url}/v1/chat/completions", json={"messages": []})
        assert answer.text.count("data: ") == 3
        node.broken = True
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.post(f"{node.url}/v1/chat/completions", json={})
    assert node.asked == [{"messages": []}, {}]
