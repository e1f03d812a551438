"""The two ends of a tunnel through a relay: the caller's, and that of the node that cannot be reached otherwise.

Either end is an outgoing WebSocket to the relay, and a connection on this machine whose bytes it carries: the dialler
speaks to a port of loopback as if it were the other node's, and that node's own peer port hears the call on loopback.
So nothing of TLS, proofs or links knows about relays (docs/spec/peer.md).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from ssl import SSLContext, SSLError
from types import TracebackType
from typing import Any, Final, Self, cast
from urllib.parse import urlsplit

from blyan.network.connection import Connection, NoAnswer, NoHttp
from blyan.network.dialling import relayed_url
from blyan.network.frames import FrameSocket
from blyan.network.link import Handler, Link
from blyan.network.questions import LinkLost, Refused
from blyan.network.relay import accept_kind, offer_kind, open_kind, token_header, tunnel_path
from blyan.primitives import limits
from blyan.primitives.clock import Entropy, Monotonic
from blyan.primitives.errors import Denied, Fault, InvalidInput, MalformedMessage, PeerFault, QueueFull, Unavailable
from blyan.primitives.ids import PublicKey, parse_hex64
from blyan.wire.framing import Message

_log = logging.getLogger(__name__)
_piece_bytes: Final = limits.relay_frame_bytes_max // 2
_ask_seconds: Final = 8.0  # the relay asks the node meanwhile
_door_seconds: Final = 2.0
_open_seconds: Final = 5.0  # until the relay has taken an end
_connections_max: Final = 4  # at the same time on the port of one caller's end; a dialler makes two
_last_seconds: Final = 2.0  # for an end to take what came before the other one closed
_look_seconds: Final = 0.25
_refused_seconds: Final = 30.0  # before a relay that did not want us is asked again


class Tunnels:
    """This process's ends of tunnels. A context, which owns their tasks; for the network's loop."""

    def __init__(self, relay: Callable[[PublicKey], Link | None], context: SSLContext, entropy: Entropy) -> None:
        """`relay`: the open link to a node, if there is one. `context`: a dialler's."""
        self._relay, self._context, self._entropy = relay, context, entropy
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, reason: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def count(self) -> int:
        """Ends that are open or being opened."""
        return len(self._tasks)

    @asynccontextmanager
    async def to(self, relay: PublicKey, node: PublicKey) -> AsyncGenerator[str]:
        """`https://127.0.0.1:PORT`, where a node behind a relay answers a few connections at a time while this is open.

        Those that were made meanwhile stay until they end. `PeerFault` if the relay does not do it, in place of what
        is wrong with a connection.
        """
        link = self._relay(relay)
        if link is None or not link.open:
            raise PeerFault(f"peer {node[:12]}: expected a link to its relay {relay[:12]}, found none")
        failed: list[Fault] = []
        under_way = set[asyncio.Task[None]]()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if len(under_way) >= _connections_max:  # somebody else on this machine
                writer.transport.abort()
                return
            call = self._begin(self._call(link, node, reader, writer, failed))
            under_way.add(call)
            call.add_done_callback(under_way.discard)

        server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=_piece_bytes)
        try:
            port = cast("tuple[str, int]", server.sockets[0].getsockname())[1]
            yield f"https://127.0.0.1:{port}"
        except (NoAnswer, NoHttp, ConnectionError, SSLError, TimeoutError) as reason:  # not of a disk
            if failed:
                raise PeerFault(f"relay {relay[:12]}: {failed[0].message}", detail=failed[0].detail) from None
            raise reason from None
        finally:
            server.close()

    async def answer(self, link: Link, token: str, door: tuple[str, int]) -> None:
        """Begin the end of a node that somebody calls through a relay, at its own peer port.

        `QueueFull` if there are too many, `Unavailable` if that port does not answer.
        """
        if len(self._tasks) >= limits.relay_tunnels_node_max:
            most = limits.relay_tunnels_node_max
            raise QueueFull(f"tunnels: expected at most {most} at once, found one more")
        try:
            async with asyncio.timeout(_door_seconds):
                reader, writer = await asyncio.open_connection(*door, limit=_piece_bytes)
        except (OSError, TimeoutError) as reason:
            _log.warning("tunnel: expected our own peer port at %s:%s, found %s", *door, reason)
            raise Unavailable("tunnel: expected the node's own peer port, found no answer there") from None
        self._begin(self._answer(link, token, reader, writer))

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _call(
        self,
        link: Link,
        node: PublicKey,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        failed: list[Fault],
    ) -> None:
        try:
            answer = await link.request(open_kind, {"node": node}, seconds=_ask_seconds)
            await carry(await self._opened(link, _token(answer)), reader, writer)
        except (PeerFault, MalformedMessage) as reason:
            failed.append(reason)
        finally:
            if not writer.is_closing():
                writer.transport.abort()

    async def _answer(self, link: Link, token: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await carry(await self._opened(link, token), reader, writer)
        except PeerFault as reason:
            _log.info("tunnel: %s", reason.message)
        finally:
            writer.close()

    async def _opened(self, link: Link, token: str) -> FrameSocket:
        """Our end at the relay, which shows the certificate of its summary."""
        why = "none"
        urls = [link.url, *link.peer.peer_urls]
        for url in dict.fromkeys(url for url in urls if url.startswith("wss://")):
            try:
                async with asyncio.timeout(_open_seconds):
                    return await self._opened_at(url, link.peer.certificate, token)
            except (NoAnswer, NoHttp) as reason:
                why = str(reason)
            except (OSError, TimeoutError) as reason:
                why = f"{type(reason).__name__} {reason}".rstrip()
        raise PeerFault(f"relay {link.peer.node[:12]}: expected a way to its peer port, found {why}")

    async def _opened_at(self, url: str, certificate: str, token: str) -> FrameSocket:
        parts = urlsplit(url)
        connection = await Connection.open(parts, self._context, certificate, _open_seconds)
        try:
            fields, nonce = {token_header: token}, self._entropy(16)
            return await connection.upgraded(parts.netloc, tunnel_path, fields, nonce, limits.relay_frame_bytes_max)
        except BaseException:
            connection.close()
            raise


class RelayClient:
    """A node that is reached through relays: offers itself to them and answers who calls. `run` until cancelled."""

    def __init__(
        self,
        tunnels: Tunnels,
        relays: Callable[[], Iterable[Link]],
        door: tuple[str, int],
        monotonic: Monotonic,
    ) -> None:
        """`relays`: the open links to those that are to be asked. `door`: our own peer port, as this machine has it."""
        self._tunnels, self._relays, self._door, self._monotonic = tunnels, relays, door, monotonic
        self._offered: dict[PublicKey, Link] = {}  # where it was accepted
        self._refused: dict[PublicKey, float] = {}  # → when to ask again

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """What relays may ask on their links."""
        return {accept_kind: self._called}

    @property
    def urls(self) -> tuple[str, ...]:
        """Where this node can be reached now, for its summary."""
        return tuple(relayed_url(relay) for relay, link in self._offered.items() if link.open)

    async def run(self) -> None:
        """Offer this node on every new link to a relay."""
        while True:
            self._offered = {relay: link for relay, link in self._offered.items() if link.open}
            for link in list(self._relays()):
                relay = link.peer.node
                if relay not in self._offered and self._refused.get(relay, 0.0) <= self._monotonic():
                    await self._offer(link)
            await asyncio.sleep(_look_seconds)

    async def _offer(self, link: Link) -> None:
        relay = link.peer.node
        self._offered[relay] = link  # before the answer: who is told of us there may call at once
        try:
            await link.request(offer_kind, {}, seconds=_ask_seconds)
            self._refused.pop(relay, None)
            _log.info("reached through relay %s", relay[:12])
        except PeerFault as reason:
            self._offered.pop(relay, None)
            if not isinstance(reason, LinkLost):
                self._refused[relay] = self._monotonic() + _refused_seconds
            said = reason.said if isinstance(reason, Refused) else ""
            _log.warning("relay %s does not make this node reachable: %s %s", relay[:12], said, reason.message)

    async def _called(self, link: Link, message: Message) -> Message:
        if link.peer.node not in self._offered:
            raise Denied("tunnel: expected one of this node's relays, found another node")
        await self._tunnels.answer(link, _token(message), self._door)
        return Message({}, ())


def _token(message: Message) -> str:
    try:
        return parse_hex64(message.fields.get("token"), "token")
    except InvalidInput as reason:
        raise MalformedMessage(f"tunnel: {reason.message}") from None


async def carry(
    socket: FrameSocket,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    *,
    last_seconds: float = _last_seconds,
) -> None:
    """Bytes both ways until either side ends; what came before that is passed on, to who takes it in those seconds."""
    sent, received = asyncio.ensure_future(_sent(reader, socket)), asyncio.ensure_future(_received(socket, writer))
    try:
        await asyncio.wait((sent, received), return_when=asyncio.FIRST_COMPLETED)
        if not received.done():
            socket.leave()
            await asyncio.wait((received,), timeout=last_seconds)
    finally:
        late = not received.done()
        for way in (sent, received):
            way.cancel()
        await asyncio.gather(sent, received, return_exceptions=True)
        if late:
            writer.transport.abort()
        else:
            writer.close()
        await socket.close()
    for way in (sent, received):
        if not way.cancelled():
            way.result()


async def _sent(reader: asyncio.StreamReader, socket: FrameSocket) -> None:
    try:
        while data := await reader.read(_piece_bytes):
            await socket.send_bytes(data)
    except OSError as reason:
        _log.debug("tunnel: %s", reason)


async def _received(socket: FrameSocket, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            writer.write(await socket.one())
            await writer.drain()
    except OSError as reason:
        _log.debug("tunnel: %s", reason)
