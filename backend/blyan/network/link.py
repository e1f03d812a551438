"""A link: one authenticated connection between two nodes, over which both ask and answer (docs/spec/peer.md).

Frames are messages of tensors. A request has a kind and a number, its answer the number alone; many may be under way.
An answer may be a stream of pieces (`streams`). What does not fit ends the link: the peer proved who it is, so it is to
be blamed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol

from blyan.network.answers import Answers, Handler, frame_of
from blyan.network.questions import CalledOff, LinkFull, LinkLost, Question, Questions, refusal
from blyan.network.streams import Inlet, Streams
from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import MalformedMessage
from blyan.wire.framing import Message, WireTensor, decode
from blyan.wire.peer import Summary

_log = logging.getLogger(__name__)


class Socket(Protocol):
    """What a link needs of a WebSocket (`frames.FrameSocket`)."""

    def send_now(self, frame: bytes) -> bool:
        """Send one frame; False, and nothing is sent, if it would have to wait. `ConnectionError` if it is closed."""
        ...

    def send_bytes(self, frame: bytes) -> Awaitable[None]:
        """Send one frame, in the order of the calls; done when there is room again. `ConnectionError` if closed."""
        ...

    async def read(self, take: Callable[[bytes], None]) -> None:
        """Give frames on, until it ends."""
        ...

    def hold(self) -> None:
        """Give none on, nor read, until `release`; to be called when one is taken."""
        ...

    def release(self) -> None:
        """Go on."""
        ...

    def shut(self) -> None:
        """Begin to end it: nothing is given on any more."""
        ...

    async def close(self) -> bool:
        """End it; whether it had not ended before."""
        ...


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
        self._monotonic = monotonic
        self._questions = Questions()
        self._called_off = CalledOff(self._say)
        self._next: bytes | None = None  # a frame that waits until there is room for it
        self._why = "closed"
        self.since = self.heard  # when it came up
        self._streams = Streams(self._say)
        self._answers = Answers(self, handlers, self._streams)

    @property
    def open(self) -> bool:
        """Whether it may be asked."""
        return not self.closed.is_set()

    async def ask(
        self, kind: str, fields: Mapping[str, Any], tensors: Sequence[WireTensor] = (), *, patience: float
    ) -> Question:
        """Ask, and wait at most `patience` seconds for the frame to leave; it may leave later, until `forget`.

        `LinkLost` if it cannot be sent.
        """
        self._want_room()
        question = self._questions.ask(self.peer.node)
        try:
            frame = frame_of({**fields, "kind": kind, "id": question.number}, tensors)
            if not self.send_now(frame):
                with _losing(self.peer):
                    await question.leaves(self._socket.send_bytes(frame), patience)
        except BaseException:
            self.forget(question)
            raise
        return question

    def ask_now(self, kind: str, fields: Mapping[str, Any], tensors: Sequence[WireTensor] = ()) -> Question | None:
        """As `ask`, in this turn of the loop; None if the frame would have to wait."""
        self._want_room()
        question = self._questions.ask(self.peer.node)
        try:
            if self.send_now(frame_of({**fields, "kind": kind, "id": question.number}, tensors)):
                return question
        except BaseException:
            self._questions.forget(question)
            raise
        self._questions.forget(question)
        return None

    def _want_room(self) -> None:
        _want_open(self)
        if not self._questions.room:
            raise LinkFull(f"peer {self.peer.node[:12]}: expected a link with room, found none")

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
        await self.send(self._quiet(kind, fields, tensors))

    def tell_now(self, kind: str, fields: Mapping[str, Any], tensors: Sequence[WireTensor] = ()) -> bool:
        """As `tell`, in this turn of the loop; False, and nothing is sent, if the frame would have to wait."""
        return self.send_now(self._quiet(kind, fields, tensors))

    def _quiet(self, kind: str, fields: Mapping[str, Any], tensors: Sequence[WireTensor]) -> bytes:
        _want_open(self)
        return frame_of({**fields, "kind": kind, "id": self._questions.number(), "quiet": True}, tensors)

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
            await self.send(frame)
            yield inlet
        finally:
            if self._streams.leave(inlet):
                self._called_off.add(number)

    async def run(self) -> None:
        """Read until it ends, and then tell all who wait."""
        try:
            await self._socket.read(self._came)
        finally:
            self.closed.set()
            self._questions.end(LinkLost(f"peer {self.peer.node[:12]}: expected an answer, found it {self._why}"))
            self._streams.end(LinkLost(f"peer {self.peer.node[:12]}: expected more of a stream, found it {self._why}"))
            self._answers.end()
            self._called_off.close()
            await self._socket.close()

    async def close(self) -> None:
        """End it; who waits is told by `run`."""
        self.closed.set()
        await self._socket.close()

    async def send(self, frame: bytes) -> None:
        """Send one frame, and wait while the peer is behind; `LinkLost`."""
        with _losing(self.peer):
            await self._socket.send_bytes(frame)

    def send_now(self, frame: bytes) -> bool:
        """Send one frame; False if it would have to wait; `LinkLost`."""
        try:
            return self._socket.send_now(frame)
        except ConnectionError as reason:
            raise _lost(self.peer, reason) from None

    async def _say(self, fields: Mapping[str, Any], tensors: Sequence[WireTensor]) -> None:
        await self.send(frame_of(fields, tensors))

    def shut(self) -> None:
        """Begin to end it."""
        self._socket.shut()

    @property
    def holds_up(self) -> bool:
        """Whether the peer is not read because this end has too much to do for it."""
        return self._next is not None and not self._answers.leaving

    def has_room(self) -> None:
        """A request was answered: what waited may be taken."""
        if self._next is not None and self.open:
            frame, self._next = self._next, None
            try:
                self._came(frame)
            except BaseException:
                self.shut()  # what follows is never released
                raise
            if self._next is None:
                self._socket.release()

    def _came(self, frame: bytes) -> None:
        """A frame. What is not read holds the peer up, not this node's memory."""
        self.heard = self._monotonic()
        if self._answers.full(len(frame)):
            self._next = frame
            self._socket.hold()
            return
        try:
            self._take(decode(frame), len(frame))
        except MalformedMessage as reason:
            self._why = reason.message
            _log.warning("peer %s: link ended: %s", self.peer.node[:12], reason.message)
            self.closed.set()
            self._socket.shut()

    def _take(self, message: Message, size: int) -> None:
        about, answered = message.fields.get("to"), message.fields.get("re")
        if type(about) is int:
            self._streams.take_word(about, message)
            if message.fields.get("cancel") is True:
                self._answers.call_off(about)
        elif type(answered) is int:
            fault = message.fields.get("fault")
            refused = None if fault is None else refusal(self.peer.node, fault)
            if not self._streams.take(answered, message, size, refused):
                self._questions.take(answered, message)
        else:
            self._answers.take(message, size)


def _want_open(link: Link) -> None:
    if not link.open:
        raise LinkLost(f"peer {link.peer.node[:12]}: expected an open link, found it closed")


@contextmanager
def _losing(peer: Summary) -> Generator[None]:
    """A connection that is gone is a link that is lost."""
    try:
        yield
    except ConnectionError as reason:
        raise _lost(peer, reason) from None


def _lost(peer: Summary, reason: ConnectionError) -> LinkLost:
    return LinkLost(f"peer {peer.node[:12]}: expected an open link, found {reason}")
