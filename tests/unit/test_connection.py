"""One connection: heads as they come from good and bad servers, bodies straight into a buffer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from blyan.network.connection import Connection, Head, NoAnswer, NoHttp
from blyan.primitives.limits import response_head_bytes_max


@contextlib.asynccontextmanager
async def answering(
    *pieces: bytes, close: bool = True, stall: float = 5.0, pause: float = 0.01
) -> AsyncIterator[Connection]:
    """A connection to a server that sends these pieces once it was asked."""
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        if not close:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        connection = await Connection.open(urlsplit(f"http://127.0.0.1:{port}"), None, "", stall)
        try:
            yield connection
        finally:
            connection.close()


async def answered(*pieces: bytes, count: int, **how: bool) -> tuple[Head, bytes, bool]:
    """Head, the body's first bytes, and whether the connection may be used again."""
    async with answering(*pieces, **how) as connection:
        head = await connection.get("host", "/path", (3, 8))
        body = bytearray(count)
        told: list[int] = []
        read = await connection.read(memoryview(body), told.append)
        assert sum(told) == read
        return head, bytes(body[:read]), connection.reusable


BODY = bytes(range(256)) * 200
OK = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 51200\r\nContent-Range: bytes 0-51199/99999\r\n\r\n"


async def test_an_answer_is_read_however_it_is_cut() -> None:
    """Byte by byte, all at once, with the head's end in the middle of a piece."""
    whole = OK + BODY
    cut = [whole[at : at + 1] for at in range(len(OK) + 3)] + [whole[len(OK) + 3 :]]
    for pieces in ([whole], cut, [OK[:-2], OK[-2:] + BODY[:9], BODY[9:]], [OK, BODY[:40_000], BODY[40_000:]]):
        head, body, reusable = await answered(*pieces, count=len(BODY), close=False)
        assert (head.status, head.length, head.fields["content-range"]) == (206, 51_200, "bytes 0-51199/99999")
        assert body == BODY
        assert reusable


async def test_a_body_is_read_in_parts_and_not_past_its_end() -> None:
    """What comes after it is not ours, and the connection is not used again."""
    async with answering(OK + BODY + b"HTTP/1.1 200 OK\r\n", close=False) as connection:
        await connection.get("host", "/", None)
        found = b""
        view = memoryview(bytearray(20_000))
        while count := await connection.read(view, lambda _count: None):
            found += bytes(view[:count])
        assert found == BODY
        await asyncio.sleep(0.05)
        assert not connection.reusable


async def test_announcements_are_passed_over() -> None:
    """100 and 103 come before the answer; not for ever."""
    early = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    head, body, _ = await answered(b"HTTP/1.1 100 Continue\r\n\r\n" + early, OK, BODY, count=5)
    assert (head.status, body) == (206, BODY[:5])
    with pytest.raises(NoHttp, match="found 8 announcements"):
        await answered(early * 9, count=1)


@pytest.mark.parametrize(
    ("raw", "status", "reusable"),
    [
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: Keep-Alive\r\n\r\nx", 200, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx", 200, False),
        (b"HTTP/1.1 200\r\nContent-Length:1\r\ncontent-length: 1 \r\n\r\nx", 200, True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, True),
        (b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 404, False),
        (b"HTTP/1.1 503 \xe9\r\n\r\n", 503, False),
    ],
)
async def test_a_connection_is_used_again_only_if_that_is_safe(raw: bytes, status: int, reusable: bool) -> None:
    """By version, by what was said, and by whether the body's end is known."""
    head, _, found = await answered(raw, count=1, close=False)
    assert (head.status, found) == (status, reusable)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"HTTP/2 200\r\nContent-Length: 1\r\n\r\n", "expected HTTP/1.1, found b'HTTP/2 200'"),
        (b"ICY 200 OK\r\n\r\n", "expected HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\n\r\nx", "expected one Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "expected one Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n", "expected one Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "another framing"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n folded\r\n\r\n", "expected a header field, found b' folded'"),
        (b"HTTP/1.1 200 OK\r\nno field\r\n\r\n", "expected a header field"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * response_head_bytes_max, "expected a head of at most 16384 bytes"),
    ],
)
async def test_what_is_no_answer_is_refused(raw: bytes, said: str) -> None:
    """Two readings of one answer are none."""
    with pytest.raises(NoHttp) as refused:
        await answered(raw, count=1, close=False)
    assert said in str(refused.value)


async def test_an_answer_that_breaks_off_or_falls_silent_is_named() -> None:
    """What came before is in the buffer."""
    view = memoryview(bytearray(len(BODY)))
    for close, said in ((True, "found the connection closed"), (False, "found silence for 0.2 s")):
        async with answering(OK + BODY[:100], close=close, stall=0.2) as connection:
            await connection.get("host", "/", None)
            came: list[int] = []
            with pytest.raises(NoAnswer, match=said):
                await connection.read(view, came.append)
            assert bytes(view[: sum(came)]) == BODY[:100]
            assert not connection.reusable
    for pieces in ((), (b"HTTP/1.1 ",)):
        async with answering(*pieces) as connection:
            with pytest.raises(NoAnswer, match="expected an answer, found the connection closed") as refused:
                await connection.get("host", "/", None)
            assert not refused.value.reused
    with pytest.raises(NoAnswer, match="expected a connection, found ConnectionRefusedError"):
        await Connection.open(urlsplit("http://127.0.0.1:9"), None, "", 1.0)


async def test_whoever_stops_reading_has_the_buffer_alone() -> None:
    """Bytes that come later go nowhere."""
    view = memoryview(bytearray(len(BODY)))
    async with answering(OK + BODY[:100], BODY[100:], close=False, pause=1.0) as connection:
        await connection.get("host", "/", None)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await connection.read(view, lambda _count: None)
        view[:] = bytes(len(view))
        await asyncio.sleep(1.2)
        assert not any(view)
