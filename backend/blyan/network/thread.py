"""The network's own event loop, in a thread: links live here, so that neither answers nor steps hold them up."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")
_log = logging.getLogger(__name__)
_again_seconds = 5.0


async def kept(what: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do work that has no end until this is cancelled: a mistake in it is said, and it begins again after a while.

    Work that ends by itself is done.
    """
    while True:
        task = asyncio.ensure_future(work())
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
            await asyncio.wait({task})
        reason = None if task.cancelled() else task.exception()
        if reason is None:
            return
        _log.error("%s: begun again after a mistake", what, exc_info=reason)
        await asyncio.sleep(_again_seconds)


class NetworkThread:
    """Construct to start it, `close` once."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._promised: set[Future[Any]] = set()  # that have no result yet
        self._thread = threading.Thread(target=self._work, name="blyan-network", daemon=True)
        self._thread.start()

    def promise(self, begin: Callable[[Future[Result]], None]) -> Future[Result]:
        """Call `begin` there, which is to see to it that the future gets its result; from any other thread.

        No task, and so fewer turns of the loop than `run` takes.
        """
        promised: Future[Result] = Future()
        self._promised.add(promised)
        promised.add_done_callback(self._promised.discard)
        self.loop.call_soon_threadsafe(begin, promised)
        return promised

    def run(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Begin a coroutine there; from any other thread. `RuntimeError` once it is closed."""
        try:
            return asyncio.run_coroutine_threadsafe(work, self.loop)
        except RuntimeError:
            work.close()
            raise

    def close(self) -> None:
        """End what still runs there, and the thread."""
        self.run(self._end_tasks()).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
        for promised in list(self._promised):
            promised.cancel()

    async def _end_tasks(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _work(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
