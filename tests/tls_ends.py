"""Ends of TLS as `network/tls` makes them: over real connections, and over wires in memory that are cut as told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from blyan.network import tls
from blyan.network.identity import client_context, make_identity
from blyan.network.tls import TlsHandshake, TlsTransport
from blyan.primitives.clock import system_entropy, system_seconds
from blyan.primitives.keys import Key

SERVER = make_identity(Key.from_seed(bytes(32)), system_seconds, system_entropy).server


class Heard:
    """What a protocol was told."""

    def __init__(self) -> None:
        self.came = bytearray()
        self.made: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.ended = False
        self.more: Callable[[], None] = lambda: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.made.set_result(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)

    def eof_received(self) -> None:
        self.ended = True

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class Streamed(Heard, asyncio.Protocol):
    """A reader without a buffer."""

    def data_received(self, data: bytes) -> None:
        self.came += data
        self.more()


class Buffered(Heard, asyncio.BufferedProtocol):
    """One with a buffer, and not a large one."""

    def __init__(self) -> None:
        super().__init__()
        self.room = bytearray(1_000)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.room

    def buffer_updated(self, nbytes: int) -> None:
        self.came += self.room[:nbytes]
        self.more()


@contextlib.asynccontextmanager
async def listening(protocol: Heard) -> AsyncIterator[int]:
    """The port of a server of ours, for one connection."""
    assert isinstance(protocol, asyncio.BaseProtocol)
    shake = TlsHandshake(SERVER, protocol, server=True, seconds=5)
    server = await asyncio.get_running_loop().create_server(lambda: shake, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def linked(here: Heard, there: Heard) -> AsyncIterator[tuple[TlsTransport, TlsTransport]]:
    """Both ends are ours: client and server."""
    async with listening(there) as port:
        assert isinstance(here, asyncio.BaseProtocol)
        await tls.connect(client_context(), here, "127.0.0.1", port, 5)
        ours, theirs = await here.made, await there.made
        assert isinstance(ours, TlsTransport)
        assert isinstance(theirs, TlsTransport)
        try:
            yield ours, theirs
        finally:
            ours.abort()
            theirs.abort()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - of whatever it may be about
            await asyncio.sleep(0.001)


class Wire(asyncio.Transport):
    """A connection in memory, whose bytes go over when they are moved."""

    def __init__(self) -> None:
        super().__init__()
        self.goes = bytearray()
        self.protocol: asyncio.BaseProtocol = asyncio.Protocol()
        self.paused = self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.goes += data

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return self.closing

    def write_eof(self) -> None: ...

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True
        self.protocol.connection_lost(None)

    def take(self, other: Wire, count: int) -> int:
        """Move some bytes from the other end to this one's protocol; how many."""
        assert isinstance(self.protocol, asyncio.BufferedProtocol)
        if self.paused or self.closing:
            return 0
        room = memoryview(self.protocol.get_buffer(-1))
        moved = bytes(other.goes[: min(count, len(room))])
        if moved:
            del other.goes[: len(moved)]
            room[: len(moved)] = moved
            self.protocol.buffer_updated(len(moved))
        return len(moved)


def begun(here: Heard, there: Heard) -> tuple[Wire, Wire]:
    """Both ends of a connection in memory, before their handshake."""
    wires = Wire(), Wire()
    for wire, heard, context in zip(wires, (here, there), (client_context(), SERVER), strict=True):
        assert isinstance(heard, asyncio.BaseProtocol)
        wire.protocol = TlsHandshake(context, heard, server=context is SERVER, seconds=5)
    for wire in wires:
        wire.protocol.connection_made(wire)
    return wires
