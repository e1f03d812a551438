"""TLS on a connection of asyncio's, by OpenSSL in memory (`ssl.SSLObject`), for half of what asyncio's own costs.

What arrives is decrypted into the reader's buffer, and what is written goes out, in the very turn of the loop in which
it comes: no backlog and no second flow control stand between, since the connection below has one. It is TLS as
everybody speaks it; only the way from socket to reader is shorter. For the network's loop.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, Final, Protocol, TypeAlias, cast

_buffer_bytes: Final = 128 * 1024  # of what came and is still encrypted, for each connection
_read_bytes: Final = 64 * 1024  # at once, for a reader without a buffer
_close_seconds: Final = 30.0  # in which the other end takes what was written, and closes too

Done: TypeAlias = Callable[[Exception | None], None]
Buffer: TypeAlias = memoryview | bytearray


class _Buffered(Protocol):
    """`asyncio.BufferedProtocol` with buffers that say how long they are."""

    def get_buffer(self, sizehint: int) -> Buffer:
        """Where the next bytes go."""
        ...

    def buffer_updated(self, nbytes: int) -> None:
        """So many went there."""
        ...


class _Session:
    """One end of TLS in memory: `came` holds what is to be decrypted, `goes` what is to be sent."""

    def __init__(self, context: ssl.SSLContext, *, server: bool, hostname: str | None) -> None:
        self.came, self.goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.context = context
        self.tls = context.wrap_bio(self.came, self.goes, server_side=server, server_hostname=hostname)
        self.buffer = memoryview(bytearray(_buffer_bytes))

    def send(self, wire: asyncio.Transport) -> None:
        """What TLS has to say itself."""
        if self.goes.pending and not wire.is_closing():
            wire.write(self.goes.read())


class TlsHandshake(asyncio.BufferedProtocol):
    """One end until TLS is agreed on: `protocol` is told `connection_made` then, and nothing at all if it never is."""

    def __init__(
        self,
        context: ssl.SSLContext,
        protocol: asyncio.BaseProtocol,
        *,
        server: bool,
        seconds: float,
        hostname: str | None = None,
        done: Done = lambda _reason: None,
    ) -> None:
        """`hostname`: what `context` may want to see certified. `done` is told once: None, or why there is no TLS."""
        self._session = _Session(context, server=server, hostname=hostname)
        self._protocol, self._seconds, self._done = protocol, seconds, done
        self._wire: asyncio.Transport | None = None
        self._late: asyncio.TimerHandle | None = None
        self._told = False

    def fail(self, reason: Exception) -> None:
        """Give it up."""
        if self._wire is not None:
            self._wire.abort()
        self._tell(reason)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection below is open."""
        self._wire = cast("asyncio.Transport", transport)
        late = TimeoutError(f"expected TLS within {self._seconds:g} s, found none")
        self._late = asyncio.get_running_loop().call_later(self._seconds, self.fail, late)
        self._shake(self._wire)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Where the next bytes go."""
        return self._session.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """So many went there."""
        assert self._wire is not None, "bytes came over it"
        self._session.came.write(self._session.buffer[:nbytes])
        self._shake(self._wire)

    def eof_received(self) -> None:
        """The other end says nothing any more."""
        self._tell(ConnectionResetError("expected TLS, found the connection closed"))

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._tell(exc or ConnectionResetError("expected TLS, found the connection closed"))

    def _shake(self, wire: asyncio.Transport) -> None:
        try:
            self._session.tls.do_handshake()
        except ssl.SSLWantReadError:
            self._session.send(wire)
        except ssl.SSLError as reason:
            self._session.send(wire)  # its own word of it
            self.fail(reason)
        else:
            self._session.send(wire)
            made = TlsTransport(self._session, wire, self._protocol)
            wire.set_protocol(made)
            self._protocol.connection_made(made)
            self._tell(None)
            made.buffer_updated(0)  # the other end did not wait to be heard

    def _tell(self, reason: Exception | None) -> None:
        if self._late is not None:
            self._late.cancel()
        if not self._told:
            self._told = True
            self._done(reason)


class _Above(asyncio.Transport):
    """A transport on another one: what that one knows and counts."""

    def __init__(self, session: _Session, wire: asyncio.Transport) -> None:
        super().__init__()
        self._session, self._tls, self._wire = session, session.tls, wire

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`ssl_object`, `sslcontext`, or what the connection below knows."""
        if name == "ssl_object":
            return self._tls
        if name == "sslcontext":
            return self._session.context
        return self._wire.get_extra_info(name, default)

    def get_write_buffer_size(self) -> int:
        """Encrypted bytes that the other end did not take yet."""
        return self._wire.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Encrypted bytes at which writing goes on again, and above which it pauses."""
        return self._wire.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set these."""
        self._wire.set_write_buffer_limits(high, low)

    def can_write_eof(self) -> bool:
        """TLS is not half closed here."""
        return False

    def write_eof(self) -> None:
        """TLS is not half closed here."""
        raise NotImplementedError("TLS: expected a connection to stay open or to close, found one to close half")


