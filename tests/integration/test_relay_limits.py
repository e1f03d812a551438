"""What relays and tunnels take, and that nothing is left of them."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web

from blyan.network import relay as relay_module
from blyan.network.dialling import Expected, relayed_url
from blyan.network.identity import client_context
from blyan.network.link import Link
from blyan.network.questions import Refused
from blyan.network.relay import accept_kind, offer_kind, open_kind, token_header, tunnel_path
from blyan.network.tls import TlsHandshake
from blyan.primitives import limits
from blyan.primitives.errors import PeerFault
from blyan.wire.framing import Message
from relays import RelayNode, relay_host, tensor, three, until
from tls_ends import SERVER


async def test_a_relay_reads_no_more_than_the_other_end_takes() -> None:
    """A node that stands still stops its caller, and does not fill the relay's memory."""
    stands = asyncio.Event()
    host = relay_host()

    async def stuck(_link: Link, _message: Message) -> Message:
        await stands.wait()
        return Message({}, ())

    async with RelayNode(host=host) as relay, RelayNode(handlers={"stuck": stuck}) as node, RelayNode() as caller:
        await node.offer(relay)
        link = await caller.call(relay, node)
        back = next(each for each in node.links if each.peer.node == caller.key)
        transport = back._socket._transport
        transport.pause_reading()
        before = host.carried_bytes
        sends = [asyncio.create_task(link.request("stuck", {}, (tensor(16 << 20),), seconds=30)) for _ in range(4)]
        amounts = [0]
        async with asyncio.timeout(15):
            while len(amounts) < 10 or amounts[-1] != amounts[-5]:
                await asyncio.sleep(0.1)
                amounts.append(host.carried_bytes - before)
        assert 0 < amounts[-1] < 32 << 20  # what fits into the buffers of seven sockets, of 64 MiB
        assert not any(each.done() for each in sends)
        stands.set()
        transport.resume_reading()
        await asyncio.gather(*sends)
        assert host.carried_bytes - before > 64 << 20


async def test_a_tunnel_carries_no_more_a_second_than_it_may() -> None:
    """Four megabytes at four a second, there and back, take two seconds."""
    async with three(relay_host(tunnel_bytes_per_second=4 << 20)) as (relay, node, caller):
        link = await caller.call(relay, node)
        began = asyncio.get_running_loop().time()
        await link.request("echo", {}, (tensor(4 << 20),), seconds=10)
        assert 1.5 < asyncio.get_running_loop().time() - began < 4


async def test_all_tunnels_together_carry_no_more_than_the_relay_may() -> None:
    """Each would be allowed much more."""
    async with three(relay_host(bytes_per_second=4 << 20)) as (relay, node, caller):
        links = [await caller.call(relay, node) for _ in range(2)]
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(link.request("echo", {}, (tensor(2 << 20),), seconds=10) for link in links))
        assert 1.5 < asyncio.get_running_loop().time() - began < 4


async def test_a_tunnel_in_which_nothing_is_said_is_ended() -> None:
    """One that is used is not."""
    async with three(relay_host(idle_seconds=0.5)) as (relay, node, caller):
        link = await caller.call(relay, node)
        for _ in range(5):
            await asyncio.sleep(0.2)
            await link.request("echo", {}, seconds=5)
        async with asyncio.timeout(5):
            await link.closed.wait()
        await until(lambda: relay.host.tunnels == 0)


async def test_a_tunnel_in_which_one_side_speaks_is_not_ended() -> None:
    """The other may listen for longer than both may be silent."""
    tokens: asyncio.Queue[str] = asyncio.Queue()

    async def take(_link: Link, message: Message) -> Message:
        tokens.put_nowait(str(message.fields["token"]))
        return Message({}, ())

    async with RelayNode(host=relay_host(idle_seconds=0.5)) as relay, RelayNode() as node, RelayNode() as caller:
        await node.offer(relay)
        node.handlers[accept_kind] = take
        link = await caller.dial(relay.url)
        answer = await link.request(open_kind, {"node": node.key}, seconds=5)
        url = relay.url.replace("wss", "https") + tunnel_path
        async with aiohttp.ClientSession() as session:
            ends = [
                await session.ws_connect(url, ssl=client_context(), headers={token_header: token})
                for token in (answer.fields["token"], await tokens.get())
            ]
            for number in range(8):
                await asyncio.sleep(0.2)
                await ends[1].send_bytes(b"%d" % number)
            said = [(await ends[0].receive()).data for _ in range(8)]
            assert [b"%d" % number for number in range(8)] == said
            assert (await ends[0].receive()).type is not aiohttp.WSMsgType.BINARY


