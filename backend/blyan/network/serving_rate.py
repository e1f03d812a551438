"""How fast blobs leave for peers, all together; of that every node that fetches gets the same share.

A node has one piece at a time in the queue, however many connections, links or blobs it asks for at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final
from weakref import WeakValueDictionary

from blyan.network.rate import TokenBucket
from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.primitives.ids import PublicKey

served_bytes: Final = 64 * limits.KIB  # that leave in a turn: others wait for it


class ServingRate:
    """For the network's loop; 0 bytes a second is without limit."""

    def __init__(self, bytes_per_second: int, monotonic: Monotonic) -> None:
        self._limited, self._monotonic = bytes_per_second > 0, monotonic
        self._bucket = TokenBucket(bytes_per_second, monotonic())
        self._queued: WeakValueDictionary[PublicKey, asyncio.Lock] = WeakValueDictionary()  # held by who has a turn

    def turn(self, node: PublicKey) -> Callable[[int], Awaitable[None]] | None:
        """What waits for a node until it may be sent so many bytes more; None without limit."""
        if not self._limited:
            return None
        lock = self._queued.get(node)
        if lock is None:
            lock = self._queued[node] = asyncio.Lock()

        async def turn(count: int) -> None:
            async with lock:
                wait = self._bucket.take(count, self._monotonic())
                try:
                    await asyncio.sleep(wait)
                except asyncio.CancelledError:  # who calls off, again and again, takes nothing from others
                    self._bucket.give_back(count)
                    raise

        return turn
