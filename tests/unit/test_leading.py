"""Steps that a node leads: handed out in order, whole, or not at all."""

from __future__ import annotations

import pytest

from blyan.inference.leading import LedSteps
from blyan.inference.reader import Delta, Finished, TokenReport
from blyan.primitives import limits
from blyan.primitives.errors import Busy


def delta(token: int, experts: int = 0) -> Delta:
    return Delta("", (TokenReport(token, None, (), 0),), tuple((0, expert, 1) for expert in range(experts)))


async def test_steps_come_in_order_up_to_the_end() -> None:
    led = LedSteps()
    for token in range(5):
        led.put(delta(token))
    led.put(Finished("length", 1, 5))
    assert [step.token for step in await led.next(3)] == [0, 1, 2]
    assert [step.token for step in await led.next(3)] == [3, 4]
    assert await led.next(3) == []


@pytest.mark.parametrize(
    ("experts", "count"), [(0, limits.generation_backlog_steps_max), (1_000, limits.generation_backlog_max // 1_001)]
)
async def test_a_reader_that_stands_still_gets_nothing_out_of_the_midst(experts: int, count: int) -> None:
    """What waits is bounded, in steps and in what they tell; then it ends, and nothing comes after a gap."""
    told: list[bool] = []
    led = LedSteps(lambda: told.append(True))
    for token in range(count):
        led.put(delta(token, experts))
    assert not told
    for token in range(count, count + 10):
        led.put(delta(token, experts))
    assert told == [True]
    with pytest.raises(Busy, match="too many that wait"):
        await led.next(1)
