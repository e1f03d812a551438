"""TLS on asyncio's connections: spoken with others' TLS, whole however it is cut, and ended by whatever breaks it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from blyan.network import tls
from blyan.network.identity import client_context
from blyan.network.tls import TlsHandshake
from blyan.primitives.clock import system_entropy
from tls_ends import SERVER, Buffered, Heard, Streamed, begun, linked, listening, until

SIZES = (1, 1_250, 16_384, 16_385, 3_000_000)


@pytest.mark.parametrize("kind", [Streamed, Buffered])
async def test_others_tls_speaks_with_ours_as_server(kind: type[Heard]) -> None:
    """asyncio's own client: both ways, at every size, and either end's end."""
    heard = kind()
    async with listening(heard) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context())
        ours = await heard.made
        for size in SIZES:
            said = system_entropy(size)
            heard.came.clear()
            writer.write(said)
            ours.write(said)
            assert await reader.readexactly(size) == said
            await until(lambda size=size: len(heard.came) == size)
            assert heard.came == said
        ours.write(b"last")
        ours.close()
        assert await asyncio.wait_for(reader.read(), 5) == b"last"
        writer.close()
        assert await asyncio.wait_for(heard.lost, 5) is None


@pytest.mark.parametrize("kind", [Streamed, Buffered])
async def test_others_tls_speaks_with_ours_as_client(kind: type[Heard]) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100_000):
            writer.write(data)
        writer.close()

    heard = kind()
    assert isinstance(heard, asyncio.BaseProtocol)
    async with await asyncio.start_server(echo, "127.0.0.1", 0, ssl=SERVER) as server:
        await tls.connect(client_context(), heard, "127.0.0.1", server.sockets[0].getsockname()[1], 5)
        ours = await heard.made
        said = [system_entropy(size) for size in SIZES]
        for each in said:
            ours.write(memoryview(each))
        await until(lambda: len(heard.came) == sum(SIZES))
        assert heard.came == b"".join(said)
        ours.close()
        assert await asyncio.wait_for(heard.lost, 5) is None


cuts = st.lists(st.integers(100, 20_000), min_size=1, max_size=20)


@example(cuts=[1], sizes=[1, 70, 0, 500], pauses={1, 2})
@settings(deadline=None)
@given(cuts=cuts, sizes=st.lists(st.integers(0, 40_000), max_size=8), pauses=st.sets(st.integers(0, 30)))
def test_all_comes_in_order_however_the_wire_cuts_it_and_the_reader_pauses(
    cuts: list[int], sizes: list[int], pauses: set[int]
) -> None:
    async def run() -> None:
        here, there = Streamed(), Buffered()
        ours, theirs = begun(here, there)
        turn = 0
        held: int | None = None

        def pause() -> None:
            nonlocal turn, held
            assert held is None, "it had paused"
            turn += 1
            if turn in pauses:
                held = len(there.came)
                there.made.result().pause_reading()

        there.more = pause
        said = [system_entropy(size) for size in sizes]
        written = False
        for step in range(10_000):
            count = cuts[step % len(cuts)]
            moved = ours.take(theirs, count)
            if here.made.done() and not written:  # the other end's handshake may end with the first of it
                written = True
                for each in said:
                    here.made.result().write(each)
            moved += theirs.take(ours, count)
            if held is not None:
                held = None
                there.made.result().resume_reading()
                await asyncio.sleep(0)
            elif written and not moved:
                break
        assert there.came == b"".join(said)

    asyncio.run(run())


async def test_a_reader_that_pauses_holds_up_the_other_end_and_nothing_piles_up_here() -> None:
    here, there = Streamed(), Streamed()
    async with linked(here, there) as (ours, theirs):
        theirs.pause_reading()
        ours.write(bytes(30_000_000))
        await asyncio.sleep(0.2)
        assert not there.came
        assert not theirs.is_reading()
        assert theirs._session.came.pending <= 128 * 1024
        assert ours.get_write_buffer_size() > 10_000_000
        theirs.resume_reading()
        await until(lambda: len(there.came) == 30_000_000)


async def test_what_was_written_before_a_close_arrives_though_the_other_end_goes_on_talking() -> None:
    """A connection that is closed with something unread is reset, and what was on its way is lost."""
    here, there = Streamed(), Streamed()
    async with linked(here, there) as (ours, theirs):
        ours.pause_reading()
        theirs.write(bytes(8_000_000))
        ours.write(bytes(8_000_000))
        theirs.close()
        theirs.close()
        theirs.write(b"after")
        await asyncio.sleep(0.1)
        ours.resume_reading()
        await until(lambda: here.ended)
        assert len(here.came) == 8_000_000
        assert await asyncio.wait_for(there.lost, 5) is None
        assert await asyncio.wait_for(here.lost, 5) is None


async def test_who_never_closes_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "_close_seconds", 0.1)
    here, there = Streamed(), Streamed()
    async with linked(here, there) as (ours, theirs):
        ours._wire.pause_reading()
        theirs.close()
        await asyncio.wait_for(there.lost, 5)


@pytest.mark.parametrize("kind", [Streamed, Buffered])
async def test_what_came_in_many_records_is_given_at_once(kind: type[Heard]) -> None:
    """A reader that bounds what it does each time would not, if each record were a time."""
    here, there = Streamed(), kind()
    ours, theirs = begun(here, there)
    while not (there.made.done() and here.made.done()):
        ours.take(theirs, 5_000)
        theirs.take(ours, 5_000)
    times: list[int] = []
    there.more = lambda: times.append(len(there.came))
    for _ in range(500):
        here.made.result().write(b"1234")
    theirs.take(ours, 1 << 20)
    assert times == ([1_000, 2_000] if kind is Buffered else [2_000])
    here.made.result().write(b"good")
    here.made.result().write(b"bad")
    ours.goes[-1] ^= 1
    theirs.take(ours, 1 << 20)
    assert there.came[2_000:] == b"good"
    assert isinstance(there.lost.result(), ssl.SSLError)


async def test_an_end_that_came_while_the_reader_paused_waits_for_it() -> None:
    """Beside the last bytes, in one reading of the wire."""
    here, there = Streamed(), Buffered()
    ours, theirs = begun(here, there)
    while not (there.made.done() and here.made.done()):
        ours.take(theirs, 5_000)
        theirs.take(ours, 5_000)
    there.more = there.made.result().pause_reading  # type: ignore[attr-defined]
    here.made.result().write(bytes(900))
    here.made.result().close()
    theirs.take(ours, 1 << 20)
    assert (len(there.came), there.ended) == (900, False)
    there.made.result().resume_reading()
    await asyncio.sleep(0.01)
    assert there.ended
    assert theirs.closing


async def test_who_ends_and_takes_nothing_is_let_go_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written waits for it no longer than a close takes."""
    monkeypatch.setattr(tls, "_close_seconds", 0.2)
    here, there = Streamed(), Streamed()
    async with linked(here, there) as (ours, theirs):
        ours._wire.pause_reading()
        theirs.write(bytes(30_000_000))
        ours._wire.write_eof()
        await asyncio.wait_for(there.lost, 5)
        assert there.ended


