"""WebSocket frames: whole ones are given on however they are cut, and what is none ends the connection (RFC 6455)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from blyan.primitives import limits
from fake_transport import frame, taken

KEY = bytes((1, 2, 3, 4))


SAID = [b"", b"a", bytes(range(125)), bytes(126), bytes(range(256)) * 200, bytes(range(256)) * 1200, b"end"]


@pytest.mark.parametrize("piece", [1 << 20, 1_000, 7])
@pytest.mark.parametrize("client", [True, False])
async def test_frames_come_whole_however_they_are_cut(piece: int, client: bool) -> None:
    """Also those of an end that masks with another key than ours."""
    socket, transport = taken(client=client)
    came: list[bytes] = []
    reading = asyncio.create_task(socket.read(came.append))
    await asyncio.sleep(0)
    transport.feed(b"".join(frame(each, key=b"" if client else KEY) for each in SAID), piece)
    assert came == SAID
    transport.close()
    await asyncio.wait_for(reading, 5)


async def test_what_one_end_sends_the_other_takes() -> None:
    """Either way."""
    for client in (True, False):
        socket, transport = taken(client=client)
        other, back = taken(client=not client)
        came: list[bytes] = []
        reading = asyncio.create_task(other.read(came.append))
        await asyncio.sleep(0)
        for each in SAID:
            assert socket.send_now(each)
        back.feed(transport.written, 1 << 20)
        assert came == SAID
        await other.close()
        await asyncio.wait_for(reading, 5)


NO_FRAMES = {
    "unmasked": frame(b"x"),
    "text": frame(b"x", first=0x81, key=KEY),
    "a part": frame(b"x", first=0x02, key=KEY),
    "compressed": frame(b"x", first=0xC2, key=KEY),
    "too long": frame(bytes(101), key=KEY)[:8],
    "a long ping": frame(bytes(126), first=0x89, key=KEY),
}


@pytest.mark.parametrize("raw", NO_FRAMES.values(), ids=NO_FRAMES.keys())
async def test_what_is_no_frame_of_ours_ends_the_connection(raw: bytes) -> None:
    socket, transport = taken(client=False, most=100)
    came: list[bytes] = []
    reading = asyncio.create_task(socket.read(came.append))
    await asyncio.sleep(0)
    transport.feed(raw + frame(b"after", key=KEY), 1 << 20)
    await asyncio.wait_for(reading, 5)
    assert (came, transport.ended) == ([], True)
    with pytest.raises(ConnectionError):
        socket.send_now(b"x")


async def test_pings_are_answered_and_an_end_is_answered_by_an_end() -> None:
    socket, transport = taken(client=False)
    reading = asyncio.create_task(socket.read(lambda _: None))
    await asyncio.sleep(0)
    transport.feed(frame(b"well?", first=0x89, key=KEY), 3)
    assert transport.written == frame(b"well?", first=0x8A)
    transport.feed(frame(b"\x03\xe8", first=0x88, key=KEY), 3)
    await asyncio.wait_for(reading, 5)
    assert transport.written.endswith(frame(b"\x03\xe8", first=0x88))


async def test_who_is_held_up_is_not_read_and_loses_nothing() -> None:
    socket, transport = taken(client=True)
    came: list[bytes] = []

    def take(payload: bytes) -> None:
        came.append(payload)
        socket.hold()

    reading = asyncio.create_task(socket.read(take))
    await asyncio.sleep(0)
    transport.feed(b"".join(frame(bytes([each])) for each in range(5)), 1 << 20)
    assert (came, transport.reading) == ([b"\0"], False)
    for each in range(1, 5):
        socket.release()
        assert came[-1] == bytes([each])
    await socket.close()
    await asyncio.wait_for(reading, 5)


async def test_who_sends_waits_while_the_other_end_is_behind() -> None:
    socket, transport = taken(client=True)
    socket.pause_writing()
    assert not socket.send_now(b"x")
    assert not transport.written
    sending = asyncio.ensure_future(socket.send_bytes(b"x"))
    await asyncio.sleep(0)
    assert not sending.done()
    socket.resume_writing()
    await asyncio.wait_for(sending, 5)
    transport.close()
    await asyncio.sleep(0)
    with pytest.raises(ConnectionError):
        await socket.one()


async def test_nothing_is_written_while_the_other_end_is_behind_and_then_all_in_order() -> None:
    """Nor does one that would not wait overtake those that do; who gives up is not sent."""
    socket, transport = taken(client=False)
    socket.pause_writing()
    sending = [asyncio.ensure_future(socket.send_bytes(bytes([each]))) for each in range(4)]
    await asyncio.sleep(0)
    sending[1].cancel()
    await asyncio.sleep(0)
    assert not transport.written
    assert not socket.send_now(b"x")
    socket.resume_writing()
    await asyncio.gather(*sending, return_exceptions=True)
    assert socket.send_now(b"y")
    assert transport.written == b"".join(map(frame, (b"\0", b"\2", b"\3", b"y")))
    socket.pause_writing()
    last = asyncio.ensure_future(socket.send_bytes(b"z"))
    await asyncio.sleep(0)
    transport.close()
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(last, 5)


async def test_one_frame_after_the_other_may_be_asked_for() -> None:
    """What comes meanwhile waits; the end is an error for who asks for one more."""
    socket, transport = taken(client=True)
    transport.feed(frame(b"1") + frame(b"2"), 1 << 20)
    assert [await socket.one(), await socket.one()] == [b"1", b"2"]
    waiting: Callable[[], bool] = (asking := asyncio.create_task(socket.one())).done
    await asyncio.sleep(0)
    assert not waiting()
    transport.close()
    with pytest.raises(ConnectionError):
        await asking


@pytest.mark.parametrize("how", ["lost", "goodbye", "close frame"])
async def test_what_came_whole_before_the_end_is_given_yet(how: str) -> None:
    """However it ended; then it is an error to ask for more."""
    socket, transport = taken(client=True)
    transport.feed(frame(b"1") + frame(b"2") + (frame(b"\x03\xe8", first=0x88) if how == "close frame" else b""), 100)
    found = [await socket.one()]
    if how == "lost":
        socket.connection_lost(None)
    elif how == "goodbye":
        socket.eof_received()
    found.append(await socket.one())
    assert found == [b"1", b"2"]
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await socket.one()


async def test_who_shut_it_is_given_nothing_more() -> None:
    socket, transport = taken(client=True)
    transport.feed(frame(b"1") + frame(b"2"), 100)
    await socket.one()
    socket.shut()
    with pytest.raises(ConnectionError):
        await socket.one()


@pytest.mark.parametrize("ends", [False, True], ids=["open", "lost meanwhile"])
async def test_many_frames_are_given_on_in_several_turns(ends: bool) -> None:
    """All of them, in order, and others have their turn between."""
    socket, transport = taken(client=True)
    came: list[bytes] = []
    reading = asyncio.create_task(socket.read(came.append))
    await asyncio.sleep(0)
    many = [each.to_bytes(2, "little") for each in range(10 * limits.frames_turn_max)]
    transport.feed(b"".join(map(frame, many)), 1 << 20)
    assert len(came) == limits.frames_turn_max
    if ends:
        socket.connection_lost(None)
    for _ in range(12):
        await asyncio.sleep(0)
    assert came == many
    assert reading.done() == ends
    await socket.close() if ends else transport.close()
    await asyncio.wait_for(reading, 5)


async def test_a_full_buffer_is_read_on_after_it_was_given_on() -> None:
    """Frames so small that many turns pass before there is room."""
    socket, transport = taken(client=True)
    came: list[bytes] = []
    reading = asyncio.create_task(socket.read(came.append))
    await asyncio.sleep(0)
    raw, count = frame(b"x") * 100_000, 0
    while count < len(raw):
        if transport.reading:
            piece = min(len(raw) - count, len(socket.get_buffer(-1)))
            assert piece, "whoever reads into nothing takes that for the end"
            transport.feed(raw[count : count + piece], piece)
            count += piece
        await asyncio.sleep(0)
    while len(came) < 100_000:  # noqa: ASYNC110 - what is waited for tells nobody
        await asyncio.sleep(0)
    await socket.close()
    await asyncio.wait_for(reading, 5)


async def test_of_many_pings_the_last_is_answered() -> None:
    """Once there is room, if there is none now."""
    socket, transport = taken(client=False)
    reading = asyncio.create_task(socket.read(lambda _: None))
    await asyncio.sleep(0)
    pings = b"".join(frame(bytes([each]), first=0x89, key=KEY) for each in range(10))
    last = frame(b"\x09", first=0x8A)
    transport.feed(pings, 1 << 20)
    assert transport.written == last
    socket.pause_writing()
    transport.feed(pings, 1 << 20)
    assert transport.written == last
    socket.resume_writing()
    assert transport.written == 2 * last
    transport.close()
    await asyncio.wait_for(reading, 5)


async def test_a_mistake_of_who_takes_ends_the_connection() -> None:
    """Also in a later turn of the loop."""
    socket, transport = taken(client=True)
    came = 0

    def take(_payload: bytes) -> None:
        nonlocal came
        came += 1
        if came > limits.frames_turn_max:
            raise ValueError("a mistake")

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, _context: None)
    reading = asyncio.create_task(socket.read(take))
    await asyncio.sleep(0)
    transport.feed(frame(b"x") * 2 * limits.frames_turn_max, 1 << 20)
    await asyncio.wait_for(reading, 5)
    assert transport.ended


async def test_larger_frames_are_taken_once_they_are_allowed() -> None:
    """Also one that had come before; without that it ends the connection."""
    for allowed in (False, True):
        socket, transport = taken(client=True, most=100)
        transport.feed(frame(bytes(100)) + frame(bytes(101)), 1 << 20)
        assert await socket.one() == bytes(100)
        if allowed:
            socket.allow(1 << 20)
            assert await socket.one() == bytes(101)
        else:
            with pytest.raises(ConnectionError):
                await socket.one()


async def test_a_turn_gives_on_no_more_however_often_something_comes() -> None:
    """Nor answers more pings: what fills the buffer again and again waits for its turn."""
    socket, transport = taken(client=True)
    came = 0

    def take(_payload: bytes) -> None:
        nonlocal came
        came += 1

    reading = asyncio.create_task(socket.read(take))
    await asyncio.sleep(0)
    small = (frame(b"x") + frame(b"", first=0x89)) * limits.frames_turn_max
    for turn in range(50):
        before, pongs = came, len(transport.written)
        for _ in range(4):
            transport.feed(small, 1 << 20)
        await asyncio.sleep(0)
        assert 0 < came - before <= limits.frames_turn_max, f"in turn {turn}"  # half of the frames are pings
        assert len(transport.written) - pongs <= 2 * len(frame(b"", key=KEY))
    await socket.close()
    await asyncio.wait_for(reading, 5)


async def test_frames_go_in_the_order_in_which_they_were_given_whoever_waits_first() -> None:
    """One that was given and is waited for later keeps its place; one that is given up is not sent."""
    socket, transport = taken(client=False)
    socket.pause_writing()
    first, given_up, second = (socket.send_bytes(each) for each in (b"1", b"x", b"2"))
    given_up.cancel()
    assert not socket.send_now(b"3")
    socket.resume_writing()
    assert socket.send_now(b"3")
    await second
    await first
    assert transport.written == frame(b"1") + frame(b"2") + frame(b"3")
    socket.pause_writing()
    late = socket.send_bytes(b"4")
    forgotten = [socket.send_bytes(bytes(1 << 20)) for _ in range(8)]
    for each in forgotten:
        each.cancel()
    await asyncio.sleep(0)
    assert len(socket._sending._waiting) == 1, "what is given up is not kept either"
    transport.close()
    await asyncio.sleep(0.01)
    with pytest.raises(ConnectionError):
        await late