class TlsTransport(asyncio.BufferedProtocol, _Above):
    """One end of TLS: protocol of the connection below, and transport of `protocol`, which reads and writes."""

    def __init__(self, session: _Session, wire: asyncio.Transport, protocol: asyncio.BaseProtocol) -> None:
        super().__init__(session, wire)
        self._came, self._goes, self._buffer = session.came, session.goes, session.buffer
        self._read = cast("Callable[[int, Buffer], int]", session.tls.read)
        self._over: Callable[[], None] | None = None  # what is to be done when all that came is given
        self._paused = False  # by the reader
        self._giving = False
        self._ended = False  # the other end says nothing any more
        self._closing = False
        self._broken: Exception | None = None
        self._late: asyncio.TimerHandle | None = None  # while it closes
        self.set_protocol(protocol)

    # -- the side of the connection below

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Where the next encrypted bytes go."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """So many went there."""
        if not self._closing:  # else they are taken and given to nobody: `close` says why
            self._came.write(self._buffer[:nbytes])
            self._give()

    def eof_received(self) -> None:
        """Nothing comes any more, whether TLS said so or not: who needs to know what is missing counts it."""
        if not self._closing:
            self._end()

    def pause_writing(self) -> None:
        """The other end is behind."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """It caught up."""
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._closing = True
        if self._late is not None:
            self._late.cancel()
        self._protocol.connection_lost(self._broken or exc)

    def _give(self) -> None:
        """Decrypt what has come, for as long as the reader takes it: as much at once as it has room for.

        A reader that bounds what it does in a turn does so for each time that it is given something.
        """
        if self._giving:
            return
        self._giving = True
        try:
            while self.is_reading() and self._give_once():
                pass
        finally:
            self._giving = False
        if self._goes.pending:
            self._session.send(self._wire)

    def _give_once(self) -> bool:
        """Whether there may be more."""
        if self._over is not None:  # which comes after all that was decrypted
            self._over()
            return False
        if self._buffered is None:
            into = self._spare
            count = self._decrypted(into)
            if count:
                cast("asyncio.Protocol", self._protocol).data_received(bytes(into[:count]))
        else:
            into = self._buffered.get_buffer(-1)
            count = self._decrypted(into)
            if count:
                self._buffered.buffer_updated(count)
        return count == len(into) or self._over is not None

    def _decrypted(self, into: Buffer) -> int:
        """Bytes that were put there, of all records that have come whole and fit."""
        filled, room = 0, len(into)
        assert room, "a reader without room pauses"
        try:
            while filled < room:
                left = memoryview(into)[filled:] if filled else into
                count = self._read(room - filled, left)
                if not count:
                    self._over = self._end
                    break
                filled += count
                if not self._came.pending and filled < room:
                    break
        except ssl.SSLWantReadError:
            pass  # a record is not whole
        except ssl.SSLError as reason:
            self._over = partial(self._fail, reason)
        return filled

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            cast("asyncio.Protocol", self._protocol).eof_received()
            self.close()

    def _fail(self, reason: Exception) -> None:
        self._broken = self._broken or reason
        self._session.send(self._wire)  # its own word of it
        self.abort()

    def _go_on(self) -> None:
        with ExitStack() as broken:
            broken.callback(self.abort)  # as asyncio does with a reader that fails
            if self.is_reading():
                self._give()
            if self.is_reading():
                self._wire.resume_reading()
            broken.pop_all()

    # -- the side of whoever reads and writes

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send it; nothing where it is closing."""
        if self._closing or not data:
            return
        whole = data if isinstance(data, bytes) else memoryview(data).cast("B")
        try:
            written = self._tls.write(whole)
        except ssl.SSLError as reason:
            self._fail(reason)
            return
        assert written == len(whole), "memory takes all of it"
        self._wire.write(self._goes.read())

    def close(self) -> None:
        """Send what was written and TLS's end, and wait for a while until the other end closes too.

        Were it closed at once with something of the other's unread, it would be reset, and what was written be lost.
        """
        if self._closing:
            return
        self._closing = True
        with suppress(ssl.SSLError):  # the other's word is not waited for
            self._tls.unwrap()
        self._session.send(self._wire)
        self._late = asyncio.get_running_loop().call_later(_close_seconds, self._wire.abort)
        if self._ended or self._wire.is_closing():
            self._wire.close()
            return
        try:
            self._wire.write_eof()
        except OSError:  # it is reset
            self._wire.abort()
        else:
            self._wire.resume_reading()

    def abort(self) -> None:
        """Let go of it at once: what was not sent is lost."""
        self._closing = True
        self._wire.abort()

    def is_closing(self) -> bool:
        """Whether nothing can be written any more."""
        return self._closing or self._wire.is_closing()

    def pause_reading(self) -> None:
        """Give nothing on until `resume_reading`; the other end is held up."""
        if self.is_reading():
            self._paused = True
            self._wire.pause_reading()

    def resume_reading(self) -> None:
        """Go on, in another turn of the loop."""
        if self._paused:
            self._paused = False
            asyncio.get_running_loop().call_soon(self._go_on)

    def is_reading(self) -> bool:
        """Whether what comes is given on."""
        return not self._paused and not self._closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Who reads from now on; one without a buffer is lent one."""
        self._protocol = protocol
        buffered = isinstance(protocol, asyncio.BufferedProtocol)
        self._buffered = cast("_Buffered", protocol) if buffered else None
        self._spare = memoryview(bytearray(0 if buffered else _read_bytes))

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who reads."""
        return self._protocol


async def connect(
    context: ssl.SSLContext, protocol: asyncio.BaseProtocol, host: str, port: int, seconds: float
) -> None:
    """Connect `protocol` by TLS; `OSError` says why that failed, or was not done in so many seconds."""
    loop = asyncio.get_running_loop()
    opened = loop.create_future()

    def done(reason: Exception | None) -> None:
        if opened.done():
            return  # nobody waits
        if reason is None:
            opened.set_result(None)
        else:
            opened.set_exception(reason)

    shake = TlsHandshake(context, protocol, server=False, seconds=seconds, hostname=host, done=done)
    try:
        async with asyncio.timeout(seconds):
            await loop.create_connection(lambda: shake, host, port, happy_eyeballs_delay=0.25)
            await opened
    except BaseException:  # also where it was agreed on in the turn in which nobody waits any more
        if not opened.cancel() and not opened.cancelled():
            opened.exception()  # nobody asks for it
        shake.fail(ConnectionAbortedError("nobody waits for it"))
        raise
