"""Threads that run torch on one core each: for products that memory bounds, not arithmetic.

torch's own threads look out for more work for milliseconds after every product, on the cores that would read and hash
the next rows of a streamed expert meanwhile. One core multiplies a few rows as fast as they can be read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch


class LoneThreads:
    """As many as torch has threads. Their number is torch's when they are made; they end with the process."""

    def __init__(self) -> None:
        self._count = torch.get_num_threads()
        self._met = threading.Barrier(self._count)
        self._pool = ThreadPoolExecutor(self._count, "blyan-product", initializer=self._alone)
        try:
            list(self._pool.map(lambda _: self._met.wait(), range(self._count)))  # each has begun
        finally:
            torch.set_num_threads(self._count)  # what a thread sets is what threads to come begin with

    def spread(self, task: Callable[..., object], items: Iterable[tuple[object, ...]]) -> None:
        """The task for all items, several at once; the first exception is raised, after all have ended."""
        work = [self._pool.submit(_inferring, task, item) for item in items]
        faults = [fault for each in work if (fault := each.exception()) is not None]
        if faults:
            raise faults[0]

    def in_turn(self, task: Callable[..., object], items: Iterable[tuple[object, ...]]) -> None:
        """The task for one item after the other; each is done before the next is asked for."""
        for item in items:
            self._pool.submit(_inferring, task, item).result()

    def _alone(self) -> None:
        torch.set_num_threads(1)


@cache
def lone_threads() -> LoneThreads:
    """Those of this process."""
    return LoneThreads()


@torch.inference_mode()
def _inferring(task: Callable[..., object], item: tuple[object, ...]) -> None:
    task(*item)
