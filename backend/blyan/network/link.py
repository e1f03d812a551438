"""A link: one authenticated connection between two nodes, over which both ask and answer (docs/spec/peer.md).

Frames are messages of tensors. A request has a kind and a number, its answer the number alone; many may be under way.
An answer may be a stream of pieces (`streams`). What does not fit ends the link: the peer proved who it is, so it is to
be blamed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeAlias

import aiohttp

from blyan.network.questions import CalledOff, LinkLost, Question, Questions, refusal
from blyan.network.streams import Inlet, Streaming, Streams, refuse
from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import Fault, InternalError, MalformedMessage, PeerFault
from blyan.wire.framing import Message, WireTensor, decode, encode
from blyan.wire.peer import Summary

_log = logging.getLogger(__name__)


class Socket(Protocol):
    """What a link needs of a WebSocket: aiohttp's of either side."""

    async def send_bytes(self, data: bytes) -> None:
        """Send one frame."""
        ...

    async def receive(self) -> aiohttp.WSMessage:
        """The next frame, or how it ended."""
        ...

    async def close(self) -> bool:
        """End it."""
        ...


Handler: TypeAlias = Callable[["Link", Message], Awaitable[Message]]


class Link:
    """One connection. `run` reads until it ends; `request` from the same loop, at any time before that."""

    def __init__(
        self,
        socket: Socket,
        peer: Summary,
        handlers: Mapping[str, Handler],
        monotonic: Monotonic,
        *,
        dialled: bool,
        url: str = "",
    ) -> None:
        """`url`: where it was dialled, empty if it came in."""
        self.peer = peer
        self.dialled = dialled
        self.url = url
        self.heard = monotonic()  # when anything last came
        self.closed = asyncio.Event()
        self._socket = socket
        self._handlers = handlers
        self._monotonic = monotonic
        self._questions = Questions()
        self._called_off = CalledOff(self._say)
        self._answering: dict[asyncio.Task[None], int] = {}  # → the number of its request
        self._bytes = 0  # of the requests that are being answered
        self.since = self.heard  # when it came up
        self._newest = -1  # number of the peer's last request: numbers rise, so none is answered twice
        self._streams = Streams(self._say)

    @property
    def open(self) -> bool:
        """Whether it may be asked."""
        return not self.closed.is_set()

    async def ask(
        self, kind: str, fields: Mapping[str, Any], tensors: Sequence[WireTensor] = (), *, patience: float
    ) -> Question:
        """Ask, and wait at most `patience` seconds for the frame to leave. To be given back by `forget`.

        `LinkLost` if it cannot be sent.
        """
        if not self.open or not self._questions.room:
            raise LinkLost(f"peer {self.peer.node[:12]}: expected a link with room, found none")
        question = self._questions.ask(self.peer.node)
        try:
            frame = frame_of({**fields, "kind": kind, "id": question.number}, tensors)
            async with asyncio.timeout(patience):
                await self._send(frame)
        except TimeoutError:
            pass  # it lies in a buffer, and may go out yet
        except BaseException:
            self.forget(question)
            raise
        return question

    def forget(self, question: Question) -> None:
        """Nobody waits for the answer any more; one that did not come yet need not be made."""
        self._questions.forget(question)
        if not question.is_settled:
            self._called_off.add(question.number)

    async def request(
        self, kind: str, fields: Mapping[str, Any], tensors: Sequence[WireTensor] = (), *, seconds: float
    ) -> Message:
        """The answer; `Refused`, `LinkLost` or `NoAnswer` say why there is none."""
        until = self._monotonic() + seconds
        question = await self.ask(kind, fields, tensors, patience=seconds)
        try:
            await question.settled(until - self._monotonic())
            return question.answer()
        finally:
            self.forget(question)

    async def tell(self, kind: str, fields: Mapping[str, Any], tensors: Sequence[WireTensor] = ()) -> None:
        """A request that wants no answer, not even a refusal. `LinkLost` if it cannot be sent."""
        if not self.open:
            raise LinkLost(f"peer {self.peer.node[:12]}: expected an open link, found it closed")
        await self._send(frame_of({**fields, "kind": kind, "id": self._questions.number(), "quiet": True}, tensors))

    @asynccontextmanager
    async def stream(
        self, kind: str, fields: Mapping[str, Any], tensors: Sequence[WireTensor] = ()
    ) -> AsyncGenerator[Inlet, None]:
        """The pieces of an answer; leaving the context tells the peer to stop. Faults are those of `request`."""
        if not self.open or not self._streams.room:
            raise LinkLost(f"peer {self.peer.node[:12]}: expected a link with room, found none")
        number = self._questions.number()
        frame = frame_of({**fields, "kind": kind, "id": number, "credit": limits.stream_credit_max}, tensors)
        inlet = self._streams.asked(number)
        try:
            await self._send(frame)
            yield inlet
        finally:
            if self._streams.leave(inlet):
                self._called_off.add(number)

    async def run(self) -> None:
        """Read until it ends, and then tell all who wait."""
        why = "closed"
        try:
            while True:
                frame = await self._socket.receive()
                if frame.type != aiohttp.WSMsgType.BINARY:
                    break
                self.heard = self._monotonic()
                await self._room(len(frame.data))
                self._take(decode(frame.data), len(frame.data))
        except MalformedMessage as reason:
            why = reason.message
            _log.warning("peer %s: link ended: %s", self.peer.node[:12], reason.message)
        finally:
            self.closed.set()
            self._questions.end(LinkLost(f"peer {self.peer.node[:12]}: expected an answer, found it {why}"))
            self._streams.end(LinkLost(f"peer {self.peer.node[:12]}: expected more of a stream, found it {why}"))
            self._called_off.close()
            for task in list(self._answering):
                task.cancel()
            await self._socket.close()

    async def close(self) -> None:
        """End it; who waits is told by `run`."""
        self.closed.set()
        await self._socket.close()

    async def _send(self, frame: bytes) -> None:
        try:
            await self._socket.send_bytes(frame)
        except (ConnectionError, aiohttp.ClientError, RuntimeError) as reason:  # RuntimeError: it is closing
            raise LinkLost(f"peer {self.peer.node[:12]}: expected an open link, found {reason}") from None

    async def _say(self, fields: Mapping[str, Any], tensors: Sequence[WireTensor]) -> None:
        await self._send(frame_of(fields, tensors))

    async def _room(self, size: int) -> None:
        """Wait until there is room for one more request: what is not read holds the peer up, not this node's memory."""
        while self._answering and (
            len(self._answering) >= limits.link_waiting_max or self._bytes + size > limits.link_under_way_bytes_max
        ):
            await asyncio.wait(self._answering, return_when=asyncio.FIRST_COMPLETED)

    def _take(self, message: Message, size: int) -> None:
        about, answered = message.fields.get("to"), message.fields.get("re")
        if type(about) is int:
            self._streams.take_word(about, message)
            if message.fields.get("cancel") is True:
                for task in [task for task, number in self._answering.items() if number == about]:
                    task.cancel()  # nobody waits for it; one that was answered meanwhile, or never made, is no matter
        elif type(answered) is int:
            fault = message.fields.get("fault")
            refused = None if fault is None else refusal(self.peer.node, fault)
            if not self._streams.take(answered, message, size, refused):
                self._questions.take(answered, message)
        else:
            self._take_request(message, size)

    def _take_request(self, message: Message, size: int) -> None:
        number, kind = message.fields.get("id"), message.fields.get("kind")
        if type(number) is not int or not isinstance(kind, str) or number <= self._newest:
            raise MalformedMessage(f"request: expected a kind and a number above {self._newest}, found {number!r:.40}")
        self._newest = number
        handler = self._handlers.get(kind)
        if isinstance(handler, Streaming):
            outlet = self._streams.outlet(number, message, size)
            if outlet is not None:
                given = asyncio.create_task(self._answer(number, handler.into(outlet), kind, message))
                self._streams.giving(outlet, given, size)
                return
            handler = refuse
        task = asyncio.create_task(self._answer(number, handler, kind, message))
        self._answering[task] = number
        self._bytes += size
        task.add_done_callback(lambda done: self._answered(done, size))

    def _answered(self, task: asyncio.Task[None], size: int) -> None:
        self._answering.pop(task, None)
        self._bytes -= size

    async def _answer(self, number: int, handler: Handler | None, kind: str, message: Message) -> None:
        frame = await _answer_frame(self, number, handler or self._unknown, kind, message)
        if message.fields.get("quiet") is True:
            return
        try:
            await self._send(frame)
        except LinkLost:
            await self.close()

    async def _unknown(self, _link: Link, message: Message) -> Message:
        kind = str(message.fields.get("kind"))[:40]
        raise PeerFault(f"request: expected one of {', '.join(self._handlers)}, found {kind!r}")


async def _answer_frame(link: Link, number: int, handler: Handler, kind: str, message: Message) -> bytes:
    """What a handler answers, or why it does not."""
    try:
        made = await handler(link, message)
        return frame_of({**made.fields, "re": number}, made.tensors)
    except Fault as reason:
        said = {"code": reason.code, "message": reason.message, "detail": dict(reason.detail)}
    except Exception:  # noqa: BLE001 - task boundary: a mistake of ours is no reason to leave the peer waiting
        _log.exception("answering %s of peer %s", kind[:40], link.peer.node[:12])
        said = {"code": InternalError.code, "message": "internal error"}
    return frame_of({"re": number, "fault": said})


def frame_of(fields: Mapping[str, Any], tensors: Sequence[WireTensor] = ()) -> bytes:
    """One frame. `MalformedMessage` if it would be longer than any may be."""
    frame = b"".join(encode(Message(fields, tuple(tensors))))
    if len(frame) > limits.link_frame_bytes_max:
        raise MalformedMessage(f"frame: expected at most {limits.link_frame_bytes_max} bytes, found {len(frame)}")
    return frame
