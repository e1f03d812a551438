"""WebSocket frames on a connection that was upgraded to them (RFC 6455): binary and whole, without compression.

Each is given on in the very turn of the loop in which its last byte came: no queue and no task stand between, which
for small frames is most of what a library's WebSocket costs. What is none of these frames ends the connection. What
we send as a client is masked with zeros: masking keeps intermediaries from taking frames for HTTP, and here they see
TLS. For the network's loop.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple, cast

import numpy as np

_buffer_bytes: Final = 128 * 1024
_close_seconds: Final = 2.0  # in which the other end takes what was sent, and closes too
_binary: Final = 0x2
_closes: Final = 0x8
_pings: Final = 0x9
_pongs: Final = 0xA
_final: Final = 0x80
_masked: Final = 0x80
_going: Final = b"\x03\xe8"  # 1000: a normal end
_control_bytes_max: Final = 125


class _Header(NamedTuple):
    opcode: int
    key: bytes  # empty if it is not masked
    begin: int  # of its payload, from that of the frame
    length: int


class _NoFrameError(Exception):
    """What came is no frame that is understood."""


class _Frames:
    """What has come and was not taken yet, as frames."""

    def __init__(self, *, masked: bool, frame_bytes_max: int) -> None:
        self._masked, self._max = masked, frame_bytes_max
        self._buffer = bytearray(_buffer_bytes)
        self._at = 0  # bytes of it that were taken
        self.filled = 0
        self._large: bytearray | None = None  # the beginning of a frame that does not fit in there
        self._header = _Header(0, b"", 0, 0)  # of that

    def room(self) -> memoryview:
        """Where the next bytes go."""
        return memoryview(self._buffer)[self.filled :]

    def compact(self) -> None:
        """Make room of what was taken."""
        if self._at:
            left = self.filled - self._at
            self._buffer[:left] = self._buffer[self._at : self.filled]
            self._at, self.filled = 0, left

    def next(self) -> tuple[int, bytes] | None:
        """Opcode and payload of the next frame, None if it is not whole; `_NoFrameError` for what is none."""
        if self._large is not None:
            return self._grown(self._large)
        header = self._head()
        if header is None:
            return None
        begin = self._at + header.begin
        end = begin + header.length
        if end <= self.filled:
            self._at = end
            return header.opcode, _unmasked(bytes(memoryview(self._buffer)[begin:end]), header.key)
        if header.begin + header.length <= len(self._buffer):
            return None
        self._at = begin
        self._header, self._large = header, bytearray()
        return self._grown(self._large)

    def _grown(self, large: bytearray) -> tuple[int, bytes] | None:
        came = min(self.filled - self._at, self._header.length - len(large))
        large += memoryview(self._buffer)[self._at : self._at + came]
        self._at += came
        if len(large) < self._header.length:
            return None
        self._large = None
        return self._header.opcode, _unmasked(bytes(large), self._header.key)

    def _head(self) -> _Header | None:
        """The next header, None if it is not whole."""
        buffer, at, here = self._buffer, self._at, self.filled - self._at
        if here < 2:
            return None
        first, second = buffer[at], buffer[at + 1]
        length = second & 0x7F
        begin = 2
        if length > _control_bytes_max:
            begin = 4 if length == 126 else 10
            if here < begin:
                return None
            length = int.from_bytes(buffer[at + 2 : at + begin], "big")
        opcode = first & 0x0F
        fits = length <= (self._max if opcode == _binary else _control_bytes_max)
        known = first & 0xF0 == _final and opcode in (_binary, _closes, _pings, _pongs)
        if not fits or not known or bool(second & _masked) is not self._masked:
            raise _NoFrameError
        if not self._masked:
            return _Header(opcode, b"", begin, length)
        if here < begin + 4:
            return None
        return _Header(opcode, bytes(buffer[at + begin : at + begin + 4]), begin + 4, length)


class FrameSocket(asyncio.BufferedProtocol):
    """One end. `take_over` first; then `one` and `read`, one after the other."""

    def __init__(self, *, client: bool, frame_bytes_max: int, beside: asyncio.BaseProtocol | None = None) -> None:
        """`beside`: the protocol that the connection had before, which is told of its end."""
        self._client, self._beside = client, beside
        self._came = _Frames(masked=not client, frame_bytes_max=frame_bytes_max)
        self._take: Callable[[bytes], None] | None = None
        self._held = True  # nothing is given on now
        self._giving = False
        self._full = False  # the other end takes less than is sent
        self._room: set[asyncio.Future[None]] = set()
        self._closing = False
        self._found: socket.socket | None = None  # below it all, for an end that nothing else makes
        self._waiter: asyncio.Future[bytes] | None = None  # for one frame
        self._ended = asyncio.Event()  # no frame comes any more
        self._gone = asyncio.Event()  # nor can one be sent

    def take_over(self, transport: asyncio.BaseTransport, came: bytes = b"") -> None:
        """From now on this is the protocol of an upgraded connection, on which `came` was read already."""
        self._transport = cast("asyncio.Transport", transport)
        self._found = self._transport.get_extra_info("socket")
        room = self._came.room()
        assert len(came) <= len(room), "what was read with an answer's head"
        room[: len(came)] = came
        self._came.filled += len(came)
        transport.set_protocol(self)
        if self._transport.is_closing():
            self._end()
        else:
            self._transport.resume_reading()

    def send_now(self, frame: bytes) -> bool:
        """Send a frame; False, and nothing is sent, if the other end is behind. `ConnectionError` if it is gone."""
        if self._full:
            return False
        self._write(_binary, frame)
        return True

    async def send_bytes(self, frame: bytes) -> None:
        """Send a frame, and wait while the other end is behind."""
        self._write(_binary, frame)
        while self._full:
            waiter = asyncio.get_running_loop().create_future()
            self._room.add(waiter)
            try:
                await waiter
            finally:
                self._room.discard(waiter)

    async def one(self) -> bytes:
        """The next frame; `ConnectionError` if none comes."""
        waiter: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiter = waiter

        def take(frame: bytes) -> None:
            self._held = True
            if not waiter.done():
                waiter.set_result(frame)

        if self._closing:
            raise ConnectionResetError("expected a frame, found the connection closed")
        self._begin(take)
        return await waiter

    async def read(self, take: Callable[[bytes], None]) -> None:
        """Give frames on until it ends. `take` may `hold` them up, and `shut` it."""
        self._begin(take)
        await self._ended.wait()

    def hold(self) -> None:
        """No further frame is given on, nor read, until `release`."""
        self._held = True
        self._transport.pause_reading()

    def release(self) -> None:
        """Go on."""
        self._held = False
        if not self._closing:
            self._transport.resume_reading()
        self._give()

    def shut(self) -> None:
        """Begin to end it: what was sent goes out, nothing is given on any more."""
        if self._closing:
            return
        with suppress(ConnectionError):
            self._write(_closes, _going)
        self._end()
        if not self._transport.is_closing():  # a second `close` of TLS takes its `abort` away (Python 3.11)
            self._transport.close()
        asyncio.get_running_loop().call_later(_close_seconds, self._abort)

    async def close(self) -> bool:
        """End it; whether it had not ended before."""
        began = not self._closing
        self.shut()
        await self._gone.wait()
        return began

    def _begin(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self.release()

    def _abort(self) -> None:
        if not self._gone.is_set():
            self._transport.abort()
            with suppress(OSError):  # it ends also where somebody else closed the transport before
                if self._found is not None:
                    self._found.shutdown(socket.SHUT_RDWR)

    def _end(self) -> None:
        self._closing = True
        self._ended.set()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionResetError("expected a frame, found the connection closed"))

    def _write(self, opcode: int, payload: bytes) -> None:
        if self._closing or self._transport.is_closing():
            raise ConnectionResetError("expected an open connection, found it closing")
        length = len(payload)
        masked = _masked if self._client else 0
        if length < 126:
            head = bytes((_final | opcode, masked | length))
        elif length < 1 << 16:
            head = bytes((_final | opcode, masked | 126)) + length.to_bytes(2, "big")
        else:
            head = bytes((_final | opcode, masked | 127)) + length.to_bytes(8, "big")
        self._transport.write(b"".join((head, bytes(4) if masked else b"", payload)))

    def _give(self) -> None:
        """Give on what has come."""
        if self._giving:
            return  # whoever takes a frame let go of the next
        self._giving = True
        try:
            while not self._held and not self._closing:
                frame = self._came.next()
                if frame is None:
                    break
                self._took(*frame)
        except _NoFrameError:
            self.shut()
        finally:
            self._giving = False
            self._came.compact()

    def _took(self, opcode: int, payload: bytes) -> None:
        if opcode == _binary:
            assert self._take is not None, "nothing is given on before"
            self._take(payload)
        elif opcode == _closes:
            self.shut()
        elif opcode == _pings and not self._full:
            self._write(_pongs, payload)

    # -- asyncio's side

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Where the next bytes go."""
        return self._came.room()

    def buffer_updated(self, nbytes: int) -> None:
        """So many went there."""
        self._came.filled += nbytes
        self._give()
        if not self._came.room() and not self._closing:  # it is held up
            self._transport.pause_reading()

    def eof_received(self) -> None:
        """The other end says nothing any more: what it does not take of ours within seconds is lost."""
        self.shut()

    def pause_writing(self) -> None:
        """The other end is behind."""
        self._full = True

    def resume_writing(self) -> None:
        """It caught up."""
        self._full = False
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by whichever end."""
        self._end()
        self._gone.set()
        self._full = False
        self._wake()
        if self._beside is not None:
            cast("asyncio.Protocol", self._beside).connection_lost(exc)

    def _wake(self) -> None:
        for waiter in self._room:
            if not waiter.done():
                waiter.set_result(None)


def _unmasked(payload: bytes, key: bytes) -> bytes:
    if not any(key):
        return payload
    padded = payload + bytes(-len(payload) % 4)
    whole = np.frombuffer(padded, "<u4") ^ np.frombuffer(key, "<u4")
    return whole.tobytes()[: len(payload)]
