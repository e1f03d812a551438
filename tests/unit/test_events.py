"""Events wait for their reader, and go to it together."""

from __future__ import annotations

import asyncio

from blyan.api.events import Events
from blyan.inference.session import Delta, Event, Failed, Finished
from blyan.primitives.errors import Unavailable


def delta(text: str) -> Delta:
    return Delta(text, (), ())


def made(seen: list[Event]) -> Events:
    return Events(asyncio.get_running_loop(), seen.extend)


END = Finished("stop", 1, 3)


def test_what_came_meanwhile_is_one_batch_and_each_is_counted_once() -> None:
    async def read() -> None:
        seen: list[Event] = []
        events = made(seen)
        events.put(delta("a"))
        events.put(delta("b"))
        batches = events.batches()
        assert await anext(batches) == [delta("a"), delta("b")]
        waiting = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0)
        events.put(delta("c"))
        events.put(END)
        assert await waiting == [delta("c"), END]
        assert [batch async for batch in batches] == []
        assert seen == [delta("a"), delta("b"), delta("c"), END]

    asyncio.run(read())


def test_nothing_follows_the_last_event() -> None:
    async def read() -> None:
        seen: list[Event] = []
        events = made(seen)
        failed = Failed(Unavailable("late"))
        for event in (delta("a"), failed, END):
            events.put(event)
        assert [event async for event in events] == [delta("a"), failed] == seen

    asyncio.run(read())


def test_a_reader_that_leaves_while_it_waits_is_no_trouble() -> None:
    async def read() -> None:
        events = made([])
        waiting = asyncio.ensure_future(anext(aiter(events)))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        events.put(END)

    asyncio.run(read())
