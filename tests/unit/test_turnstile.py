"""Many who come at once are let in a few on each turn of the loop, in their order."""

import asyncio
import contextlib

from blyan.api.turnstile import Turnstile, turn

MANY = 21


class Turns:
    """Counts the turns of the running loop."""

    def __init__(self) -> None:
        self.number = 0
        self._next()

    def _next(self) -> None:
        self.number += 1
        asyncio.get_running_loop().call_soon(self._next)


async def test_no_turn_lets_in_more_than_four() -> None:
    """The first four at once."""
    stile, turns, passed = Turnstile(), Turns(), list[tuple[int, int]]()

    async def come(number: int) -> None:
        await stile.passed()
        passed.append((number, turns.number))

    await asyncio.gather(*(come(number) for number in range(MANY)))
    assert [number for number, _ in passed] == list(range(MANY))
    by_turn = [at for _, at in passed]
    assert max(map(by_turn.count, by_turn)) == 4
    assert max(by_turn) - min(by_turn) < MANY


async def test_who_comes_alone_does_not_wait() -> None:
    stile, turns = Turnstile(), Turns()
    for _ in range(3):
        before = turns.number
        await stile.passed()
        assert turns.number == before
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_who_leaves_takes_nobodys_place() -> None:
    """All that wait behind are let in."""
    stile = Turnstile()
    tasks = [asyncio.create_task(stile.passed()) for _ in range(MANY)]
    await asyncio.sleep(0)
    for task in tasks[5:15]:
        task.cancel()
    for task in tasks[5:15]:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks[:5], *tasks[15:])


def test_each_loop_has_its_own() -> None:
    """A loop that was closed with some waiting holds up no other."""

    async def left() -> None:
        for _ in range(MANY):
            asyncio.get_running_loop().create_task(turn())
        await asyncio.sleep(0)

    asyncio.run(left())
    asyncio.run(asyncio.wait_for(turn(), 5))
