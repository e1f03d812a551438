"""A node that makes others reachable: it joins two outgoing connections and copies the bytes between them.

Whoever has no port that can be reached keeps a link to a relay and offers itself there. A caller asks the relay for a
tunnel; the relay tells the node; each end comes with a token of its own that serves once, and what they say through
it is TLS between the two (docs/spec/peer.md, docs/adr/0030-relays.md). A relay sees who calls whom, and how much.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import aiohttp
from aiohttp import web

from blyan.network.door import Route
from blyan.network.link import Handler, Link
from blyan.network.rate import TokenBucket
from blyan.primitives import limits
from blyan.primitives.clock import Entropy, Monotonic
from blyan.primitives.errors import InvalidInput, MalformedMessage, NotFound, QueueFull
from blyan.primitives.ids import PublicKey, public_key
from blyan.wire.framing import Message

_log = logging.getLogger(__name__)
offer_kind: Final = "relay_offer"  # node → relay: make me reachable
open_kind: Final = "relay_open"  # caller → relay: a tunnel to that node
accept_kind: Final = "relay_accept"  # relay → node: somebody wants a tunnel to you
tunnel_path: Final = "/peer/v1/tunnel"
token_header: Final = "X-Blyan-Tunnel"
token_bytes: Final = 32
_accept_seconds: Final = 5.0  # in which the node says that it comes
_close_seconds: Final = 2.0


@dataclass(slots=True, eq=False)
class _Tunnel:
    """Two ends, the caller's and the node's, that come or have come."""

    nodes: tuple[PublicKey, PublicKey]
    tokens: tuple[str, str]
    until: float  # when both must have come
    pace: TokenBucket
    heard: float = 0.0
    ends: list[web.WebSocketResponse | None] = field(default_factory=lambda: [None, None])
    wires: list[asyncio.BaseTransport | None] = field(default_factory=lambda: [None, None])  # on which they are
    joined: asyncio.Event = field(default_factory=asyncio.Event)
    over: bool = False


class RelayHost:
    """What a relay answers on its links and its peer port. For the network's loop."""

    def __init__(
        self,
        *,
        monotonic: Monotonic,
        entropy: Entropy,
        tunnel_bytes_per_second: int = limits.relay_tunnel_bytes_per_second,
        bytes_per_second: int = limits.relay_bytes_per_second,
        idle_seconds: float = limits.relay_idle_seconds_max,
    ) -> None:
        self._monotonic, self._entropy = monotonic, entropy
        self._tunnel_rate, self._idle_seconds = tunnel_bytes_per_second, idle_seconds
        self._pace = TokenBucket(bytes_per_second, monotonic())
        self._offers: dict[PublicKey, Link] = {}
        self._tunnels: set[_Tunnel] = set()
        self._tokens: dict[str, tuple[_Tunnel, int]] = {}  # what an end shows → which one it is
        self._ending: set[asyncio.Future[list[None | BaseException]]] = set()  # tunnels that are over
        self.carried_bytes = 0

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """What members may ask on their links."""
        return {offer_kind: self._offered, open_kind: self._asked}

    @property
    def routes(self) -> Mapping[str, Route]:
        """Where the ends of tunnels come to, for the peer port."""
        return {tunnel_path: self._came}

    @property
    def tunnels(self) -> int:
        """How many there are, those that wait for their ends included."""
        return len(self._tunnels)

    @property
    def nodes(self) -> tuple[PublicKey, ...]:
        """Who can be reached through this one now."""
        return tuple(node for node, link in self._offers.items() if link.open)

    async def close(self) -> None:
        """End all tunnels. Before the peer port is closed."""
        await asyncio.gather(*(self._end(tunnel) for tunnel in list(self._tunnels)))
        await asyncio.gather(*self._ending)

    async def _offered(self, link: Link, _message: Message) -> Message:
        self._offers = {node: kept for node, kept in self._offers.items() if kept.open}
        if link.peer.node not in self._offers and len(self._offers) >= limits.relay_nodes_max:
            raise QueueFull(f"relay: expected at most {limits.relay_nodes_max} nodes, found one more")
        self._offers[link.peer.node] = link
        return Message({}, ())

    async def _asked(self, link: Link, message: Message) -> Message:
        try:
            node = public_key(message.fields.get("node"))
        except InvalidInput:
            raise MalformedMessage(f"{open_kind}: expected the key of a node") from None
        offered = self._offers.get(node)
        if offered is None or not offered.open:
            raise NotFound(f"relay: expected a node that is reached through this one, found {node[:12]}")
        tunnel = self._new(link.peer.node, node)
        try:
            fields = {"token": tunnel.tokens[1], "caller": link.peer.node}
            await offered.request(accept_kind, fields, seconds=_accept_seconds)
        except BaseException:
            await self._end(tunnel)
            raise
        return Message({"token": tunnel.tokens[0]}, ())

    def _new(self, caller: PublicKey, node: PublicKey) -> _Tunnel:
        now = self._monotonic()
        for stale in [each for each in self._tunnels if not each.joined.is_set() and each.until < now]:
            self._forget(stale)
        if len(self._tunnels) >= limits.relay_tunnels_max:
            raise QueueFull(f"relay: expected at most {limits.relay_tunnels_max} tunnels, found one more")
        for who in (caller, node):
            if sum(who in tunnel.nodes for tunnel in self._tunnels) >= limits.relay_tunnels_node_max:
                most = limits.relay_tunnels_node_max
                raise QueueFull(f"relay: expected at most {most} tunnels of node {who[:12]}, found one more")
        both = sum(tunnel.nodes == (caller, node) for tunnel in self._tunnels)
        if both >= limits.relay_tunnels_caller_max:  # others want to reach that node too
            most = limits.relay_tunnels_caller_max
            raise QueueFull(f"relay: expected at most {most} tunnels of one caller to a node, found one more")
        tokens = (self._entropy(token_bytes).hex(), self._entropy(token_bytes).hex())
        until = now + limits.relay_join_seconds_max
        tunnel = _Tunnel((caller, node), tokens, until, TokenBucket(self._tunnel_rate, now), now)
        self._tunnels.add(tunnel)
        for side, token in enumerate(tokens):
            self._tokens[token] = (tunnel, side)
        return tunnel

    async def _came(self, request: web.Request) -> web.StreamResponse:
        """One end of a tunnel; it carries what this end says to the other."""
        tunnel, side = self._tokens.pop(request.headers.get(token_header, ""), (None, 0))
        if tunnel is None:
            raise web.HTTPNotFound
        left = tunnel.until - self._monotonic()
        if left <= 0:
            self._forget(tunnel)  # an end that came before hears of it by its own time
            raise web.HTTPNotFound
        socket = web.WebSocketResponse(
            timeout=_close_seconds, max_msg_size=limits.relay_frame_bytes_max, compress=False, autoping=True
        )
        try:
            await socket.prepare(request)
            tunnel.ends[side], tunnel.wires[side] = socket, request.transport
            if None not in tunnel.ends:
                tunnel.joined.set()
            async with asyncio.timeout(left):
                await tunnel.joined.wait()
            await self._copy(tunnel, side)
        except (TimeoutError, OSError, aiohttp.ClientError, RuntimeError) as reason:  # RuntimeError: it is closing
            _log.debug("tunnel of %s: %s", tunnel.nodes[side][:12], reason)
        finally:
            await self._end(tunnel)
        return socket

    async def _copy(self, tunnel: _Tunnel, side: int) -> None:
        """From one end to the other until either is gone. Who reads slowly is waited for, so that its peer waits."""
        source, target = tunnel.ends[side], tunnel.ends[1 - side]
        while not tunnel.over and source is not None and target is not None:
            try:
                frame = await source.receive(timeout=self._idle_seconds)
            except TimeoutError:
                if self._monotonic() - tunnel.heard < self._idle_seconds:
                    continue  # the other way there is traffic
                return
            if frame.type is not aiohttp.WSMsgType.BINARY:
                return
            tunnel.heard = self._monotonic()
            await self._pass(tunnel, side, target, frame.data)

    async def _pass(self, tunnel: _Tunnel, _side: int, target: web.WebSocketResponse, data: bytes) -> None:
        now = self._monotonic()
        waited = max(tunnel.pace.take(len(data), now), self._pace.take(len(data), now))
        if waited > 0:
            await asyncio.sleep(waited)
        await target.send_bytes(data)
        self.carried_bytes += len(data)

    async def _end(self, tunnel: _Tunnel) -> None:
        """Close both ends, also where who asks is cancelled meanwhile: whoever serves an end is when that is lost."""
        self._forget(tunnel)
        ends = zip(tunnel.ends, tunnel.wires, strict=True)
        ending = asyncio.gather(*(_closed(end, wire) for end, wire in ends if end is not None), return_exceptions=True)
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        await asyncio.shield(ending)

    def _forget(self, tunnel: _Tunnel) -> None:
        tunnel.over = True
        tunnel.joined.set()  # who waits for the other end need not
        self._tunnels.discard(tunnel)
        for token in tunnel.tokens:
            self._tokens.pop(token, None)


async def _closed(end: web.WebSocketResponse, wire: asyncio.BaseTransport | None) -> None:
    """Close it; who does not take what was said before is let go.

    Also where closing is cancelled: aiohttp's wait for room is, with that of whoever carried something to this end.
    """
    closed = False
    try:
        async with asyncio.timeout(2 * _close_seconds):
            await end.close()
            closed = True
    finally:
        if not closed and isinstance(wire, asyncio.Transport):
            wire.abort()