async def test_a_node_gets_so_many_tunnels_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those whose ends do not come count, until their time is over."""
    monkeypatch.setattr(limits, "relay_tunnels_node_max", 3)
    monkeypatch.setattr(limits, "relay_join_seconds_max", 1.0)
    async with three() as (relay, node, caller):
        link = await caller.dial(relay.url)
        for _ in range(3):
            await link.request(open_kind, {"node": node.key}, seconds=5)
        with pytest.raises(Refused, match="expected at most 3 tunnels of node"):
            await link.request(open_kind, {"node": node.key}, seconds=5)
        await until(lambda: relay.host.tunnels == 0 and node.tunnels.count == 0)
        assert not relay.host._tokens
        reached = await caller.call(relay, node)
        assert reached.open


async def test_a_relay_takes_so_many_nodes_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that goes makes room."""
    monkeypatch.setattr(limits, "relay_nodes_max", 1)
    async with three() as (relay, node, _), RelayNode() as other:
        link = await other.dial(relay.url)
        with pytest.raises(Refused, match="expected at most 1 nodes"):
            await link.request(offer_kind, {}, seconds=5)
        await node.link(relay.key).close()
        await until(lambda: not relay.host.nodes)
        await link.request(offer_kind, {}, seconds=5)
        assert relay.host.nodes == (other.key,)


async def test_nothing_is_left_of_tunnels_when_their_link_ends() -> None:
    """Neither at the relay nor at either end."""
    async with three() as (relay, node, caller):
        links = [await caller.call(relay, node) for _ in range(3)]
        assert relay.host.tunnels >= 3
        for link in links:
            await link.close()
        await until(lambda: relay.host.tunnels == node.tunnels.count == caller.tunnels.count == 0)
        assert not relay.host._tokens


async def test_whoever_ends_leaves_no_task_behind() -> None:
    """With links through the relay still up."""
    before = asyncio.all_tasks()
    async with three() as (relay, node, caller):
        await caller.call(relay, node)
        for each in (caller, node):
            assert each.tunnels.count
            await each.tunnels.__aexit__(None, None, None)
            assert not each.tunnels.count
    await until(lambda: asyncio.all_tasks() == before)


@pytest.mark.parametrize("said", [{}, {"token": 7}, {"token": "short"}])
async def test_a_relay_that_answers_nonsense_is_a_fault(said: dict) -> None:
    """And not a mistake of ours."""

    async def nonsense(_link: Link, _message: Message) -> Message:
        return Message(said, ())

    async with RelayNode(handlers={open_kind: nonsense}) as relay, RelayNode() as caller:
        await caller.dial(relay.url)
        with pytest.raises(PeerFault, match="token"):
            await caller.dial(relayed_url(relay.key), Expected("ab" * 32))


async def test_a_relay_that_shows_another_certificate_gets_no_token() -> None:
    """Whoever took its address meanwhile."""
    async with three() as (relay, node, caller), RelayNode(host=relay_host()) as thief:
        link = await caller.dial(relay.url)
        link.url = thief.url
        link.peer = relay.summary()
        object.__setattr__(link.peer, "peer_urls", ())
        with pytest.raises(PeerFault, match="expected a way to its peer port, found expected the certificate"):
            await caller.call(relay, node)


