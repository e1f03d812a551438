"""One generation's events between the loop's callbacks and the coroutine that answers with them.

Under load several are there before the coroutine gets its turn; it takes them together, so that what it does for each
turn (waking, writing to the socket) is done once for all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from blyan.inference.session import Embedded, Event, Failed, Finished


class Events:
    """Events as they come, for one reader. They are bounded by the tokens of the answer, so there is no other bound.

    `seen` is called with those that the reader takes together, before it gets them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seen: Callable[[Sequence[Event]], None]) -> None:
        self._loop = loop
        self._seen = seen
        self._here: list[Event] = []
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False

    def put(self, event: Event) -> None:
        """One more. In the loop's thread."""
        self._here.append(event)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def batches(self) -> AsyncIterator[list[Event]]:
        """All that are there, at least one, until the last of the generation was given."""
        while not self._ended:
            if not self._here:
                self._waiter = self._loop.create_future()
                await self._waiter
                self._waiter = None
            taken, self._here = self._here, []
            for number, event in enumerate(taken, 1):
                if isinstance(event, Finished | Failed | Embedded):
                    self._ended = True
                    del taken[number:]
                    break
            self._seen(taken)
            yield taken

    async def __aiter__(self) -> AsyncIterator[Event]:
        """One by one."""
        async for events in self.batches():
            for event in events:
                yield event
