"""Links that are pinged: one on which nothing can be sent is closed, one that has much to do is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from blyan.network import links as links_module
from blyan.network.answers import Handler
from blyan.network.dialling import Dialler
from blyan.network.gossip import SummaryTable
from blyan.network.link import Link, frame_of
from blyan.network.links import Links, Watcher
from blyan.primitives import limits
from blyan.wire.framing import Message
from blyan.wire.peer import Summary
from swarms import node, said


class Deaf:
    """A socket that keeps quiet, and may lose its way out without a word."""

    def __init__(self) -> None:
        self.ended, self.lost = asyncio.Event(), False

    def send_now(self, frame: bytes) -> bool:
        del frame
        if self.lost or self.ended.is_set():
            raise ConnectionResetError("closing")
        return True

    async def send_bytes(self, frame: bytes) -> None:
        self.send_now(frame)

    async def read(self, take: Callable[[bytes], None]) -> None:
        self.take = take
        await self.ended.wait()

    def hold(self) -> None: ...

    def release(self) -> None: ...

    def shut(self) -> None:
        self.ended.set()

    async def close(self) -> bool:
        self.ended.set()
        return True


class Nobody:
    """Keeps no account."""

    def __getattr__(self, _name: str) -> Callable[..., Any]:
        return lambda *_: None


def kept(ours: Callable[[], Summary] = lambda: said(9)) -> Links:
    dialler = SimpleNamespace(identity=SimpleNamespace(key=SimpleNamespace(public=node(9))))
    loop = asyncio.get_running_loop()
    return Links(cast(Dialler, dialler), SummaryTable(), ours, cast(Watcher, Nobody()), loop.time, lambda: 0.5)


@asynccontextmanager
async def watched(
    monkeypatch: pytest.MonkeyPatch, handlers: dict[str, Handler] | None = None, asked: int = 0
) -> AsyncIterator[tuple[Deaf, Link]]:
    """A link that is pinged every 10 ms."""
    monkeypatch.setattr(links_module, "_ping_seconds", 0.01)
    monkeypatch.setattr(links_module, "_ping_late_seconds", 0.1)
    socket = Deaf()
    link = Link(socket, said(1), handlers or {}, asyncio.get_running_loop().time, dialled=False)
    reading = asyncio.create_task(link.run())
    await asyncio.sleep(0)
    for _ in range(asked):
        assert link.ask_now("x", {}) is not None
    kept().joined(link)
    try:
        yield socket, link
    finally:
        await link.close()
        await asyncio.wait_for(reading, 5)


async def test_a_link_on_which_nothing_can_be_sent_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(monkeypatch) as (socket, link):
        socket.lost = True
        await asyncio.wait_for(link.closed.wait(), 2)


async def test_a_link_on_which_much_is_asked_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(monkeypatch, asked=limits.link_waiting_max) as (_socket, link):
        await asyncio.sleep(0.5)
        assert link.open


async def test_a_silent_link_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(monkeypatch) as (_socket, link):
        await asyncio.wait_for(link.closed.wait(), 2)


async def test_a_link_that_this_end_holds_up_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it is read again, and silent."""
    done = asyncio.Event()

    async def work(_link: Link, _message: Message) -> Message:
        await done.wait()
        return Message({}, ())

    async with watched(monkeypatch, {"work": work}) as (socket, link):
        for number in range(limits.link_waiting_max + 1):
            socket.take(frame_of({"kind": "work", "id": number}))
        await asyncio.sleep(0.5)
        assert link.open
        done.set()
        await asyncio.wait_for(link.closed.wait(), 2)


async def test_gossip_that_comes_at_once_is_read_in_a_turn_for_each_message() -> None:
    """Each may bring many summaries with a signature to check."""
    read = 0

    def ours() -> Summary:
        nonlocal read
        read += 1
        return said(9)

    link = Link(socket := Deaf(), said(1), kept(ours).handlers, asyncio.get_running_loop().time, dialled=False)
    reading = asyncio.create_task(link.run())
    await asyncio.sleep(0)
    for number in range(10):
        socket.take(frame_of({"kind": "gossip", "id": number}))
    for _ in range(40):
        before = read
        await asyncio.sleep(0)
        assert read - before <= 1
    assert read == 10
    await link.close()
    await asyncio.wait_for(reading, 5)
