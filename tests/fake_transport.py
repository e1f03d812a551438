"""What is beneath a `FrameSocket`, without a connection: keeps what is written, and is fed what the other end says."""

from __future__ import annotations

import asyncio

from blyan.network.frames import FrameSocket


class FakeTransport(asyncio.Transport):
    """Keeps what is written; `feed` is what the other end says."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.reading, self.ended = True, False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, FrameSocket)
        self.protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.ended

    def close(self) -> None:
        if not self.ended:
            self.ended = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def feed(self, data: bytes, piece: int) -> None:
        """So many bytes at a time, as far as they are read."""
        while data and self.reading and not self.ended:
            room = self.protocol.get_buffer(-1)
            count = min(piece, len(room), len(data))
            room[:count] = data[:count]
            data = data[count:]
            self.protocol.buffer_updated(count)


def frame(payload: bytes, *, first: int = 0x82, key: bytes = b"") -> bytes:
    """As any implementation may make it."""
    length, masked = len(payload), 0x80 if key else 0
    if length < 126:
        head = bytes((first, masked | length))
    elif length < 1 << 16:
        head = bytes((first, masked | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((first, masked | 127)) + length.to_bytes(8, "big")
    return head + key + bytes(each ^ key[at % 4] if key else each for at, each in enumerate(payload))


def taken(*, client: bool, most: int = 1 << 20) -> tuple[FrameSocket, FakeTransport]:
    """One end, and what is beneath it."""
    transport = FakeTransport()
    socket = FrameSocket(client=client, frame_bytes_max=most)
    socket.take_over(transport)
    return socket, transport
