"""Frames over TLS and real sockets: an end that stops reading, or talks much, harms its own connection only."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator

import pytest

from blyan.network.frames import FrameSocket
from blyan.network.identity import client_context, make_identity
from blyan.network.tls import TlsHandshake
from blyan.primitives.clock import system_entropy, system_seconds
from blyan.primitives.keys import Key


class Upgraded(asyncio.Protocol):
    """A connection that is frames from its beginning."""

    def __init__(self, made: asyncio.Future[FrameSocket]) -> None:
        self.made = made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        frames = FrameSocket(client=False, frame_bytes_max=1 << 26)
        asyncio.get_running_loop().call_soon(frames.take_over, transport)
        asyncio.get_running_loop().call_soon(self.made.set_result, frames)


@contextlib.asynccontextmanager
async def connected(receives: int = 1 << 20) -> AsyncIterator[tuple[FrameSocket, ssl.SSLSocket]]:
    """Our end, and the other's, which is to be used from a thread."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[FrameSocket] = loop.create_future()
    context = make_identity(Key.from_seed(bytes(32)), system_seconds, system_entropy).server
    server = await loop.create_server(
        lambda: TlsHandshake(context, Upgraded(made), server=True, seconds=5), "127.0.0.1", 0
    )
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)

    def connect() -> ssl.SSLSocket:
        raw.connect(server.sockets[0].getsockname())
        return client_context().wrap_socket(raw)

    with await asyncio.to_thread(connect) as other:
        try:
            yield await made, other
        finally:
            server.close()


def leave(other: ssl.SSLSocket) -> None:
    """Say that nothing more will be said, and read nothing."""
    other.settimeout(0.2)
    with contextlib.suppress(OSError):
        other.unwrap()


async def test_an_end_that_says_goodbye_and_reads_nothing_is_let_go() -> None:
    """What it does not take is lost after seconds; whoever reads hears of the end at once."""
    async with connected(receives=4096) as (frames, other):
        reading = asyncio.create_task(frames.read(lambda _: None))
        sending = asyncio.ensure_future(frames.send_bytes(bytes(16 << 20)))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(leave, other)
        await asyncio.wait_for(reading, 1)
        with pytest.raises(ConnectionError):
            frames.send_now(b"x")
        await asyncio.wait_for(frames.close(), 5)
        await asyncio.wait_for(sending, 1)


@pytest.mark.parametrize("times", [1, 2])
async def test_a_connection_ends_whoever_else_closed_it_before(times: int) -> None:
    """What the other end does not take is lost after seconds."""
    async with connected(receives=4096) as (frames, _other):
        sending = asyncio.ensure_future(frames.send_bytes(bytes(16 << 20)))
        await asyncio.sleep(0.1)
        for _ in range(times):
            frames._transport.close()
        await asyncio.wait_for(frames.close(), 15)
        await asyncio.wait_for(sending, 1)
