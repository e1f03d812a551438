"""One HTTP/1.1 connection for `GET`, whose bodies go from the socket straight into the caller's buffer (RFC 9112).

It may be `upgraded` to a WebSocket.

A client library copies every byte two or three times into memory that is new each time; where the other end is near,
that costs more than everything else. So this does the little that is needed: a request line, a bounded head, a body of
a promised length. An answer without a length, or in chunks, is none.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ssl import SSLContext
from typing import Final, cast
from urllib.parse import SplitResult

from blyan.network import tls
from blyan.network.frames import FrameSocket
from blyan.network.identity import hash_certificate
from blyan.primitives import limits

_status_line: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [^\r\n]*)?")
_field: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*")
_interim_max: Final = 8  # 1xx answers before the one that counts
_accepts: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3


class NoAnswer(Exception):
    """Nothing, or the beginning of something, came; `reused`: on a connection that the other end may have given up."""

    def __init__(self, why: str, *, reused: bool = False) -> None:
        super().__init__(why)
        self.reused = reused


class NoHttp(Exception):
    """What came is no answer that is understood."""


@dataclass(frozen=True, slots=True)
class Head:
    """What an answer begins with."""

    status: int
    fields: Mapping[str, str]  # names in lower case; of several of one name the first
    length: int  # bytes of the body
    persistent: bool


class Connection(asyncio.BufferedProtocol):
    """Answers one request at a time. What arrives while nobody reads is kept, up to a head's size, then held up."""

    def __init__(self, stall_seconds: float) -> None:
        self._stall_seconds = stall_seconds
        self._kept = bytearray(limits.response_head_bytes_max)
        self._filled = 0  # bytes of it
        self._target: memoryview | None = None  # where the body goes while somebody reads it
        self._told: Callable[[int], None] = _nobody
        self._waiter: asyncio.Future[None] | None = None
        self._limit: asyncio.Timeout | None = None
        self._lost: str | None = None
        self._left = 0  # bytes of the body that were not read
        self._persistent = True
        self._used = False

    @classmethod
    async def open(
        cls, parts: SplitResult, context: SSLContext | None, certificate: str, stall_seconds: float
    ) -> Connection:
        """Connect; `NoAnswer` if that takes too long or fails, or the other end shows another certificate.

        `certificate` is the SHA-256 of the one it must show, in hex; empty where `context` says enough.
        """
        made = cls(stall_seconds)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        seconds = limits.source_connect_seconds
        try:
            if context is None:
                async with asyncio.timeout(seconds):
                    loop = asyncio.get_running_loop()
                    await loop.create_connection(lambda: made, host, port, happy_eyeballs_delay=0.25)
            else:
                await tls.connect(context, made, host, port, seconds)
        except TimeoutError:
            raise NoAnswer(f"expected a connection within {seconds:g} s, found none") from None
        except OSError as reason:
            raise NoAnswer(f"expected a connection, found {type(reason).__name__} {reason}"[:300]) from None
        if certificate and made.certificate != certificate:
            made.close()
            raise NoAnswer(f"expected the certificate {certificate[:16]}…, found {made.certificate[:16]}…")
        return made

    @property
    def certificate(self) -> str:
        """The SHA-256 of the one that the other end showed, in hex."""
        shown = self._transport.get_extra_info("ssl_object")
        return "no TLS" if shown is None else hash_certificate(shown.getpeercert(binary_form=True) or b"")

    @property
    def reusable(self) -> bool:
        """Whether another request may follow."""
        return self._persistent and self._lost is None and not self._left and not self._filled

    def close(self) -> None:
        """At once."""
        self._transport.abort()

    async def get(self, host: str, path: str, span: tuple[int, int] | None, token: str = "") -> Head:
        """Ask for `path`, or a range of it; the body is then there to be read. `NoAnswer`, `NoHttp`."""
        reused, self._used = self._used, True
        lines = ["Accept-Encoding: identity"]
        if span is not None:
            lines.append(f"Range: bytes={span[0]}-{span[1] - 1}")
        if token:
            lines.append(f"Authorization: Bearer {token}")
        self._ask(host, path, lines)
        for _ in range(_interim_max):
            head = _parse(await self._head(reused=reused))
            if head.status >= 200:
                self._left, self._persistent = head.length, head.persistent
                return head
        raise NoHttp(f"expected an answer, found {_interim_max} announcements of one")

    async def upgraded(
        self, host: str, path: str, fields: Mapping[str, str], nonce: bytes, frame_bytes_max: int
    ) -> FrameSocket:
        """A WebSocket at `path`, to which this connection belongs from then on. `NoAnswer`, `NoHttp`.

        `nonce`: 16 bytes, by which an answer is known from one that is kept for somebody else.
        """
        self._used, self._persistent = True, False
        key = base64.b64encode(nonce)
        said = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": key.decode("ascii"),
            **fields,
        }
        self._ask(host, path, [f"{name}: {value}" for name, value in said.items()])
        head = _parse(await self._head(reused=False))
        accepted = base64.b64encode(hashlib.sha1(key + _accepts, usedforsecurity=False).digest()).decode("ascii")
        if head.status != 101 or head.fields.get("sec-websocket-accept") != accepted:
            raise NoHttp(f"expected a WebSocket, found status {head.status}")
        socket = FrameSocket(client=True, frame_bytes_max=frame_bytes_max)
        socket.take_over(self._transport, bytes(self._kept[: self._filled]))
        return socket

    def _ask(self, host: str, path: str, fields: Sequence[str]) -> None:
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "User-Agent: blyan", *fields, "", ""]
        self._transport.write("\r\n".join(lines).encode("ascii"))

    async def read(self, view: memoryview, told: Callable[[int], None]) -> int:
        """Fill `view` from the body, telling how many bytes came each time; fewer only at the body's end.

        `NoAnswer` if it breaks off or falls silent; what was told of is in `view` then too.
        """
        wanted = min(len(view), self._left)
        at = min(self._filled, wanted)
        if at:
            view[:at] = self._kept[:at]
            self._keep_from(at)
            self._left -= at
            told(at)
        if at < wanted:
            self._target, self._told = view[at:wanted], told
            try:
                while self._reading:
                    await self._more("the rest of the answer")
            finally:
                self._target = None  # whoever was cancelled gives the buffer to somebody else
        return wanted

    async def _head(self, *, reused: bool) -> bytes:
        """The next head, without the empty line that ends it."""
        while (end := self._kept.find(b"\r\n\r\n", 0, self._filled)) < 0:
            if self._filled == len(self._kept):
                raise NoHttp(f"expected a head of at most {len(self._kept)} bytes, found more")
            try:
                await self._more("an answer")
            except NoAnswer as reason:
                raise NoAnswer(str(reason), reused=reused and not self._filled and self._lost is not None) from None
        head = bytes(self._kept[:end])
        self._keep_from(end + 4)
        return head

    def _keep_from(self, at: int) -> None:
        self._kept[: self._filled - at] = self._kept[at : self._filled]
        self._filled -= at

    async def _more(self, what: str) -> None:
        """Wait until more came; `NoAnswer` if nothing did for too long, or nothing can."""
        if self._lost is not None:
            raise NoAnswer(f"expected {what}, found {self._lost}")
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.resume_reading()
        try:
            async with asyncio.timeout(self._stall_seconds) as self._limit:
                await self._waiter
        except TimeoutError:
            raise NoAnswer(f"expected {what}, found silence for {self._stall_seconds:g} s") from None
        finally:
            self._waiter = self._limit = None

    @property
    def _reading(self) -> bool:
        return self._target is not None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Where the next bytes go."""
        return memoryview(self._kept)[self._filled :] if self._target is None else self._target

    def buffer_updated(self, nbytes: int) -> None:
        """So many went there."""
        if self._target is None:
            self._filled += nbytes
            if self._filled == len(self._kept):
                self._transport.pause_reading()
            self._wake()
            return
        self._left -= nbytes
        self._told(nbytes)
        self._target = self._target[nbytes:]
        if not self._target:
            self._target = None
            self._wake()
        elif self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time() + self._stall_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by whichever end."""
        self._lost = "the connection closed" if exc is None else f"{type(exc).__name__} {exc}"[:300]
        self._wake()


