"""WebSocket frames: whole ones are given on however they are cut, and what is none ends the connection (RFC 6455)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from blyan.network.frames import FrameSocket

KEY = bytes((1, 2, 3, 4))


class FakeTransport(asyncio.Transport):
    """Keeps what is written; `fed` is what the other end says."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.reading, self.ended = True, False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, FrameSocket)
        self.protocol = protocol

    def write(self, data: bytes) -> None:
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
    transport = FakeTransport()
    socket = FrameSocket(client=client, frame_bytes_max=most)
    socket.take_over(transport)
    return socket, transport


SAID = [b"", b"a", bytes(range(125)), bytes(126), bytes(range(256)) * 200, bytes(range(256)) * 1200, b"end"]


@pytest.mark.parametrize("piece", [1 << 20, 1_000, 7])
@pytest.mark.parametrize("client", [True, False])
async def test_frames_come_whole_however_they_are_cut(piece: int, client: bool) -> None:
    """Also those of an end that masks with another key than ours."""
    socket, transport = taken(client=client)
    came: list[bytes] = []
    reading = asyncio.create_task(socket.read(came.append))
    await asyncio.sleep(0)
    transport.feed(b"".join(frame(each, key=b"" if client else KEY) for each in SAID), piece)
    assert came == SAID
    transport.close()
    await asyncio.wait_for(reading, 5)


async def test_what_one_end_sends_the_other_takes() -> None:
    """Either way."""
    for client in (True, False):
        socket, transport = taken(client=client)
        other, back = taken(client=not client)
        came: list[bytes] = []
        reading = asyncio.create_task(other.read(came.append))
        await asyncio.sleep(0)
        for each in SAID:
            assert socket.send_now(each)
        back.feed(transport.written, 1 << 20)
        assert came == SAID
        await other.close()
        await asyncio.wait_for(reading, 5)


NO_FRAMES = {
    "unmasked": frame(b"x"),
    "text": frame(b"x", first=0x81, key=KEY),
    "a part": frame(b"x", first=0x02, key=KEY),
    "compressed": frame(b"x", first=0xC2, key=KEY),
    "too long": frame(bytes(101), key=KEY)[:8],
    "a long ping": frame(bytes(126), first=0x89, key=KEY),
}


@pytest.mark.parametrize("raw", NO_FRAMES.values(), ids=NO_FRAMES.keys())
async def test_what_is_no_frame_of_ours_ends_the_connection(raw: bytes) -> None:
    socket, transport = taken(client=False, most=100)
    came: list[bytes] = []
    reading = asyncio.create_task(socket.read(came.append))
    await asyncio.sleep(0)
    transport.feed(raw + frame(b"after", key=KEY), 1 << 20)
    await asyncio.wait_for(reading, 5)
    assert (came, transport.ended) == ([], True)
    with pytest.raises(ConnectionError):
        socket.send_now(b"x")


async def test_pings_are_answered_and_an_end_is_answered_by_an_end() -> None:
    socket, transport = taken(client=False)
    reading = asyncio.create_task(socket.read(lambda _: None))
    await asyncio.sleep(0)
    transport.feed(frame(b"well?", first=0x89, key=KEY), 3)
    assert transport.written == frame(b"well?", first=0x8A)
    transport.feed(frame(b"\x03\xe8", first=0x88, key=KEY), 3)
    await asyncio.wait_for(reading, 5)
    assert transport.written.endswith(frame(b"\x03\xe8", first=0x88))


async def test_who_is_held_up_is_not_read_and_loses_nothing() -> None:
    socket, transport = taken(client=True)
    came: list[bytes] = []

    def take(payload: bytes) -> None:
        came.append(payload)
        socket.hold()

    reading = asyncio.create_task(socket.read(take))
    await asyncio.sleep(0)
    transport.feed(b"".join(frame(bytes([each])) for each in range(5)), 1 << 20)
    assert (came, transport.reading) == ([b"\0"], False)
    for each in range(1, 5):
        socket.release()
        assert came[-1] == bytes([each])
    await socket.close()
    await asyncio.wait_for(reading, 5)


async def test_who_sends_waits_while_the_other_end_is_behind() -> None:
    socket, transport = taken(client=True)
    socket.pause_writing()
    assert not socket.send_now(b"x")
    assert not transport.written
    sending = asyncio.create_task(socket.send_bytes(b"x"))
    await asyncio.sleep(0)
    assert not sending.done()
    socket.resume_writing()
    await asyncio.wait_for(sending, 5)
    transport.close()
    await asyncio.sleep(0)
    with pytest.raises(ConnectionError):
        await socket.one()


async def test_one_frame_after_the_other_may_be_asked_for() -> None:
    """What comes meanwhile waits; the end is an error for who asks for one more."""
    socket, transport = taken(client=True)
    transport.feed(frame(b"1") + frame(b"2"), 1 << 20)
    assert [await socket.one(), await socket.one()] == [b"1", b"2"]
    waiting: Callable[[], bool] = (asking := asyncio.create_task(socket.one())).done
    await asyncio.sleep(0)
    assert not waiting()
    transport.close()
    with pytest.raises(ConnectionError):
        await asking
