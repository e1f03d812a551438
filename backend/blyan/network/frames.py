"""WebSocket frames on a connection that was upgraded to them (RFC 6455): binary and whole, without compression.

Each is given on in the very turn of the loop in which its last byte came: no queue and no task stand between, which
for small frames is most of what a library's WebSocket costs. What is none of these frames ends the connection. What
we send as a client is masked with zeros: masking keeps intermediaries from taking frames for HTTP, and here they see
TLS. For the network's loop.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple, cast

import numpy as np

from blyan.primitives import limits

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
        self._masked, self.frame_bytes_max = masked, frame_bytes_max
        self._buffer = memoryview(bytearray(_buffer_bytes))
        self._at = 0  # bytes of it that were taken
        self.filled = 0
        self._large: bytearray | None = None  # the beginning of a frame that does not fit in there
        self._header = _Header(0, b"", 0, 0)  # of that

    def room(self) -> memoryview:
        """Where the next bytes go."""
        return self._buffer[self.filled :]

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
            return header.opcode, _unmasked(bytes(self._buffer[begin:end]), header.key)
        if header.begin + header.length <= len(self._buffer):
            return None
        self._at = begin
        self._header, self._large = header, bytearray()
        return self._grown(self._large)

    def _grown(self, large: bytearray) -> tuple[int, bytes] | None:
        came = min(self.filled - self._at, self._header.length - len(large))
        large += self._buffer[self._at : self._at + came]
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
        fits = length <= (self.frame_bytes_max if opcode == _binary else _control_bytes_max)
        known = first & 0xF0 == _final and opcode in (_binary, _closes, _pings, _pongs)
        if not fits or not known or bool(second & _masked) is not self._masked:
            raise _NoFrameError
        if not self._masked:
            return _Header(opcode, b"", begin, length)
        if here < begin + 4:
            return None
        return _Header(opcode, bytes(buffer[at + begin : at + begin + 4]), begin + 4, length)


class _Sending:
    """Frames on their way out: in the order in which they were given, no more of them than the other end takes."""

    def __init__(self, *, masked: bool) -> None:
        self._masked = _masked if masked else 0
        self._waiting: OrderedDict[asyncio.Future[None], bytes] = OrderedDict()  # frames that were not written yet
        self._room: list[asyncio.Future[None]] = []  # of the last ones that were
        self.full = False  # the other end takes less than is sent
        self.closed = False
        self.pinged: bytes | None = None  # by the last ping that was not answered

    def begin(self, transport: asyncio.Transport) -> None:
        """This way, before anything else."""
        self.transport = transport

    def now(self, frame: bytes) -> bool:
        """One frame; False if others wait, or it would; `ConnectionError` if it is closed."""
        if (self.full or self._waiting) and not self.closed:
            return False
        self.write(_binary, frame)
        return True

    def in_turn(self, frame: bytes) -> asyncio.Future[None]:
        """One frame: done when it is written and there is room again; cancelled before, it is neither sent nor kept."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[place] = frame
        self._advance()
        if place in self._waiting:
            place.add_done_callback(lambda done: self._waiting.pop(done, None))
        return place

    def _advance(self) -> None:
        while self._waiting and (not self.full or self.closed):
            place, frame = self._waiting.popitem(last=False)
            if place.done():
                continue  # given up
            try:
                self.write(_binary, frame)
            except ConnectionError as reason:
                place.set_exception(reason)
            else:
                self._room.append(place)
        if not self.full:
            self._tell_room()

    def _tell_room(self) -> None:
        waiting, self._room = self._room, []
        for place in waiting:
            if not place.done():
                place.set_result(None)

    def write(self, opcode: int, payload: bytes) -> None:
        """Whether there is room or not; `ConnectionError` if it is closed."""
        if self.closed or self.transport.is_closing():
            raise ConnectionResetError("expected an open connection, found it closing")
        length = len(payload)
        if length < 126:
            head = bytes((_final | opcode, self._masked | length))
        elif length < 1 << 16:
            head = bytes((_final | opcode, self._masked | 126)) + length.to_bytes(2, "big")
        else:
            head = bytes((_final | opcode, self._masked | 127)) + length.to_bytes(8, "big")
        self.transport.write(b"".join((head, bytes(4) if self._masked else b"", payload)))

    def go_on(self) -> None:
        """There is room, or nobody needs any."""
        self.full = False
        self._tell_room()
        self._advance()

    def pong(self) -> None:
        """Answer the last ping: those before need none of their own (RFC 6455, section 5.5.3)."""
        if self.pinged is not None and not self.full and not self.closed:
            payload, self.pinged = self.pinged, None
            with suppress(ConnectionError):
                self.write(_pongs, payload)


