"""Many streamed completions at once, from one process with bare asyncio streams; it says what it cost itself.

An event of a stream is one line; tokens are counted from `token_ids` without parsing the whole line, so that hundreds
of streams leave the cores to the node that they measure.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benched_node import completion
from harness import percentile

STREAM_LIMIT_S = 600
_token_ids = re.compile(rb'"token_ids":\[([\d,]*)\]')


@dataclass
class Stream:
    """What one client saw."""

    began: float
    first: float = 0.0  # moment of the first token
    last: float = 0.0
    tokens: list[int] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)  # at which tokens came, several perhaps at one
    status: int = 0
    done: bool = False  # `[DONE]` came
    fault: str = ""

    @property
    def to_first(self) -> float:
        """Seconds."""
        return self.first - self.began

    @property
    def speed(self) -> float:
        """Tokens a second from the request on."""
        return len(self.tokens) / (self.last - self.began) if self.tokens else 0.0


@dataclass
class Load:
    """What all clients saw together."""

    streams: list[Stream]
    seconds: float
    cpu_seconds: float  # of this process

    @property
    def tokens(self) -> int:
        """Of all streams."""
        return sum(len(stream.tokens) for stream in self.streams)

    @property
    def speed(self) -> float:
        """Tokens a second of all streams, while there were any."""
        return self.tokens / self.seconds

    @property
    def fairness(self) -> float:
        """Jain's index of the streams' speeds: 1 is the same for all, 1/n is all for one."""
        speeds = [stream.speed for stream in self.streams]
        return sum(speeds) ** 2 / (len(speeds) * sum(speed**2 for speed in speeds))

    def first(self, share: float) -> float:
        """A percentile of the seconds to the first token."""
        return percentile([stream.to_first for stream in self.streams], share)

    def lost(self, count: int) -> list[Stream]:
        """Streams that did not give `count` tokens and their end."""
        return [each for each in self.streams if not each.done or len(each.tokens) != count]


async def stream(
    address: tuple[str, int],
    body: Mapping[str, object],
    *,
    leave_after: int | None = None,
    found: Stream | None = None,
) -> Stream:
    """One streamed completion to its end, or until `leave_after` tokens have come; `found` shows it on its way."""
    found = found or Stream(0.0)
    found.began = time.perf_counter()
    try:
        async with asyncio.timeout(STREAM_LIMIT_S):
            reader, writer = await asyncio.open_connection(*address, limit=1 << 20)
            try:
                writer.write(_request(address, json.dumps(body).encode()))
                found.status = int((await reader.readline()).split()[1])
                while (await reader.readline()) not in (b"\r\n", b""):
                    pass
                await _read(reader, found, leave_after)
            finally:
                writer.close()
    except (TimeoutError, OSError, ValueError, IndexError) as reason:
        found.fault = f"{type(reason).__name__}: {reason}"
    return found


async def load(address: tuple[str, int], bodies: Sequence[Mapping[str, object]]) -> Load:
    """All of them at once."""
    began, spent = time.perf_counter(), time.process_time()
    streams = await asyncio.gather(*(stream(address, body) for body in bodies))
    return Load(list(streams), time.perf_counter() - began, time.process_time() - spent)


def bodies(model: str, prompts: Sequence[Sequence[int]], count: int) -> list[dict[str, object]]:
    """Greedy completions of each prompt, each for a user of its own."""
    return [completion(model, prompt, count, user=f"client-{number}") for number, prompt in enumerate(prompts)]


def _request(address: tuple[str, int], body: bytes) -> bytes:
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n"
        f"Content-Type: application/json\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _read(reader: asyncio.StreamReader, found: Stream, leave_after: int | None) -> None:
    """Lines of events until the connection ends; chunk sizes and blank lines between them are of no interest."""
    while line := await reader.readline():
        if line.startswith(b"data: [DONE]"):
            found.done = True
            return
        if found.status != 200 or line.startswith((b'data: {"error"', b"event: error")):
            found.fault += line.decode(errors="replace")[:300]
            continue
        match = _token_ids.search(line) if line.startswith(b"data: ") else None
        if match and match[1]:
            found.last = time.perf_counter()
            found.first = found.first or found.last
            found.moments.append(found.last)
            found.tokens += map(int, match[1].split(b","))
            if leave_after is not None and len(found.tokens) >= leave_after:
                return
