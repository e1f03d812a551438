"""Streams on links: pieces come as granted, who leaves ends the giving, what nobody asked for ends the link."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from blyan.network.link import Link, frame_of
from blyan.network.questions import LinkLost, Refused
from blyan.network.streams import Outlet, Streaming
from blyan.primitives import limits
from blyan.primitives.errors import Busy
from blyan.wire.framing import Message, WireTensor
from fakes import SocketPair
from swarms import said

PIECES = 3 * limits.stream_credit_max


class Giver:
    """Gives `PIECES` numbered pieces, or as many as anybody takes; counts, and knows how it ended."""

    def __init__(self, pieces: int = PIECES) -> None:
        self.pieces, self.given, self.left = pieces, 0, asyncio.Event()

    async def give(self, _link: Link, message: Message, outlet: Outlet) -> Message:
        if message.fields.get("refuse"):
            raise Busy("stream: expected room, found none")
        try:
            while self.given < self.pieces:
                await outlet.send(Message({"number": self.given}, ()))
                self.given += 1
        except asyncio.CancelledError:
            self.left.set()
            raise
        return Message({"total": self.given}, ())


@asynccontextmanager
async def linked(giver: Giver) -> AsyncIterator[tuple[Link, Link]]:
    """Two ends of a link, both reading; the second gives."""
    pair = SocketPair()

    async def echo(_link: Link, message: Message) -> Message:
        return Message(message.fields, ())

    asker = Link(pair.one, said(2), {}, lambda: 0.0, dialled=True)
    other = Link(pair.other, said(1), {"count": Streaming(giver.give), "echo": echo}, lambda: 0.0, dialled=False)
    reading = [asyncio.create_task(each.run()) for each in (asker, other)]
    try:
        yield asker, other
    finally:
        await asker.close()
        await other.close()
        await asyncio.gather(*reading)


async def test_all_pieces_come_in_order_and_then_the_end() -> None:
    giver = Giver()
    async with linked(giver) as (asker, _), asker.stream("count", {}) as pieces:
        found = [piece.fields["number"] async for piece in _all(pieces)]
        assert found == list(range(PIECES))
        assert pieces.end is not None
        assert pieces.end.fields["total"] == PIECES


async def test_no_more_is_given_than_was_granted_until_it_is_taken() -> None:
    giver = Giver()
    async with linked(giver) as (asker, _), asker.stream("count", {}) as pieces:
        await _settled(lambda: giver.given)
        assert giver.given == limits.stream_credit_max
        for _ in range(limits.stream_credit_max // 2):
            await pieces.next()
        await _settled(lambda: giver.given)
        assert giver.given == limits.stream_credit_max * 3 // 2


async def test_who_leaves_ends_the_giving_and_the_link_goes_on() -> None:
    """Pieces that were on their way are no fault."""
    giver = Giver()
    async with linked(giver) as (asker, other):
        async with asker.stream("count", {}) as pieces:
            await pieces.next()
        await asyncio.wait_for(giver.left.wait(), 5)
        assert (await asker.request("echo", {"x": 1}, seconds=5)).fields["x"] == 1
        assert asker.open and other.open


async def test_a_refusal_and_a_lost_link_are_told() -> None:
    async with linked(Giver()) as (asker, other):
        async with asker.stream("count", {"refuse": True}) as pieces:
            with pytest.raises(Refused, match="expected room"):
                await pieces.next()
        async with asker.stream("count", {}) as pieces:
            await other.close()
            with pytest.raises(LinkLost):
                _ = [piece async for piece in _all(pieces)]


Crooked = Callable[[int], list[bytes]]


def piece(number: int, size: int = 0) -> bytes:
    tensors = (WireTensor("x", "U8", (size,), bytes(size)),) if size else ()
    return frame_of({"re": number, "more": True}, tensors)


CROOKED: dict[str, Crooked] = {
    "endless": lambda number: [piece(number)] * (limits.stream_credit_max + 1),
    "too large": lambda number: [piece(number, limits.stream_piece_bytes_max + 1)],
    "of no stream": lambda number: [piece(number + 7)],
    "of one that never was": lambda _number: [piece(-1)],
    "after the end": lambda number: [frame_of({"re": number}), piece(number)],
}


@pytest.mark.parametrize("crooked", CROOKED)
async def test_pieces_that_nobody_granted_end_the_link(crooked: str) -> None:
    pair = SocketPair()
    asker = Link(pair.one, said(2), {}, lambda: 0.0, dialled=True)
    reading = asyncio.create_task(asker.run())
    async with asker.stream("count", {}):
        await pair.other.receive()
        for frame in CROOKED[crooked](1):
            await pair.other.send_bytes(frame)
        await asyncio.wait_for(reading, 5)
        assert not asker.open


async def test_who_was_left_may_send_what_was_granted_and_no_more() -> None:
    pair = SocketPair()
    asker = Link(pair.one, said(2), {}, lambda: 0.0, dialled=True)
    reading = asyncio.create_task(asker.run())
    async with asker.stream("count", {}):
        await pair.other.receive()
    for _ in range(limits.stream_credit_max):
        await pair.other.send_bytes(piece(1))
    await asyncio.sleep(0)
    assert asker.open
    await pair.other.send_bytes(piece(1))
    await asyncio.wait_for(reading, 5)
    assert not asker.open


@pytest.mark.parametrize("credit", [0, -1, limits.stream_credit_max + 1, None, "1", True])
async def test_a_stream_without_a_fair_credit_ends_the_link(credit: Any) -> None:
    async with linked(Giver()) as (asker, other):
        await asker._socket.send_bytes(frame_of({"kind": "count", "id": 1, "credit": credit}))
        await asyncio.wait_for(other.closed.wait(), 5)


@pytest.mark.parametrize(
    "words", [[{"credit": limits.stream_credit_max + 1}], [{"credit": 1.5}], [{"credit": limits.stream_credit_max}] * 3]
)
async def test_a_grant_beyond_what_may_be_granted_ends_the_link(words: list[dict[str, Any]]) -> None:
    async with linked(Giver(0)) as (asker, other):
        stuck = asyncio.Event()

        async def give(_link: Link, _message: Message, _outlet: Outlet) -> Message:
            await stuck.wait()
            return Message({}, ())

        other._answers.handlers = {"count": Streaming(give)}
        async with asker.stream("count", {}) as pieces:
            for each in words:
                await asker._socket.send_bytes(frame_of({"to": pieces.number, **each}))
            await asyncio.wait_for(other.closed.wait(), 5)


async def test_words_of_a_stream_that_is_over_are_nothing() -> None:
    """They cross its end on the way."""
    async with linked(Giver()) as (asker, other):
        for words in ({"credit": 1}, {"cancel": True}, {}):
            await asker._socket.send_bytes(frame_of({"to": 99, **words}))
        assert (await asker.request("echo", {}, seconds=5)).fields is not None
        assert other.open


async def test_too_many_streams_are_refused_and_not_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "link_streams_max", 2)
    async with linked(Giver()) as (asker, other):
        for number in (1, 2, 3):
            await asker._socket.send_bytes(frame_of({"kind": "count", "id": number, "credit": 1}))
        asker._questions.number(), asker._questions.number()
        refused = asker._questions.ask("")
        asker._streams.asked(1), asker._streams.asked(2)
        assert await refused.settled(5)
        with pytest.raises(Refused) as reason:
            refused.answer()
        assert reason.value.said == "busy"
        assert other.open


async def _all(pieces: Any) -> AsyncIterator[Message]:
    while (found := await pieces.next()) is not None:
        yield found


async def _settled(read: Callable[[], int]) -> None:
    """Until nothing changes any more, in turns of the loop: no time is in this."""
    last, same = -1, 0
    while same < 50:
        await asyncio.sleep(0)
        same = same + 1 if read() == last else 0
        last = read()


async def test_a_pair_of_sockets_passes_frames_and_its_end() -> None:
    """The fake that this file stands on."""
    pair = SocketPair()
    await pair.one.send_bytes(b"x")
    assert await pair.other.receive() == b"x"
    await pair.other.close()
    assert await pair.one.receive() is None
    with pytest.raises(ConnectionError):
        await pair.one.send_bytes(b"y")


async def test_what_is_told_gets_no_answer_nor_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    came: list[Any] = []
    async with linked(Giver()) as (asker, _):
        take = asker._take
        monkeypatch.setattr(asker, "_take", lambda message, size: (came.append(message.fields), take(message, size)))
        await asker.tell("echo", {"x": 1})
        await asker.tell("unknown", {})
        assert (await asker.request("echo", {"x": 2}, seconds=5)).fields["x"] == 2
    assert [each.get("x") for each in came] == [2]
    with pytest.raises(LinkLost):
        await asker.tell("echo", {})
