"""The ends of a tunnel carry what came before one side ended to the other, whichever ends first."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass

import pytest

from blyan.network.frames import FrameSocket
from blyan.network.tunnels import carry
from fake_transport import FakeTransport, frame, taken

FRAMES = [bytes([each]) * 7_000 for each in range(16)]  # as many as a socket of frames keeps
PATIENCE_S = 10.0


@dataclass
class Here:
    """The connection on this machine, of which `far` is the other side: what it does not read soon waits."""

    far: socket.socket
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def rest(self) -> bytes:
        """All that comes until the end."""
        loop, came = asyncio.get_running_loop(), b""
        while piece := await asyncio.wait_for(loop.sock_recv(self.far, 1 << 16), PATIENCE_S):
            came += piece
        return came


@pytest.fixture
async def here():
    near, far = socket.socketpair()
    far.setblocking(False)
    for each in (near, far):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    reader, writer = await asyncio.open_connection(sock=near)
    writer.transport.set_write_buffer_limits(1_024)
    yield Here(far, reader, writer)
    writer.transport.abort()
    far.close()


async def begun(here: Here, **settings: float) -> tuple[asyncio.Task[None], FrameSocket, FakeTransport]:
    """A tunnel in which more came than is taken here."""
    end, transport = taken(client=True)
    carrying = asyncio.create_task(carry(end, here.reader, here.writer, **settings))
    await asyncio.sleep(0)
    transport.feed(b"".join(map(frame, FRAMES)), 1 << 20)
    return carrying, end, transport


async def turns() -> None:
    """So many that whoever can go on did."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("how", ["the tunnel ended, and more is said here", "this side says nothing any more"])
async def test_what_came_whole_is_passed_on_where_nothing_is_sent_any_more(here: Here, how: str) -> None:
    """Then the connection ends, and the tunnel."""
    carrying, end, transport = await begun(here)
    if how.startswith("the tunnel"):
        end.eof_received()
        here.far.send(b"more")
    else:
        here.far.shutdown(socket.SHUT_WR)
    await turns()
    assert await here.rest() == b"".join(FRAMES)
    await asyncio.wait_for(carrying, PATIENCE_S)
    assert transport.ended


async def test_what_is_said_here_before_the_end_is_sent(here: Here) -> None:
    carrying, _, transport = await begun(here)
    here.far.send(b"the last words")
    here.far.shutdown(socket.SHUT_WR)
    await here.rest()
    await asyncio.wait_for(carrying, PATIENCE_S)
    assert b"the last words" in transport.written


async def test_who_does_not_take_what_came_before_the_end_is_let_go(here: Here) -> None:
    """In a time that is set, with what was taken by then."""
    carrying, _, transport = await begun(here, last_seconds=0.05)
    here.far.shutdown(socket.SHUT_WR)
    await asyncio.wait_for(carrying, PATIENCE_S)
    assert transport.ended
    came = await here.rest()
    assert b"".join(FRAMES).startswith(came)
    assert len(came) < len(b"".join(FRAMES))