class FrameSocket(asyncio.BufferedProtocol):
    """One end. `take_over` first; then `one` and `read`, one after the other."""

    def __init__(self, *, client: bool, frame_bytes_max: int, beside: asyncio.BaseProtocol | None = None) -> None:
        """`beside`: the protocol that the connection had before, which is told of its end."""
        self._beside = beside
        self._sending = _Sending(masked=client)
        self._came = _Frames(masked=not client, frame_bytes_max=frame_bytes_max)
        self._take: Callable[[bytes], None] | None = None
        self._held = True  # nothing is given on now
        self._giving = False
        self._again = False  # it goes on giving in another turn of the loop
        self._closing = False  # nothing can be sent, nor comes over the wire
        self._discards = False  # this end shut it: what came is given to nobody
        self._waiter: asyncio.Future[bytes] | None = None  # for one frame
        self._ended = asyncio.Event()  # no frame comes any more
        self._gone = asyncio.Event()  # nor can one be sent

    def take_over(self, transport: asyncio.BaseTransport, came: bytes = b"") -> None:
        """From now on this is the protocol of an upgraded connection, on which `came` was read already."""
        self._transport = cast("asyncio.Transport", transport)
        self._sending.begin(self._transport)
        room = self._came.room()
        assert len(came) <= len(room), "what was read with an answer's head"
        room[: len(came)] = came
        self._came.filled += len(came)
        transport.set_protocol(self)
        if self._transport.is_closing():
            self._end()
        else:
            self._transport.resume_reading()

    def allow(self, frame_bytes_max: int) -> None:
        """From the next frame on they may be as large."""
        self._came.frame_bytes_max = frame_bytes_max

    def send_now(self, frame: bytes) -> bool:
        """Send a frame; False, and nothing is sent, if it would have to wait. `ConnectionError` if it is gone."""
        return self._sending.now(frame)

    def send_bytes(self, frame: bytes) -> asyncio.Future[None]:
        """Send a frame as soon as the other end takes it, after those that wait already. `ConnectionError`.

        Its place is taken by the call, not when it is awaited. Given up before it is written, it is not sent.
        """
        return self._sending.in_turn(frame)

    async def one(self) -> bytes:
        """The next frame; `ConnectionError` if none comes. What came whole before the end is a frame yet."""
        waiter = self._waiter = asyncio.get_running_loop().create_future()

        def take(frame: bytes) -> None:
            self._held = True
            if not waiter.done():
                waiter.set_result(frame)

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
        self._discards = True
        self.leave()

    async def close(self) -> bool:
        """End it; whether it had not ended before."""
        began = not self._closing
        self.shut()
        await self._gone.wait()
        return began

    def _begin(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self.release()

    def leave(self) -> None:
        """Begin to end it, as the other end may: what came whole before is given on yet."""
        if self._closing:
            self._end()
            return
        with suppress(ConnectionError):
            self._sending.write(_closes, _going)
        self._end()
        self._transport.close()
        asyncio.get_running_loop().call_later(_close_seconds, self._abort)

    def _abort(self) -> None:
        if not self._gone.is_set():
            self._transport.abort()

    def _end(self) -> None:
        self._closing = self._sending.closed = True
        if not self._again or self._held or self._discards:
            self._over()

    def _over(self) -> None:
        """No frame comes any more, nor is one left that somebody waits for."""
        self._ended.set()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionResetError("expected a frame, found the connection closed"))

    def _give(self, *, again: bool = False) -> None:
        """Give on what has come; `again`: in the turn of the loop that was left to it, before which it gives none."""
        self._again &= not again
        if self._giving or self._again:
            return  # whoever takes a frame let go of the next; or others have their turn
        self._giving = True
        try:
            self._give_turn()
        except _NoFrameError:
            self.shut()
        except BaseException:
            self.shut()
            raise
        finally:
            self._giving = False
            self._came.compact()
        self._sending.pong()
        if self._closing and not self._again:
            self._over()
        elif not self._held and not self._closing:
            self._transport.resume_reading()  # there may have been no room

    def _give_turn(self) -> None:
        """What has come, as far as others may wait for it."""
        for _ in range(limits.frames_turn_max):
            if self._held or self._discards:
                return
            frame = self._came.next()
            if frame is None:
                return
            self._took(*frame)
        if not self._held and not self._discards:
            self._again = True
            asyncio.get_running_loop().call_soon(lambda: self._give(again=True))

    def _took(self, opcode: int, payload: bytes) -> None:
        if opcode == _binary:
            assert self._take is not None, "nothing is given on before"
            self._take(payload)
        elif opcode == _closes:
            self.shut()
        elif opcode == _pings:
            self._sending.pinged = payload

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
        self.leave()

    def pause_writing(self) -> None:
        """The other end is behind."""
        self._sending.full = True

    def resume_writing(self) -> None:
        """It caught up."""
        self._sending.go_on()
        self._sending.pong()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by whichever end."""
        self._end()
        self._gone.set()
        self._sending.go_on()
        if self._beside is not None:
            cast("asyncio.Protocol", self._beside).connection_lost(exc)


def _unmasked(payload: bytes, key: bytes) -> bytes:
    if not any(key):
        return payload
    padded = payload + bytes(-len(payload) % 4)
    whole = np.frombuffer(padded, "<u4") ^ np.frombuffer(key, "<u4")
    return whole.tobytes()[: len(payload)]
