"""How fast two threads of this machine read a region of memory again and again: the bound of decoding."""

from __future__ import annotations

import threading
import time

import numpy as np
import torch

ROUNDS = 5
SECONDS = 0.15  # a round reads as often as fits


def read_bandwidth(size: int) -> float:
    """Bytes a second, the best of several ways to read `size` bytes with two threads, none of which writes."""
    region = np.zeros(max(size, 1 << 16) // 8 * 8, dtype=np.uint8)
    region += 1  # pages of its own, not the kernel's zero page
    halves = np.array_split(region.view(np.int64), 2)
    as_floats = torch.from_numpy(region).view(torch.float32)
    columns = 512
    matrix = as_floats[: len(as_floats) // columns * columns].view(-1, columns)
    vector = torch.zeros(columns)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)

    def in_threads() -> None:
        others = threading.Thread(target=halves[1].max)
        others.start()
        halves[0].max()
        others.join()

    try:
        ways = (as_floats.sum, lambda: torch.mv(matrix, vector), in_threads)
        return region.nbytes / min(_seconds(way) for way in ways for _ in range(ROUNDS))
    finally:
        torch.set_num_threads(threads)


def _seconds(read) -> float:
    """Of one reading, over as many as fit."""
    began, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < SECONDS or not count:
        read()
        count += 1
    return spent / count
