"""The network's loop and those who ask it from other threads."""

from __future__ import annotations

import gc
import warnings

import pytest

from blyan.network.thread import NetworkThread


def test_who_asks_a_loop_that_has_ended_is_told_and_nothing_is_left() -> None:
    """What was to be done there is closed: nobody would ever await it."""
    thread = NetworkThread()

    async def asked() -> int:
        return 1

    assert thread.run(asked()).result(5) == 1
    thread.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError):
            thread.run(asked())
        gc.collect()
