"""Threads that have a core for short turns."""

from __future__ import annotations

import os
import platform
import threading

import pytest

from blyan.node.machine import shorten_turns, turn_seconds


def kernel_version() -> tuple[int, ...]:
    return tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])


@pytest.mark.skipif(platform.system() != "Linux" or kernel_version() < (6, 12), reason="Linux knows this since 6.12")
def test_a_thread_and_those_it_begins_have_shorter_turns_and_the_same_priority() -> None:
    found: list[float] = []
    nice: list[int] = []

    def inner() -> None:
        found.append(turn_seconds())

    def outer() -> None:
        before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        found.append(shorten_turns(0.0005))
        nice.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) - before)
        child = threading.Thread(target=inner)
        child.start()
        child.join()

    thread = threading.Thread(target=outer)
    thread.start()
    thread.join()
    assert found == [0.0005, 0.0005]
    assert nice == [0]


def test_where_the_system_knows_nothing_of_it_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    assert shorten_turns(0.0005) == 0.0