def _nobody(_count: int) -> None:
    """Nobody reads."""


def _parse(raw: bytes) -> Head:
    first, *lines = raw.split(b"\r\n")
    status = _status_line.fullmatch(first)
    fields: dict[str, str] = {}
    lengths: set[bytes] = set()
    for line in lines:
        found = _field.fullmatch(line)
        if found is None:
            raise NoHttp(f"expected a header field, found {line[:80]!r}")
        name = found[1].decode("ascii").lower()
        fields.setdefault(name, found[2].decode("latin-1"))
        if name == "content-length":
            lengths.add(found[2])
    if status is None:
        raise NoHttp(f"expected HTTP/1.1, found {first[:80]!r}")
    code = int(status[2])
    if code < 200 or code in (204, 304):  # which have no body
        lengths = {b"0"}
    length = next(iter(lengths), b"")
    framed = "transfer-encoding" not in fields and len(lengths) == 1 and re.fullmatch(rb"[0-9]{1,16}", length)
    if not framed and code in (200, 206):
        raise NoHttp("expected one Content-Length, found another framing")
    said = {each.strip().lower() for each in fields.get("connection", "").split(",")}
    persistent = "close" not in said if status[1] == b"1" else "keep-alive" in said
    return Head(code, fields, int(length) if framed else 0, persistent and bool(framed))