async def test_a_record_that_was_altered_ends_the_connection_and_gives_nothing() -> None:
    here, there = Streamed(), Streamed()
    ours, theirs = begun(here, there)
    while not (there.made.done() and here.made.done()):
        ours.take(theirs, 5_000)
        theirs.take(ours, 5_000)
    here.made.result().write(b"good")
    theirs.take(ours, 5_000)
    here.made.result().write(b"bad")
    ours.goes[-1] ^= 1
    theirs.take(ours, 5_000)
    assert there.came == b"good"
    assert isinstance(there.lost.result(), ssl.SSLError)
    assert theirs.closing


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01"])
async def test_who_speaks_no_tls_is_let_go_and_the_reader_never_hears_of_it(said: bytes) -> None:
    heard = Streamed()
    told: list[Exception | None] = []
    shake = TlsHandshake(SERVER, heard, server=True, seconds=0.2, done=told.append)
    server = await asyncio.get_running_loop().create_server(lambda: shake, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        writer.write(said)
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert [type(each) for each in told] == [ssl.SSLError if said.startswith(b"GET") else TimeoutError]
    assert not heard.made.done()
    assert not heard.lost.done()


async def test_connecting_fails_where_there_is_no_tls_or_nobody_waits() -> None:
    """And leaves no connection behind."""
    ended = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(1_000):
                pass
        ended.set()
        writer.close()

    async with await asyncio.start_server(mute, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(TimeoutError):
            await tls.connect(client_context(), Streamed(), "127.0.0.1", port, 0.1)
        await asyncio.wait_for(ended.wait(), 5)
        ended.clear()
        dialling = asyncio.create_task(tls.connect(client_context(), Streamed(), "127.0.0.1", port, 60))
        await asyncio.sleep(0.05)
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling
        await asyncio.wait_for(ended.wait(), 5)
    with pytest.raises(ConnectionError):
        await tls.connect(client_context(), Streamed(), "127.0.0.1", port, 5)


async def test_who_gives_up_in_the_very_turn_in_which_tls_is_agreed_on_leaves_no_connection() -> None:
    heard = Streamed()
    async with listening(heard) as port:

        class GivesUp(Streamed):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                asyncio.get_running_loop().call_soon(dialling.cancel)  # as soon as it is done

        gives_up = GivesUp()
        dialling = asyncio.create_task(tls.connect(client_context(), gives_up, "127.0.0.1", port, 60))
        with pytest.raises(asyncio.CancelledError):
            await dialling
        await asyncio.wait_for(gives_up.lost, 5)
        await asyncio.wait_for(heard.lost, 5)


@pytest.mark.parametrize("later", [False, True])
async def test_a_reader_that_fails_ends_its_connection(later: bool) -> None:
    """Also where it is given what waited while it had paused."""
    heard, other = Streamed(), Streamed()
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(str(context["exception"])))

    def fail() -> None:
        raise ValueError("of the reader")

    async with linked(other, heard) as (ours, theirs):
        heard.more = fail
        if later:
            theirs._paused = True
        ours.write(b"x")
        if later:
            await asyncio.sleep(0.05)
            theirs.resume_reading()
        await asyncio.wait_for(heard.lost, 5)
    assert told == ["of the reader"]


async def test_what_a_connection_says_of_itself() -> None:
    async with linked(Streamed(), Buffered()) as (ours, theirs):
        assert ours.get_extra_info("ssl_object").version() == "TLSv1.3"
        assert theirs.get_extra_info("sslcontext") is SERVER
        assert ours.get_extra_info("peername") == theirs.get_extra_info("sockname")
        assert ours.get_extra_info("none", 3) == 3
        assert isinstance(ours.get_protocol(), Streamed)
        ours.set_write_buffer_limits(1_000, 100)
        assert ours.get_write_buffer_limits() == (100, 1_000)
        assert not ours.can_write_eof()
        with pytest.raises(NotImplementedError):
            ours.write_eof()
        ours.close()
        assert ours.is_closing()
