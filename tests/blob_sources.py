"""Sources of payloads that misbehave on purpose, behind real sockets; tested in tests/unit/test_blob_sources.py.

Run as a script it is a source of its own process, to be killed: `blob_sources.py FOLDER BYTES_PER_SECOND` prints its
port. `receiving.py`'s counterpart, a receiver to be killed, is `blob_receiver.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestServer

from blyan.primitives.ids import PayloadId
from blyan.storage.tile import index_of

CHUNK = 32 * 1024


@dataclass
class BlobSource:
    """A source that serves `payloads` in a node's layout, and does what its fields say besides."""

    payloads: Mapping[str, bytes]
    indexes: Mapping[str, bytes] | None = None  # others than the right ones
    without_index: bool = False
    ranges: bool = True
    lacks: frozenset[str] = frozenset()
    flips: Mapping[str, Sequence[int]] = field(default_factory=dict)  # payload → offsets of bytes that are wrong
    bytes_per_second: float = 0.0  # of each answer; 0: as fast as it goes
    stall_after: int | None = None  # bytes of the body of each answer, then silence
    break_after: int | None = None  # bytes of the body of each answer, then the connection is cut
    extra: int = 0  # bytes after those that were asked for, in a chunked answer
    longer: int = 0  # bytes more than were asked for, and said so
    status: int = 0  # instead of any answer
    redirect: str = ""  # where every answer sends the client
    headers: Mapping[str, str] = field(default_factory=dict)
    url: str = ""
    asked: list[tuple[str, int, int]] = field(default_factory=list)  # payload, begin, end of every run
    asked_index: list[str] = field(default_factory=list)
    bytes_served: int = 0  # of bodies, written to the socket

    def app(self) -> web.Application:
        """Its routes."""
        app = web.Application()
        app.router.add_get("/blobs/{payload}", self._bytes)
        app.router.add_get("/blobs/{payload}/index", self._index)
        return app

    def _refusal(self, payload: str) -> web.Response | None:
        if self.redirect:
            return web.Response(status=302, headers={"Location": f"{self.redirect}/{payload}"})
        if self.status:
            return web.Response(status=self.status, headers=self.headers)
        if payload in self.lacks or payload not in self.payloads:
            return web.Response(status=404)
        return None

    async def _index(self, request: web.Request) -> web.Response:
        payload = request.match_info["payload"]
        self.asked_index.append(payload)
        if refusal := self._refusal(payload):
            return refusal
        if self.without_index:
            return web.Response(status=404)
        raw = (self.indexes or {}).get(payload) or index_of(self.payloads[payload]).encode()
        return web.Response(body=raw)

    async def _bytes(self, request: web.Request) -> web.StreamResponse:
        payload = request.match_info["payload"]
        if refusal := self._refusal(payload):
            return refusal
        data = bytearray(self.payloads[payload])
        for at in self.flips.get(payload, ()):
            data[at] ^= 1
        begin, end, status = 0, len(data), 200
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        if found and self.ranges:
            begin, end, status = int(found[1]), min(int(found[2]) + 1, len(data)), 206
        self.asked.append((payload, begin, end))
        body = bytes(data[begin:end]) + bytes(self.longer)
        response = web.StreamResponse(status=status, headers=self.headers)
        if status == 206:
            response.headers["Content-Range"] = f"bytes {begin}-{begin + len(body) - 1}/{len(data)}"
        if not self.extra:
            response.content_length = len(body)
        await response.prepare(request)
        await self._send(request, response, body + bytes(self.extra))
        await response.write_eof()
        return response

    async def _send(self, request: web.Request, response: web.StreamResponse, body: bytes) -> None:
        for at in range(0, len(body), CHUNK):
            for limit, then in ((self.stall_after, "stall"), (self.break_after, "break")):
                if limit is not None and at + CHUNK > limit:
                    await response.write(body[at:limit])
                    self.bytes_served += limit - at
                    if then == "stall":
                        await asyncio.Event().wait()
                    assert request.transport is not None
                    request.transport.abort()
                    raise asyncio.CancelledError
            chunk = body[at : at + CHUNK]
            if self.bytes_per_second:
                await asyncio.sleep(len(chunk) / self.bytes_per_second)
            await response.write(chunk)
            self.bytes_served += len(chunk)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[BlobSource]:
        """Serve on a free port of this process."""
        # handlers are cancelled when their client leaves, or one that stalls would hold the end of the test
        async with TestServer(self.app(), handler_cancellation=True) as server:
            self.url = str(server.make_url("/blobs"))
            yield self


@contextlib.asynccontextmanager
async def serving(*sources: BlobSource) -> AsyncIterator[tuple[BlobSource, ...]]:
    """Several at once."""
    async with contextlib.AsyncExitStack() as stack:
        for source in sources:
            await stack.enter_async_context(source.serving())
        yield sources


@dataclass
class SourceProcess:
    """A source in its own process."""

    process: subprocess.Popen[str]
    url: str

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def source_process(folder: Path, bytes_per_second: float = 0.0) -> Iterator[SourceProcess]:
    """A process that serves the files of a folder, each named as its payload."""
    command = [sys.executable, __file__, str(folder), str(bytes_per_second)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        try:
            yield SourceProcess(process, f"http://127.0.0.1:{port}/blobs")
        finally:
            process.kill()


def payload_of(data: bytes) -> PayloadId:
    """The id of these bytes."""
    return index_of(data).payload_id


async def main(payloads: Mapping[str, bytes], bytes_per_second: float) -> None:
    """Serve until killed."""
    async with TestServer(BlobSource(payloads, bytes_per_second=bytes_per_second).app()) as server:
        print(server.port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main({path.name: path.read_bytes() for path in Path(sys.argv[1]).iterdir()}, float(sys.argv[2])))