async def test_the_port_of_a_callers_end_takes_few_connections() -> None:
    """It is one of this machine, which others may find."""
    async with three() as (relay, node, caller):
        await caller.dial(relay.url)
        async with caller.tunnels.to(relay.key, node.key) as url:
            port = int(url.rsplit(":", 1)[1])
            pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(6)]
            await until(lambda: caller.tunnels.count == 4)
            ended = 0
            for reader, _ in pairs[4:]:
                try:
                    ended += not await asyncio.wait_for(reader.read(1), 5)
                except ConnectionError:
                    ended += 1
            assert ended == 2
            for _, writer in pairs:
                writer.close()
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await asyncio.open_connection("127.0.0.1", port)


async def test_one_caller_leaves_room_for_others_at_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens all the tunnels that he may have to it keeps nobody else out."""
    monkeypatch.setattr(limits, "relay_tunnels_caller_max", 2)
    monkeypatch.setattr(limits, "relay_tunnels_node_max", 6)
    async with three() as (relay, node, greedy), RelayNode() as other:
        link = await greedy.dial(relay.url)
        for _ in range(2):
            await link.request(open_kind, {"node": node.key}, seconds=5)
        with pytest.raises(Refused, match="expected at most 2 tunnels of one caller"):
            await link.request(open_kind, {"node": node.key}, seconds=5)
        assert (await other.call(relay, node)).open


async def test_a_way_through_a_relay_takes_one_connection_after_the_other() -> None:
    """As many at the same time as are allowed, and any number in all."""
    async with three() as (relay, node, caller):
        await caller.dial(relay.url)
        async with caller.tunnels.to(relay.key, node.key) as url:
            parts = urlsplit(url)
            for _ in range(12):
                _, writer = await asyncio.open_connection(parts.hostname, parts.port)
                await until(lambda: node.tunnels.count == 1)
                writer.close()
                await until(lambda: node.tunnels.count == caller.tunnels.count == 0)


async def test_what_is_wrong_with_the_own_disk_is_no_fault_of_a_relay() -> None:
    """A connection that the relay refuses is."""
    for reason, expected in ((OSError(28, "no space left"), OSError), (ConnectionResetError(), PeerFault)):
        async with three() as (relay, node, caller):
            await caller.dial(relay.url)
            node.links[0].shut()
            await until(lambda host=relay.host: not host.nodes)

            async def failing(caller: RelayNode, way: tuple[str, str], reason: Exception) -> None:
                async with caller.tunnels.to(*way) as url:
                    parts = urlsplit(url)
                    reader, _ = await asyncio.open_connection(parts.hostname, parts.port)
                    with contextlib.suppress(ConnectionError):
                        await reader.read()  # until it was refused
                    raise reason

            with pytest.raises(expected, match="no space" if expected is OSError else "relay"):
                await failing(caller, (relay.key, node.key), reason)


@pytest.mark.parametrize("was_called_off", [False, True], ids=["waits for room", "was called off in that"])
async def test_an_end_that_takes_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch, was_called_off: bool) -> None:
    """With what was written to it, of which nobody keeps count any more."""
    monkeypatch.setattr(relay_module, "_close_seconds", 0.2)
    gone: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def full(socket: web.WebSocketResponse) -> None:
        while True:
            await socket.send_bytes(bytes(8 << 20))

    async def end(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(timeout=0.2, compress=False)
        await socket.prepare(request)
        sending = asyncio.ensure_future(full(socket))
        await asyncio.sleep(0.5)
        if was_called_off:
            sending.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(relay_module._closed(socket, request.transport), return_exceptions=True)
        sending.cancel()
        await asyncio.sleep(0.1)
        gone.set_result(request.transport is None)
        return socket

    app = web.Application()
    app.router.add_get("/", end)
    runner = web.AppRunner(app)
    await runner.setup()
    assert runner.server is not None
    made = lambda: TlsHandshake(SERVER, runner.server(), server=True, seconds=5)  # noqa: E731
    server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    _, writer = await asyncio.open_connection(host, port, ssl=client_context())
    writer.write(UPGRADE)
    await asyncio.sleep(0.1)
    writer.transport.pause_reading()
    assert await asyncio.wait_for(gone, 10)
    writer.transport.abort()
    server.close()
    await runner.cleanup()


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
