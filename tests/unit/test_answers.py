"""What a link answers, and what a mistake in one answer or one question does to the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from blyan.network.answers import Bulky, Handler, Prompt
from blyan.network.link import Link, frame_of
from blyan.network.questions import LinkLost, Questions, Refused
from blyan.primitives import limits
from blyan.primitives.errors import Busy
from blyan.wire.framing import Message, decode
from fake_transport import taken
from fakes import SocketPair
from swarms import node, said

DETAILS: dict[str, dict[str, Any]] = {
    "too long": {"x": "y" * limits.message_header_bytes_max},
    "no JSON": {"x": object()},
}


@pytest.mark.parametrize("prompt", [False, True], ids=["task", "now"])
@pytest.mark.parametrize("detail", DETAILS.values(), ids=DETAILS.keys())
async def test_a_refusal_that_fits_in_no_frame_is_told_without_its_detail(detail: dict[str, Any], prompt: bool) -> None:
    def refuse(_link: Link, _message: Message) -> Message:
        raise Busy("answer: expected room, found none", detail=detail)

    async def later(link: Link, message: Message) -> Message:
        return refuse(link, message)

    pair = SocketPair()
    asker = Link(pair.one, said(2), {}, lambda: 0.0, dialled=True)
    other = Link(pair.other, said(1), {"x": Prompt(refuse) if prompt else later}, lambda: 0.0, dialled=False)
    reading = [asyncio.create_task(each.run()) for each in (asker, other)]
    with pytest.raises(Refused, match="expected room") as found:
        await asker.request("x", {}, seconds=1)
    assert (found.value.said, other.open) == (Busy.code, True)
    await asker.close()
    await other.close()
    await asyncio.gather(*reading)


async def test_all_questions_are_settled_whatever_one_asker_does() -> None:
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context.get("exception")))
    questions = Questions()
    asked = [questions.ask(node(1)) for _ in range(3)]
    reason = ValueError("a mistake")

    def fail() -> None:
        raise reason

    for question in asked:
        question.then = fail
    questions.end(LinkLost("gone"))
    assert all(question.is_settled for question in asked)
    await asyncio.sleep(0)
    assert told == [reason] * 3


class Behind:
    """A socket whose other end takes nothing until `takes` is set."""

    def __init__(self) -> None:
        self.takes, self.ended, self.held = asyncio.Event(), asyncio.Event(), False

    def send_now(self, frame: bytes) -> bool:
        del frame
        return self.takes.is_set()

    async def send_bytes(self, frame: bytes) -> None:
        del frame
        await self.takes.wait()

    async def read(self, take: Callable[[bytes], None]) -> None:
        self.take = take
        await self.ended.wait()

    def hold(self) -> None:
        self.held = True

    def release(self) -> None:
        self.held = False

    def shut(self) -> None:
        self.ended.set()

    async def close(self) -> bool:
        self.shut()
        return True


@asynccontextmanager
async def behind(handler: Handler) -> AsyncIterator[tuple[Behind, Link]]:
    socket = Behind()
    link = Link(socket, said(1), {"x": handler}, lambda: 0.0, dialled=False)
    reading = asyncio.create_task(link.run())
    await asyncio.sleep(0)
    yield socket, link
    await link.close()
    await asyncio.wait_for(reading, 5)


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_large_answers_are_made_when_the_one_before_has_left() -> None:
    made = 0

    async def give(_link: Link, _message: Message) -> Message:
        nonlocal made
        made += 1
        return Message({}, ())

    async with behind(Bulky(give)) as (socket, _):
        for number in range(10):
            socket.take(frame_of({"kind": "x", "id": number}))
        await turns()
        assert made == 1
        socket.takes.set()
        await turns(100)
        assert made == 10


async def test_answers_that_do_not_leave_hold_up_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their bytes; and the peer that takes none is who holds the link up."""
    monkeypatch.setattr(limits, "link_under_way_bytes_max", 10_000)

    async def give(_link: Link, _message: Message) -> Message:
        return Message({"x": "y" * 4_000}, ())

    async with behind(give) as (socket, link):
        for number in range(3):
            socket.take(frame_of({"kind": "x", "id": number}))
            await turns()
        assert not socket.held
        socket.take(frame_of({"kind": "x", "id": 3}))
        assert (socket.held, link.holds_up) == (True, False)
        socket.takes.set()
        await turns()
        assert not socket.held


async def test_a_question_leaves_later_unless_nobody_waits_any_more() -> None:
    async with behind(Prompt(lambda _link, _message: Message({}, ()))) as (socket, link):
        sent: list[bytes] = []

        async def send(frame: bytes) -> None:
            await socket.takes.wait()
            sent.append(frame)

        socket.send_bytes = send  # type: ignore[method-assign]
        kept = await link.ask("x", {"a": 1}, patience=0.01)
        left = await link.ask("x", {"a": 2}, patience=0.01)
        link.forget(left)
        socket.takes.set()
        await turns()
        assert frame_of({"a": 1, "kind": "x", "id": kept.number}) in sent
        assert all(b'"a":2' not in frame for frame in sent)


async def test_requests_go_in_the_order_of_their_numbers_where_the_peer_is_behind() -> None:
    """One that wants an answer and one that does not, begun in the same turn: a peer ends a link whose numbers fall."""
    socket, transport = taken(client=True)
    link = Link(socket, said(2), {}, lambda: 0.0, dialled=True)
    socket.pause_writing()
    asking = asyncio.create_task(link.request("x", {}, seconds=5))
    telling = asyncio.create_task(link.tell("x", {}))
    for _ in range(4):
        await asyncio.sleep(0)
    assert not transport.written
    socket.resume_writing()
    assert link.tell_now("x", {})
    await telling
    other, fed = taken(client=False)
    came: list[bytes] = []
    reading = asyncio.create_task(other.read(came.append))
    await asyncio.sleep(0)
    fed.feed(transport.written, 1 << 20)
    assert [decode(each).fields["id"] for each in came] == [1, 2, 3]
    asking.cancel()
    transport.close()
    fed.close()
    await asyncio.gather(asking, reading, return_exceptions=True)
