"""One question to one source: a payload's tile index, or a run of its bytes. HTTP/1.1 with `Range` (RFC 9110, 14).

An answer is taken only if it is wholly what was asked for: no redirect is followed, no encoding undone, nothing past
the promised length read. What comes is unverified. Two layouts are tried, a node's and that of a blob store's folders,
until one of them answers (docs/spec/mirror.md).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import cached_property
from ssl import SSLContext, create_default_context
from typing import Final
from urllib.parse import urlsplit

from blyan.network.connection import Connection, Head, NoAnswer, NoHttp
from blyan.network.identity import client_context
from blyan.network.rate import TokenBucket
from blyan.network.sources import Source
from blyan.primitives import limits
from blyan.primitives.digest import digest_bytes
from blyan.primitives.ids import PayloadId
from blyan.storage.partial import index_suffix
from blyan.storage.tile import subtile_count

_again: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_read_bytes_paced: Final = 64 * limits.KIB
_content_range: Final = re.compile(r"bytes ([0-9]{1,16})-([0-9]{1,16})/([0-9]{1,16}|\*)")


class Absent(Exception):
    """The source says that it has it not."""


class WrongAnswer(Exception):
    """Another one than was asked for: asking again would not help."""


class Failing(Exception):
    """No answer, or one that broke off: it may be another one in a moment."""

    def __init__(self, why: str, pause: float | None = None) -> None:
        super().__init__(why)
        self.pause = pause  # seconds that the source asks to wait


class WithoutRanges(Exception):
    """The source answers with the whole payload."""


def _node_path(payload: PayloadId) -> str:
    return f"/{payload}"


def _node_index_path(payload: PayloadId) -> str:
    return f"/{payload}/index"


def _store_path(payload: PayloadId) -> str:
    return f"/{payload[:2]}/{payload}"


def _store_index_path(payload: PayloadId) -> str:
    return f"/{payload[:2]}/{payload}{index_suffix}"


_layouts: Final = ((_node_path, _node_index_path), (_store_path, _store_index_path))


class Body:
    """The bytes of one answer, as they come."""

    def __init__(self, connection: Connection, pace: Callable[[int], Awaitable[None]], at_once: int) -> None:
        self._connection = connection
        self._pace = pace
        self._at_once = at_once

    async def fill(self, view: memoryview, told: Callable[[int], None]) -> None:
        """Fill `view`, telling how many bytes came each time; `Failing` if the answer breaks off."""
        for at in range(0, len(view), self._at_once):
            part = view[at : at + self._at_once]
            try:
                await self._connection.read(part, told)
            except NoAnswer as reason:
                raise Failing(str(reason)) from None
            await self._pace(len(part))


class Requests:
    """What the sources of one fetch have in common: the rate of all together, how long silence may be."""

    def __init__(self, rate: int, source_rate: int, stall_seconds: float) -> None:
        self.stall_seconds = stall_seconds
        # what is read at once: where there are rates, little, so that they hold up the other end and not only us
        self.read_bytes = _read_bytes_paced if rate or source_rate else limits.tile_bytes
        self._source_rate = source_rate
        self._all = TokenBucket(rate, _now())

    def to(self, source: Source) -> SourceRequests:
        """What asks one source."""
        return SourceRequests(self, source, TokenBucket(self._source_rate, _now()))

    async def wait(self, count: int, own: TokenBucket, waits: Callable[[float], None]) -> None:
        """Wait until `count` bytes that came are within the rates; `waits` hears for how long it will be."""
        seconds = max(self._all.take(count, _now()), own.take(count, _now()))
        waits(seconds)
        if seconds:
            await asyncio.sleep(seconds)

    def tls(self, source: Source) -> SSLContext | None:
        """What https needs: certificates as the system trusts them, or the one that is pinned, whoever vouches."""
        if not source.url.startswith("https:"):
            return None
        return self._pinned if source.certificate else self._trusted

    @cached_property
    def _trusted(self) -> SSLContext:
        return create_default_context()

    @cached_property
    def _pinned(self) -> SSLContext:
        return client_context()


class SourceRequests:
    """What asks one source; remembers which layout it has."""

    def __init__(self, requests: Requests, source: Source, bucket: TokenBucket) -> None:
        self._source = source
        self._requests = requests
        self._bucket = bucket
        self._layouts = _layouts
        self._parts = urlsplit(source.url)
        self._idle: list[Connection] = []

    def close(self) -> None:
        """Let its connections go."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def index(self, payload: PayloadId, length: int) -> bytes:
        """The tile index that the source gives, of the right length and unverified.

        `Absent`, `WrongAnswer`, `Failing`.
        """
        raw = bytearray(digest_bytes * subtile_count(length))
        for layout in self._layouts:
            try:
                async with self._get(layout[1](payload), None) as (head, connection):
                    if head.length != len(raw):
                        raise WrongAnswer(f"expected {len(raw)} bytes, found {head.length}")
                    await self._body(connection, _no_matter).fill(memoryview(raw), _no_matter)
            except Absent:
                continue
            self._layouts = (layout,)
            return bytes(raw)
        raise Absent

    @asynccontextmanager
    async def run(
        self, payload: PayloadId, length: int, span: tuple[int, int], waits: Callable[[float], None]
    ) -> AsyncGenerator[Body, None]:
        """The body of an answer that holds exactly the bytes of `span`; `waits` hears for how long rates hold it up.

        `Absent`, `WrongAnswer`, `Failing`; `WithoutRanges` if the source begins to send all of a longer payload.
        """
        whole = span == (0, length)
        for layout in self._layouts:
            try:
                async with self._get(layout[0](payload), None if whole else span) as (head, connection):
                    if not whole and head.status == 200:
                        raise WithoutRanges
                    _want_span(head, span, length)
                    self._layouts = (layout,)
                    yield self._body(connection, waits)
                    return
            except Absent:
                continue
        raise Absent

    def _body(self, connection: Connection, waits: Callable[[float], None]) -> Body:
        return Body(
            connection, lambda count: self._requests.wait(count, self._bucket, waits), self._requests.read_bytes
        )

    @asynccontextmanager
    async def _get(self, path: str, span: tuple[int, int] | None) -> AsyncGenerator[tuple[Head, Connection], None]:
        """An answer with one of the statuses 200 and 206; its connection is closed unless it was read to its end."""
        head, connection = await self._answer(self._parts.path + path, span)
        try:
            encoding = head.fields.get("content-encoding", "identity")
            if head.status in _again:
                raise Failing(f"expected status 200 or 206, found status {head.status}", _retry_after(head))
            if head.status in (404, 410):
                await _pass(head, connection)
                raise Absent
            if head.status not in (200, 206) or encoding != "identity":
                found = f"status {head.status}" if encoding == "identity" else f"encoding {encoding[:40]!r}"
                raise WrongAnswer(f"expected status 200 or 206 and no encoding, found {found}")
            yield head, connection
        finally:
            if connection.reusable:
                self._idle.append(connection)
            else:
                connection.close()

    async def _answer(self, path: str, span: tuple[int, int] | None) -> tuple[Head, Connection]:
        """On a connection that is there, or a new one; a second try where the other end had given it up."""
        while True:
            head = connection = None
            try:
                connection = await self._connected()
                head = await connection.get(self._parts.netloc, path, span, self._source.token)
                return head, connection
            except NoHttp as reason:
                raise WrongAnswer(str(reason)) from None
            except NoAnswer as reason:
                if not reason.reused:
                    raise Failing(str(reason)) from None
            finally:
                if head is None and connection is not None:
                    connection.close()

    async def _connected(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
            connection.close()
        return await Connection.open(
            self._parts, self._requests.tls(self._source), self._source.certificate, self._requests.stall_seconds
        )


async def _pass(head: Head, connection: Connection) -> None:
    """Read a short body that nobody needs, so that the connection can be used again."""
    if head.length <= limits.response_head_bytes_max:
        with suppress(NoAnswer):
            await connection.read(memoryview(bytearray(head.length)), _no_matter)


def _want_span(head: Head, span: tuple[int, int], length: int) -> None:
    """`WrongAnswer` unless the answer promises just those bytes of a payload of that length."""
    expected = span[1] - span[0]
    if head.length != expected:
        raise WrongAnswer(f"expected {expected} bytes, found {head.length}")
    said = head.fields.get("content-range")
    if head.status == 206 and said is not None:
        match = _content_range.fullmatch(said)
        if match is None or match[3] not in ("*", str(length)) or (int(match[1]), int(match[2]) + 1) != span:
            raise WrongAnswer(f"expected bytes {span[0]}-{span[1] - 1}/{length}, found {said[:80]!r}")


def _retry_after(head: Head) -> float | None:
    text = head.fields.get("retry-after", "")
    return min(float(text), limits.source_pause_seconds_max) if re.fullmatch(r"[0-9]{1,9}", text) else None


def _no_matter(_count: float) -> None:
    """Nobody wants to know."""


def _now() -> float:
    return asyncio.get_running_loop().time()
