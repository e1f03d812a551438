"""Threads that have a core for short turns."""

from __future__ import annotations

import os
import platform
import threading
from pathlib import Path

import pytest

from blyan.api.state import node_key
from blyan.node.machine import shorten_turns, stand_back, turn_seconds
from nodes import serving


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


@pytest.mark.skipif(platform.system() != "Linux", reason="elsewhere all threads of a process are alike")
def test_a_thread_and_those_it_begins_stand_back_and_no_others() -> None:
    found: list[int] = []
    before = os.getpriority(os.PRIO_PROCESS, 0)

    def inner() -> None:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    def outer() -> None:
        found.append(stand_back(3))
        child = threading.Thread(target=inner)
        child.start()
        child.join()
        found.append(stand_back(1000))

    thread = threading.Thread(target=outer)
    thread.start()
    thread.join()
    assert found == [before + 3, before + 3, 19]
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


@pytest.mark.skipif(platform.system() != "Linux", reason="elsewhere all threads of a process are alike")
async def test_the_compute_thread_of_a_node_stands_back(tmp_path: Path) -> None:
    async with serving(tmp_path) as client:
        compute = client.app[node_key].scheduler._thread.native_id
        assert compute is not None
        mine = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        assert os.getpriority(os.PRIO_PROCESS, compute) == min(19, mine + 10)


def test_where_the_system_knows_nothing_of_it_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    assert shorten_turns(0.0005) == 0.0
