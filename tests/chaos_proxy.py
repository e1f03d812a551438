"""A TCP proxy that does to connections what networks do: delay, throttle, swallow, reset, half-close, corrupt.

It runs in a thread with a loop of its own, so that tests with and without a loop may use it. What is said of a
direction holds for bytes that come from then on, on connections that are open too. Delays keep order and throughput:
what comes is stamped with the moment when it is due, and nothing sleeps for it.
"""

from __future__ import annotations

import asyncio
import random
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

_chunk_bytes = 1 << 16
_retry_seconds = 0.05


@dataclass
class Direction:
    """What happens to bytes on their way one way; may be changed at any time, from any thread."""

    delay_s: float = 0.0
    jitter_s: float = 0.0  # at most so much more, drawn for each piece; order is kept
    bytes_per_s: float = 0.0  # 0: as fast as they come
    swallow: bool = False  # bytes vanish, the connection stays
    corrupt: int = 0  # so many more pieces get one bit flipped
    passed: int = 0  # bytes that went through


class ChaosProxy:
    """A context. Listens on a free port of this machine (or on `port`) and passes everything to `target`."""

    def __init__(self, target: int, *, port: int = 0, seed: int = 0) -> None:
        self.target, self.port = target, port
        self.up, self.down = Direction(), Direction()  # from who connects to the target, and back
        self.accepting = True  # else who connects is reset at once
        self.patience_s = 0.0  # for how long the target is tried for
        self._random = random.Random(seed)
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        # by microseconds: epoll's waits are rounded up to the next millisecond
        self._loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def both(self) -> tuple[Direction, Direction]:
        """Both directions."""
        return self.up, self.down

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._pairs)

    def delay(self, seconds: float, jitter_s: float = 0.0) -> None:
        """Each way takes half of `seconds` (a round trip all of it), and at most so much more."""
        for way in self.both:
            way.delay_s, way.jitter_s = seconds / 2, jitter_s / 2

    def black_hole(self, on: bool = True) -> None:
        """Nothing comes through any more, and nobody is told."""
        for way in self.both:
            way.swallow = on

    def heal(self) -> None:
        """Pass everything at once again."""
        for way in self.both:
            way.delay_s = way.jitter_s = way.bytes_per_s = 0.0
            way.swallow, way.corrupt = False, 0
        self.accepting = True

    def reset(self) -> None:
        """Every open connection ends on both sides with a reset."""
        self._run(self._each(lambda pair: pair.reset()))

    def half_close(self) -> None:
        """The target is told on every connection that nothing more comes; its bytes still pass."""
        self._run(self._each(lambda pair: pair.half_close()))

    async def _each(self, act: Callable[[_Pair], None]) -> None:
        for pair in list(self._pairs):
            act(pair)

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._served(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _served(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        beyond = await self._reached() if self.accepting else None
        if beyond is None:
            _reset(writer)
            return
        pair = _Pair(writer, beyond[1])
        self._pairs.add(pair)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pumped(reader, beyond[1], self.up, self._random))
                group.create_task(_pumped(beyond[0], writer, self.down, self._random))
        except* OSError:
            pass
        finally:
            self._pairs.discard(pair)
            beyond[1].transport.abort()

    async def _reached(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        until = time.monotonic() + self.patience_s
        while True:
            try:
                return await asyncio.open_connection("127.0.0.1", self.target)
            except OSError:
                if time.monotonic() >= until:
                    return None
                await asyncio.sleep(_retry_seconds)


class _Pair:
    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near, self.far = near, far

    def reset(self) -> None:
        for writer in (self.near, self.far):
            _reset(writer)

    def half_close(self) -> None:
        if self.far.can_write_eof():
            self.far.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    found: socket.socket = writer.get_extra_info("socket")
    if found.fileno() >= 0:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _pumped(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Direction, chance: random.Random
) -> None:
    """Read at once, write each piece when it is due."""
    due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
    _send_at_once(writer)

    async def written() -> None:
        while True:
            when, piece = await due.get()
            if (left := when - time.monotonic()) > 0:
                await asyncio.sleep(left)
            if not piece:
                break
            writer.write(piece)
            way.passed += len(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async def read() -> None:
        last = 0.0
        while True:
            piece = await reader.read(_chunk_bytes)
            if piece and way.swallow:
                continue
            now = time.monotonic()
            took = len(piece) / way.bytes_per_s if way.bytes_per_s else 0.0
            last = max(last + took, now + took + way.delay_s + way.jitter_s * chance.random())
            if piece and way.corrupt > 0:
                way.corrupt -= 1
                spoilt = bytearray(piece)
                spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
                piece = bytes(spoilt)
            due.put_nowait((last, piece))
            if not piece:
                return

    async with asyncio.TaskGroup() as group:
        group.create_task(read())
        group.create_task(written())


def _send_at_once(writer: asyncio.StreamWriter) -> None:
    found: socket.socket = writer.get_extra_info("socket")
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
