"""What a peer asks over a link and this end answers: bounded, by tasks or at once (docs/spec/peer.md).

For the network's loop. A mistake of ours is answered too: it is no reason to leave the peer waiting.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from blyan.network.questions import LinkLost, refusal_chars_max
from blyan.network.streams import Streaming, Streams, refuse
from blyan.primitives import limits
from blyan.primitives.errors import Fault, InternalError, MalformedMessage, PeerFault
from blyan.wire.framing import Message, WireTensor, encode

if TYPE_CHECKING:
    from blyan.network.link import Link

_log = logging.getLogger(__name__)

Handler: TypeAlias = "Callable[[Link, Message], Awaitable[Message]]"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A handler that may answer at once, in the turn of the loop in which it is asked: no task, if it does."""

    begin: Callable[[Link, Message], Message | Callable[[], Awaitable[Message]]]

    async def __call__(self, link: Link, message: Message) -> Message:
        """As any other handler."""
        begun = self.begin(link, message)
        return begun if isinstance(begun, Message) else await begun()


@dataclass(frozen=True, slots=True)
class Bulky:
    """A handler of what is large, or long to read: of a link and kind one in a turn, the next when its answer left."""

    give: Handler

    async def __call__(self, link: Link, message: Message) -> Message:
        """As any other handler."""
        return await self.give(link, message)


class Answers:
    """Those that are being made for one link."""

    def __init__(self, link: Link, handlers: Mapping[str, Handler], streams: Streams) -> None:
        self.handlers = handlers
        self._link, self._streams = link, streams
        self._tasks: dict[asyncio.Task[None], int] = {}  # → the number of its request
        self._bytes = 0  # of their requests, and of answers that have not left
        self.leaving = 0  # answers that are made, and the peer does not take yet
        self._bulky = defaultdict[Bulky, asyncio.Lock](asyncio.Lock)
        self._newest = -1  # number of the peer's last request: numbers rise, so none is answered twice

    def full(self, size: int) -> bool:
        """Whether a request of so many bytes has to wait for others."""
        return bool(self._tasks) and (
            len(self._tasks) >= limits.link_waiting_max or self._bytes + size > limits.link_under_way_bytes_max
        )

    def call_off(self, number: int) -> None:
        """Nobody waits for it; one that was answered meanwhile, or never made, is no matter."""
        for task in [task for task, asked in self._tasks.items() if asked == number]:
            task.cancel()

    def end(self) -> None:
        """Nobody can be answered any more."""
        for task in list(self._tasks):
            task.cancel()

    def take(self, message: Message, size: int) -> None:
        """A request came; `MalformedMessage` for what is none."""
        number, kind = message.fields.get("id"), message.fields.get("kind")
        if type(number) is not int or not isinstance(kind, str) or number <= self._newest:
            raise MalformedMessage(f"request: expected a kind and a number above {self._newest}, found {number!r:.40}")
        self._newest = number
        handler = self.handlers.get(kind)
        if isinstance(handler, Streaming):
            outlet = self._streams.outlet(number, message, size)
            if outlet is not None:
                given = asyncio.create_task(self._answer(number, handler.into(outlet), kind, message))
                self._streams.giving(outlet, given, size)
                return
            handler = refuse
        answering = self._answer(number, handler, kind, message)
        if isinstance(handler, Prompt) and _ends(answering):
            return
        task = asyncio.create_task(answering)
        self._tasks[task] = number
        self._bytes += size
        task.add_done_callback(lambda done: self._answered(done, size))

    def _answered(self, task: asyncio.Task[None], size: int) -> None:
        self._tasks.pop(task, None)
        self._bytes -= size
        self._link.has_room()

    async def _answer(self, number: int, handler: Handler | None, kind: str, message: Message) -> None:
        if isinstance(handler, Bulky):
            async with self._bulky[handler]:
                await _in_a_task()  # many that came at once have a turn each
                await self._answer_now(number, handler, kind, message)
        else:
            await self._answer_now(number, handler or self._unknown, kind, message)

    async def _answer_now(self, number: int, handler: Handler, kind: str, message: Message) -> None:
        frame = await _answer_frame(self._link, number, handler, kind, message)
        if message.fields.get("quiet") is True:
            return
        try:
            if not self._link.send_now(frame):
                await self._leaves(frame)
        except LinkLost:
            self._link.shut()

    async def _leaves(self, frame: bytes) -> None:
        """Send it when the peer takes it; until then it counts."""
        self._bytes += len(frame)
        self.leaving += 1
        try:
            await _in_a_task()
            await self._link.send(frame)
        finally:
            self._bytes -= len(frame)
            self.leaving -= 1

    async def _unknown(self, _link: Link, message: Message) -> Message:
        kind = str(message.fields.get("kind"))[:40]
        raise PeerFault(f"request: expected one of {', '.join(self.handlers)}, found {kind!r}")


async def _answer_frame(link: Link, number: int, handler: Handler, kind: str, message: Message) -> bytes:
    """What a handler answers, or why it does not."""
    try:
        made = await _made(handler, link, message)
        return frame_of({**made.fields, "re": number}, made.tensors)
    except Fault as reason:
        return _refused(number, reason.code, reason.message, reason.detail)
    except Exception:  # noqa: BLE001 - task boundary: a mistake of ours is no reason to leave the peer waiting
        _log.exception("answering %s of peer %s", kind[:40], link.peer.node[:12])
        return _refused(number, InternalError.code, "internal error", {})


def _refused(number: int, code: str, message: str, detail: Mapping[str, Any]) -> bytes:
    """A refusal; without its detail, and in as many words as are read, where those fit in no frame."""
    try:
        return frame_of({"re": number, "fault": {"code": code, "message": message, "detail": dict(detail)}})
    except (Fault, TypeError, ValueError):  # TypeError: what JSON does not know
        words = message[:refusal_chars_max].encode("utf-8", "replace").decode("utf-8")
        return frame_of({"re": number, "fault": {"code": code, "message": words}})


async def _made(handler: Handler, link: Link, message: Message) -> Message:
    if not isinstance(handler, Prompt):
        return await handler(link, message)
    begun = handler.begin(link, message)
    if isinstance(begun, Message):
        return begun
    await _in_a_task()
    return await begun()


def _ends(answering: Coroutine[Any, Any, None]) -> bool:
    """Carry it as far as it goes without waiting; if it did not end, a task takes it on from where it said so."""
    try:
        answering.send(None)
    except StopIteration:
        return True
    return False


async def _in_a_task() -> None:
    """What follows waits. One turn of the loop where a task runs this already."""
    await asyncio.sleep(0)


def frame_of(fields: Mapping[str, Any], tensors: Sequence[WireTensor] = ()) -> bytes:
    """One frame. `MalformedMessage` if it would be longer than any may be."""
    frame = b"".join(encode(Message(fields, tuple(tensors))))
    if len(frame) > limits.link_frame_bytes_max:
        raise MalformedMessage(f"frame: expected at most {limits.link_frame_bytes_max} bytes, found {len(frame)}")
    return frame
