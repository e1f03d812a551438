"""Requests under way on a link, from the side that asked: which are answered, and which nobody waits for any more.

An answer wakes who waits for it in one turn of the loop; no task stands between. For the link's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from blyan.primitives import limits
from blyan.primitives.errors import MalformedMessage, PeerFault
from blyan.wire.fields import as_dict
from blyan.wire.framing import Message, WireTensor

_code_chars_max: Final = 64
refusal_chars_max: Final = 400


class Refused(PeerFault):
    """The peer answered that it does not: with a code of ours and its words."""

    def __init__(self, peer: str, code: str, message: str, detail: Mapping[str, Any]) -> None:
        super().__init__(f"peer {peer[:12]}: {message}", detail={"peer": peer, "code": code})
        self.said = code
        self.about = detail  # as it came: nothing in it is checked


class LinkLost(PeerFault):
    """The link ended before the answer came."""


class LinkFull(LinkLost):
    """Too much is under way on the link for one more; it may be open and well."""


class NoAnswer(PeerFault):
    """The answer did not come in time."""


def refusal(peer: str, fault: object) -> Refused:
    """What a peer's `fault` says, bounded."""
    said = as_dict(fault) or {}
    code, message = str(said.get("code", ""))[:_code_chars_max], str(said.get("message", ""))[:refusal_chars_max]
    words = message if message.isprintable() else "a refusal without words"
    return Refused(peer, code, words, as_dict(said.get("detail")) or {})


class Question:
    """One request. One may wait for it at a time."""

    __slots__ = ("_outcome", "_sending", "_waiter", "number", "peer", "then")

    def __init__(self, number: int, peer: str) -> None:
        self.number, self.peer = number, peer
        self.then: Callable[[], None] | None = None  # called as it is settled, unless that was before
        self._outcome: Message | LinkLost | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._sending: asyncio.Future[None] | None = None

    async def leaves(self, sending: Awaitable[None], seconds: float) -> None:
        """Wait at most so long until it is sent; that goes on then, until `stop`. Raises what sending raises so far."""
        self._sending = leaving = asyncio.ensure_future(sending)
        leaving.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait({leaving}, timeout=max(0.0, seconds))
        if leaving.done():
            leaving.result()

    def stop(self) -> None:
        """It need not be sent any more."""
        if self._sending is not None:
            self._sending.cancel()

    @property
    def is_settled(self) -> bool:
        """Whether an answer came, or none can."""
        return self._outcome is not None

    def settle(self, outcome: Message | LinkLost) -> None:
        """The first one counts."""
        if self._outcome is None:
            self._outcome = outcome
            _wake(self._waiter)
            if self.then is not None:
                self.then()

    async def settled(self, seconds: float) -> bool:
        """Wait until it is, at most so long."""
        if self._outcome is None and seconds > 0:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = loop.call_later(seconds, _wake, self._waiter)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        return self._outcome is not None

    def answer(self) -> Message:
        """What came; `Refused`, `LinkLost` or `NoAnswer` say why there is none."""
        if self._outcome is None:
            raise NoAnswer(f"peer {self.peer[:12]}: expected an answer in time, found none")
        if isinstance(self._outcome, LinkLost):
            raise self._outcome
        fault = self._outcome.fields.get("fault")
        if fault is not None:
            raise refusal(self.peer, fault)
        return self._outcome


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


class Questions:
    """Those of one link. Numbers rise, those of streams among them."""

    def __init__(self) -> None:
        self._number = 0
        self._waiting: dict[int, Question] = {}

    @property
    def room(self) -> bool:
        """Whether one more may be under way."""
        return len(self._waiting) < limits.link_waiting_max

    def number(self) -> int:
        """The next one's."""
        self._number += 1
        return self._number

    def ask(self, peer: str) -> Question:
        """One more."""
        question = Question(self.number(), peer)
        self._waiting[question.number] = question
        return question

    def take(self, number: int, message: Message) -> None:
        """An answer came, perhaps too late for whoever waited; `MalformedMessage` for one to nothing that was asked."""
        question = self._waiting.pop(number, None)
        if question is not None:
            question.settle(message)
        elif number > self._number:
            raise MalformedMessage(f"answer: expected to one of {self._number} requests, found to {number}")

    def forget(self, question: Question) -> None:
        """Nobody waits for it any more."""
        self._waiting.pop(question.number, None)
        question.stop()

    def end(self, reason: LinkLost) -> None:
        """No answers come any more."""
        waiting, self._waiting = self._waiting, {}
        loop = asyncio.get_running_loop()
        for question in waiting.values():
            then, question.then = question.then, None
            question.settle(reason)
            if then is not None:
                loop.call_soon(then)  # a mistake in one is the loop's to tell, and no other's


class CalledOff:
    """Tells the peer which answers are not wanted any more, so that it need not make them; nobody waits for that."""

    def __init__(self, say: Callable[[Mapping[str, Any], Sequence[WireTensor]], Awaitable[None]]) -> None:
        self._say = say
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def add(self, number: int) -> None:
        """This one's; nothing is said on a link that has ended, or where too much is to be said."""
        if not self._closed and len(self._tasks) < limits.link_waiting_max:
            task = asyncio.create_task(self._told(number))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """The link has ended."""
        self._closed = True
        for task in self._tasks:
            task.cancel()

    async def _told(self, number: int) -> None:
        with suppress(LinkLost):
            await self._say({"to": number, "cancel": True}, ())
