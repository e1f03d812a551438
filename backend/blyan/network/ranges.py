"""One question to one source: a payload's tile index, or a run of its bytes. HTTP/1.1 with `Range` (RFC 9110, 14).

An answer is taken only if it is wholly what was asked for: no redirect is followed, no encoding undone, nothing past
the promised length read. What comes is unverified. Two layouts are tried, a node's and that of a blob store's folders,
until one of them answers (docs/spec/mirror.md).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, Self

import aiohttp

from blyan.network.rate import TokenBucket
from blyan.network.sources import Source
from blyan.primitives import limits
from blyan.primitives.digest import digest_bytes
from blyan.primitives.ids import PayloadId
from blyan.storage.partial import index_suffix
from blyan.storage.tile import subtile_count

_again: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_read_bytes: Final = limits.MIB  # what the kernel's next reads may gather before one is taken
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

    def __init__(self, content: aiohttp.StreamReader, pace: Callable[[int], Awaitable[None]]) -> None:
        self._content = content
        self._pace = pace
        self._rest = memoryview(b"")

    async def fill(self, view: memoryview, told: Callable[[int], None]) -> int:
        """Fill `view`, telling how many bytes came each time; fewer than it holds only at the end of the answer.

        `Failing` if the answer breaks off.
        """
        at = 0
        while at < len(view):
            if not self._rest:
                self._rest = memoryview(await self._next())
                if not self._rest:
                    break
            take = min(len(self._rest), len(view) - at)
            view[at : at + take] = self._rest[:take]
            self._rest = self._rest[take:]
            at += take
            told(take)
        return at

    async def want_end(self) -> None:
        """`WrongAnswer` if more comes."""
        if self._rest or await self._next():
            raise WrongAnswer("expected no byte after those that were asked for, found more")

    async def _next(self) -> bytes:
        try:
            chunk = await self._content.readany()
        except (aiohttp.ClientError, OSError) as reason:
            raise Failing(_said(reason, "expected the rest of the answer")) from None
        if chunk:
            await self._pace(len(chunk))
        return chunk


class Requests:
    """A context: the connections of one fetch to all its sources, with the rates that they keep."""

    def __init__(self, rate: int, source_rate: int, stall_seconds: float) -> None:
        self._rates = rate, source_rate
        self._stall_seconds = stall_seconds

    async def __aenter__(self) -> Self:
        paced = any(self._rates)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # as many as the fetch asks for, which counts them
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=limits.source_connect_seconds, sock_read=self._stall_seconds
            ),
            headers={"Accept-Encoding": "identity"},  # an encoding could make much of little
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            read_bufsize=_read_bytes_paced if paced else _read_bytes,
        )
        self._all = TokenBucket(self._rates[0], self._now())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, reason: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    def to(self, source: Source) -> SourceRequests:
        """What asks one source."""
        return SourceRequests(self, source, TokenBucket(self._rates[1], self._now()))

    async def wait(self, count: int, own: TokenBucket, waits: Callable[[float], None]) -> None:
        """Wait until `count` bytes that came are within the rates; `waits` hears for how long it will be."""
        seconds = max(self._all.take(count, self._now()), own.take(count, self._now()))
        waits(seconds)
        if seconds:
            await asyncio.sleep(seconds)

    @asynccontextmanager
    async def get(
        self, source: Source, path: str, span: tuple[int, int] | None
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """An answer with one of the statuses 200 and 206; it is closed unless it was read to its end."""
        headers = {} if span is None else {"Range": f"bytes={span[0]}-{span[1] - 1}"}
        if source.token:
            headers["Authorization"] = f"Bearer {source.token}"
        tls = aiohttp.Fingerprint(bytes.fromhex(source.certificate)) if source.certificate else True
        try:
            response = await self._session.get(source.url + path, headers=headers, allow_redirects=False, ssl=tls)
        except (aiohttp.ClientError, OSError) as reason:
            raise Failing(_said(reason, "expected an answer")) from None
        async with response:
            if response.status in _again:
                raise Failing(f"expected status 200 or 206, found status {response.status}", _retry_after(response))
            if response.status in (404, 410):
                raise Absent
            encoding = response.headers.get("Content-Encoding", "identity")
            if response.status not in (200, 206) or encoding != "identity":
                found = f"status {response.status}" if encoding == "identity" else f"encoding {encoding[:40]!r}"
                raise WrongAnswer(f"expected status 200 or 206 and no encoding, found {found}")
            yield response

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


class SourceRequests:
    """What asks one source; remembers which layout it has."""

    def __init__(self, requests: Requests, source: Source, bucket: TokenBucket) -> None:
        self.source = source
        self._requests = requests
        self._bucket = bucket
        self._layouts = _layouts

    async def index(self, payload: PayloadId, length: int) -> bytes:
        """The tile index that the source gives, of the right length and unverified.

        `Absent`, `WrongAnswer`, `Failing`.
        """
        raw = bytearray(digest_bytes * subtile_count(length))
        for layout in self._layouts:
            try:
                async with self._requests.get(self.source, layout[1](payload), None) as response:
                    await self._whole(response, memoryview(raw))
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
                path = layout[0](payload)
                async with self._requests.get(self.source, path, None if whole else span) as response:
                    if not whole and response.status == 200:
                        raise WithoutRanges
                    _want_span(response, span, length)
                    self._layouts = (layout,)
                    yield Body(response.content, lambda count: self._pace(count, waits))
                    return
            except Absent:
                continue
        raise Absent

    async def _whole(self, response: aiohttp.ClientResponse, view: memoryview) -> None:
        if response.content_length not in (None, len(view)):
            raise WrongAnswer(f"expected {len(view)} bytes, found {response.content_length}")
        body = Body(response.content, lambda count: self._pace(count, lambda _seconds: None))
        found = await body.fill(view, lambda _count: None)
        if found != len(view):
            raise WrongAnswer(f"expected {len(view)} bytes, found {found}")
        await body.want_end()

    async def _pace(self, count: int, waits: Callable[[float], None]) -> None:
        await self._requests.wait(count, self._bucket, waits)


def _want_span(response: aiohttp.ClientResponse, span: tuple[int, int], length: int) -> None:
    """`WrongAnswer` unless the answer promises just those bytes of a payload of that length."""
    expected = span[1] - span[0]
    if response.content_length not in (None, expected):
        raise WrongAnswer(f"expected {expected} bytes, found {response.content_length}")
    said = response.headers.get("Content-Range")
    if response.status == 206 and said is not None:
        match = _content_range.fullmatch(said)
        if match is None or match[3] not in ("*", str(length)) or (int(match[1]), int(match[2]) + 1) != span:
            raise WrongAnswer(f"expected bytes {span[0]}-{span[1] - 1}/{length}, found {said[:80]!r}")


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    text = response.headers.get("Retry-After", "")
    return min(float(text), limits.source_pause_seconds_max) if text.isdecimal() and len(text) < 10 else None


def _said(reason: Exception, expected: str) -> str:
    found = "none in time" if isinstance(reason, TimeoutError) else f"{type(reason).__name__} {reason}".rstrip()[:300]
    return f"{expected}, found {found}"
