"""Streams on links: a request that is answered by pieces, one after the other, and then an end (docs/spec/peer.md).

Who asks grants how many pieces may be on their way; a piece beyond that ends the link, as does one that is too large.
Who leaves says so, and the other side stops. For the network's loop.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from blyan.primitives import limits
from blyan.primitives.errors import Busy, Fault, InvalidInput, MalformedMessage
from blyan.wire.framing import Message, WireTensor

if TYPE_CHECKING:
    from blyan.network.link import Link

Send: TypeAlias = Callable[[Mapping[str, Any], Sequence[WireTensor]], Awaitable[None]]


class Inlet:
    """The side that asked. `next` until it gives None: then `end` is the last message."""

    def __init__(self, number: int, send: Send) -> None:
        self.number = number
        self.end: Message | None = None
        self._send = send
        self._here: deque[Message] = deque()
        self._granted = limits.stream_credit_max  # pieces that may still come
        self._taken = 0  # of which the other side was not told yet
        self._fault: Fault | None = None
        self._news = asyncio.Event()

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.end is not None or self._fault is not None

    @property
    def granted(self) -> int:
        """Pieces that may still come."""
        return self._granted

    def take(self, message: Message, size: int) -> None:
        """A piece came; `MalformedMessage` for one that nobody granted."""
        if not self._granted or size > limits.stream_piece_bytes_max:
            raise MalformedMessage(
                f"piece: expected one of those granted, of at most {limits.stream_piece_bytes_max} bytes, found {size}"
            )
        self._granted -= 1
        self._here.append(message)
        self._news.set()

    def finish(self, end: Message | Fault) -> None:
        """The last message came, or it is known that none will."""
        if isinstance(end, Fault):
            self._fault = end
        else:
            self.end = end
        self._news.set()

    async def next(self) -> Message | None:
        """The next piece, None after the last; raises why there is no more."""
        while not self._here:
            if self._fault is not None:
                raise self._fault
            if self.end is not None:
                return None
            self._news.clear()
            await self._news.wait()
        self._taken += 1
        if 2 * self._taken >= limits.stream_credit_max and not self.over:
            credit, self._taken = self._taken, 0
            self._granted += credit
            await self._send({"to": self.number, "credit": credit}, ())
        return self._here.popleft()


class Outlet:
    """The side that answers: `send` waits until a piece is granted."""

    def __init__(self, number: int, credit: int, send: Send) -> None:
        self.number = number
        self._credit = credit
        self._send = send
        self._more = asyncio.Event()

    def grant(self, credit: object) -> None:
        """The other side takes so many more; `MalformedMessage` for what it may not grant."""
        self._credit += parse_credit(credit)
        if self._credit > limits.stream_credit_max:
            raise MalformedMessage(f"credit: expected at most {limits.stream_credit_max}, found {self._credit}")
        self._more.set()

    async def send(self, message: Message) -> None:
        """One piece."""
        while not self._credit:
            self._more.clear()
            await self._more.wait()
        self._credit -= 1
        await self._send({**message.fields, "re": self.number, "more": True}, message.tensors)


Give: TypeAlias = "Callable[[Link, Message, Outlet], Awaitable[Message]]"


@dataclass(frozen=True, slots=True)
class Streaming:
    """A handler whose answer is a stream: what `give` returns is its end."""

    give: Give

    async def __call__(self, _link: Link, _message: Message) -> Message:
        """Links call `give`."""
        raise InvalidInput("stream: expected to be asked for as one")

    def into(self, outlet: Outlet) -> Callable[[Link, Message], Awaitable[Message]]:
        """As an ordinary handler of one request."""

        async def give(link: Link, message: Message) -> Message:
            return await self.give(link, message, outlet)

        return give


class Streams:
    """The streams of one link, both those that it asks for and those that it gives."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._inlets: dict[int, Inlet] = {}
        self._left: OrderedDict[int, int] = OrderedDict()  # that were left, and how many pieces may yet come
        self._outlets: dict[int, tuple[Outlet, asyncio.Task[None]]] = {}
        self._bytes = 0  # of the requests that are answered

    @property
    def room(self) -> bool:
        """Whether one more may be asked for."""
        return len(self._inlets) < limits.link_streams_max

    def asked(self, number: int) -> Inlet:
        """A stream was asked for: `leave` it."""
        inlet = self._inlets[number] = Inlet(number, self._send)
        return inlet

    def leave(self, inlet: Inlet) -> bool:
        """Nobody takes its pieces any more; whether the other side must be told."""
        self._inlets.pop(inlet.number, None)
        if inlet.over:
            return False
        self._left[inlet.number] = inlet.granted
        if len(self._left) > limits.link_streams_max:
            self._left.popitem(last=False)
        return True

    def take(self, number: int, message: Message, size: int, fault: Fault | None) -> bool:
        """An answer, or a piece of one, came; False for what belongs to no stream. `MalformedMessage` ends the link."""
        inlet = self._inlets.get(number)
        if message.fields.get("more") is not True:
            self._left.pop(number, None)
            if inlet is not None:
                del self._inlets[number]
                inlet.finish(fault or message)
            return inlet is not None
        if inlet is not None:
            inlet.take(message, size)
            return True
        left = self._left.get(number, 0)
        if not left or size > limits.stream_piece_bytes_max:
            raise MalformedMessage(f"piece: expected of a stream that was asked for, found of request {number}")
        self._left[number] = left - 1
        return True

    def take_word(self, number: int, message: Message) -> None:
        """What the asker of a stream says of it, which may have ended meanwhile."""
        outlet, task = self._outlets.get(number, (None, None))
        if outlet is None or task is None:
            return
        if message.fields.get("cancel") is True:
            task.cancel()
        else:
            outlet.grant(message.fields.get("credit"))

    def outlet(self, number: int, message: Message, size: int) -> Outlet | None:
        """For a request that wants a stream; None if too many are given already. `MalformedMessage` ends the link."""
        if size > limits.stream_request_bytes_max:
            raise MalformedMessage(
                f"request: expected at most {limits.stream_request_bytes_max} bytes for a stream, found {size}"
            )
        credit = parse_credit(message.fields.get("credit"))
        full = len(self._outlets) >= limits.link_streams_max or self._bytes + size > limits.link_stream_bytes_max
        return None if full else Outlet(number, credit, self._send)

    def giving(self, outlet: Outlet, task: asyncio.Task[None], size: int) -> None:
        """`task` gives it."""
        self._outlets[outlet.number] = outlet, task
        self._bytes += size

        def given(_done: object) -> None:
            del self._outlets[outlet.number]
            self._bytes -= size

        task.add_done_callback(given)

    def end(self, fault: Fault) -> None:
        """The link has ended."""
        for inlet in self._inlets.values():
            if not inlet.over:
                inlet.finish(fault)
        for _, task in self._outlets.values():
            task.cancel()


async def refuse(_link: Link, _message: Message) -> Message:
    """Answers who asks for too many streams: to wait would hold up what is said of the others."""
    raise Busy(f"streams: expected at most {limits.link_streams_max} on one link, found one more")


def parse_credit(value: object) -> int:
    """Pieces that are granted; `MalformedMessage` for what is no such number."""
    if type(value) is not int or not 1 <= value <= limits.stream_credit_max:
        raise MalformedMessage(f"credit: expected 1 to {limits.stream_credit_max}, found {value!r:.40}")
    return value
