"""Events between the compute thread and an event loop: none lost, each answer's in order, few wakings in a crowd."""

import asyncio
import threading
import time

import pytest

from blyan.inference.delivery import Emit, LoopListener
from blyan.inference.session import Delta, Event

CROWD = 64


class Takers:
    """The loop's ends of some generations."""

    def __init__(self, count: int) -> None:
        self.taken: list[tuple[int, str]] = []
        self._wanted = 0
        self._there = asyncio.Event()
        self.emits = [self._taker(number) for number in range(count)]

    def _taker(self, number: int) -> Emit:
        def take(event: Event) -> None:
            assert isinstance(event, Delta)
            self.taken.append((number, event.text))
            if len(self.taken) == self._wanted:
                self._there.set()

        return take

    def step(self, text: str, count: int | None = None) -> list[tuple[Emit, Event]]:
        """An event for each generation, or for the first ones."""
        return [(emit, Delta(text, (), ())) for emit in self.emits[:count]]

    async def reach(self, count: int) -> None:
        """Until so many events are there."""
        self._wanted = count
        if len(self.taken) < count:
            self._there.clear()
            async with asyncio.timeout(10):
                await self._there.wait()


async def turns(count: int) -> None:
    """Of the loop, without any time going by."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_few_generations_get_each_event_at_once() -> None:
    listener, takers = LoopListener(asyncio.get_running_loop()), Takers(4)
    for step in range(10):
        listener.deliver(takers.step(str(step)))
        await turns(2)
        assert len(takers.taken) == 4 * (step + 1)


async def test_in_a_crowd_the_events_of_a_few_steps_go_together() -> None:
    """And a generation's own follow one another, so that its handler is woken once for them."""
    listener, takers = LoopListener(asyncio.get_running_loop()), Takers(CROWD)
    listener.deliver(takers.step("0"))
    await turns(2 + CROWD // 4)
    assert len(takers.taken) == CROWD  # the first is not kept waiting
    began = time.monotonic()
    for step in (1, 2, 3):
        listener.deliver(takers.step(str(step)))
    await takers.reach(4 * CROWD)
    assert 0.02 < time.monotonic() - began < 5
    assert takers.taken[CROWD:] == [(number, str(step)) for number in range(CROWD) for step in (1, 2, 3)]


async def test_when_few_are_left_of_a_crowd_they_get_each_event_at_once_again() -> None:
    listener, takers = LoopListener(asyncio.get_running_loop()), Takers(CROWD)
    listener.deliver(takers.step("0"))
    await takers.reach(CROWD)
    listener.deliver(takers.step("1", 1))
    await takers.reach(CROWD + 1)
    listener.deliver(takers.step("2", 1))
    await turns(2)
    assert takers.taken[CROWD:] == [(0, "1"), (0, "2")]


@pytest.mark.parametrize("count", [3, CROWD])
async def test_nothing_is_lost_or_out_of_order_between_two_threads(count: int) -> None:
    """The moments of resting and looking fall anywhere between two deliveries."""
    listener, takers, steps = LoopListener(asyncio.get_running_loop()), Takers(count), 3000 // count

    def compute() -> None:
        for step in range(steps):
            listener.deliver(takers.step(str(step)))
            time.sleep((step * 7 % 11) / 5000)

    thread = threading.Thread(target=compute)
    thread.start()
    await takers.reach(steps * count)
    thread.join()
    for number in range(count):
        assert [text for taker, text in takers.taken if taker == number] == [str(step) for step in range(steps)]


def test_a_loop_that_is_gone_says_so_even_where_it_rested() -> None:
    """Else generations that nobody reads would be computed to their end."""
    loop = asyncio.new_event_loop()
    listener, takers = LoopListener(loop), Takers(CROWD)
    listener.deliver(takers.step("0"))
    loop.run_until_complete(takers.reach(CROWD))
    loop.close()
    with pytest.raises(RuntimeError):
        listener.deliver(takers.step("1"))
