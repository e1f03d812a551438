"""The peer port: TLS, a challenge, and links for those who prove that they are members. It answers nobody else.

A caller asks for a challenge and then, on the upgrade to a WebSocket, shows its proofs in a header: what has not proved
anything never gets to send a frame. A challenge serves once, for a few seconds.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias, cast

import orjson
from aiohttp import web

from blyan.network.blob_connections import BlobConnections
from blyan.network.blob_serving import send_blob, send_index
from blyan.network.frames import FrameSocket
from blyan.network.handshake import (
    Caller,
    Challenge,
    Swarm,
    check_proofs,
    nonce_bytes,
    parse_caller,
    proofs,
    transcript,
)
from blyan.network.identity import Identity
from blyan.network.link import Handler, Link, frame_of
from blyan.network.serving_rate import ServingRate
from blyan.network.unproven import Unproven, site
from blyan.primitives import limits
from blyan.primitives.clock import Entropy, Monotonic
from blyan.primitives.errors import Denied, Fault, NotFound
from blyan.primitives.ids import PayloadId, payload_id
from blyan.storage.blob_store import BlobStore
from blyan.wire.fields import as_dict
from blyan.wire.framing import Message
from blyan.wire.peer import Summary

_log = logging.getLogger(__name__)
challenge_path: Final = "/peer/v1/challenge"
link_path: Final = "/peer/v1/link"
blobs_path: Final = "/peer/v1/blobs"
token_kind: Final = "token"
proofs_header: Final = "X-Blyan-Proofs"
_challenges_max: Final = 1_024
_http: Final[dict[str, Any]] = {
    "access_log": None,
    "max_line_size": limits.link_handshake_bytes_max,
    "max_field_size": limits.link_handshake_bytes_max,
    "keepalive_timeout": limits.idle_connection_seconds_max,
}

Welcome = Callable[[Link], Awaitable[None]]
Route: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


class PeerDoor:
    """Listens while it is open. For the network's loop."""

    def __init__(
        self,
        identity: Identity,
        swarm: Swarm,
        summary: Callable[[], Summary],
        handlers: dict[str, Handler],
        joined: Callable[[Link], None],
        *,
        store: BlobStore,
        gives: Callable[[PayloadId], bool] = lambda _: True,
        monotonic: Monotonic,
        entropy: Entropy,
        routes: Mapping[str, Route] | None = None,
        address_links: int = limits.links_address,
        serve_rate: int = 0,
    ) -> None:
        """`joined` is told of each link, before it is read; whoever has a link may fetch what `store` has and `gives`.

        `routes`: what is answered beside, by path. `serve_rate`: bytes of blobs a second, 0 without limit.
        """
        self._identity, self._swarm, self._summary = identity, swarm, summary
        self._handlers, self._joined = handlers, joined
        handlers[token_kind] = self._token  # in the dictionary of the dialler too: links ask either way
        self._store, self._gives = store, gives
        self._tokens: dict[str, Link] = {}
        self._monotonic, self._entropy = monotonic, entropy
        self._routes = dict(routes or {})
        self._challenges: dict[str, tuple[float, str]] = {}  # nonce → until when, and whose address, in order
        self._links: dict[Link, str] = {}  # → whose address
        self._address_links = address_links
        self._rate = ServingRate(serve_rate, monotonic)
        self._fetching = BlobConnections()
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None
        self.unproven = Unproven(identity.server)
        self.refused = 0  # callers that proved nothing
        self.sending = 0  # blobs that peers are given now

    async def listen(self, host: str, port: int) -> int:
        """Open it; the port that was taken."""
        app = web.Application(client_max_size=limits.KIB, middlewares=[_silent])
        app.router.add_get(challenge_path, self._challenge)
        app.router.add_get(link_path, self._link)
        app.router.add_get(blobs_path + "/{payload_id}", self._blob)
        app.router.add_get(blobs_path + "/{payload_id}/index", self._blob)
        for path, route in self._routes.items():
            app.router.add_get(path, self._passed(route))
        self._runner = web.AppRunner(app, shutdown_timeout=1.0, handler_cancellation=True)
        await self._runner.setup()
        server = self._runner.server
        assert server is not None, "set up"
        self._listening = await asyncio.get_running_loop().create_server(
            lambda: self.unproven.protocol(server, **_http), host, port, backlog=limits.links_max
        )
        return cast("tuple[str, int]", self._listening.sockets[0].getsockname())[1]

    async def close(self) -> None:
        """Let go of all links that came in here, and listen no more."""
        for link in list(self._links):
            await link.close()
        if self._listening is not None:
            self._listening.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def _passed(self, route: Route) -> Route:
        """A route that asks for proofs of its own, at once."""

        async def passed(request: web.Request) -> web.StreamResponse:
            self.unproven.proved(request.protocol)
            return await route(request)

        return passed

    def _challenge_of(self, nonce: str) -> Challenge:
        ours = self._identity
        return Challenge(ours.key.public, ours.boot, nonce, ours.certificate_hash)

    async def _challenge(self, request: web.Request) -> web.StreamResponse:
        now = self._monotonic()
        while self._challenges and next(iter(self._challenges.values()))[0] < now:
            del self._challenges[next(iter(self._challenges))]
        if len(self._challenges) >= _challenges_max:  # whoever asks for most loses his oldest, nobody else's
            most, _ = Counter(address for _, address in self._challenges.values()).most_common(1)[0]
            del self._challenges[next(nonce for nonce, (_, address) in self._challenges.items() if address == most)]
        nonce = self._entropy(nonce_bytes).hex()
        self._challenges[nonce] = (now + limits.link_handshake_seconds_max, request.remote or "")
        made = self._challenge_of(nonce)
        return web.json_response(made.fields())

    async def _link(self, request: web.Request) -> web.StreamResponse:
        try:
            challenge, caller, fields = self._shown(request)
            said = transcript(challenge, caller)
            peer = check_proofs(caller, self._swarm, "peer-caller", said, fields)
            if len(self._links) >= limits.links_max:
                raise Denied("links: expected room for one more, found none")
            if sum(link.peer.node == caller.node for link in self._links) >= limits.links_node_max:
                raise Denied("links: expected fewer of one node")
            address = site(request.get_extra_info("peername"))
            if sum(other == address for other in self._links.values()) >= self._address_links:
                raise Denied("links: expected fewer of one address")
        except Fault as reason:
            self.refused += 1
            _log.info("a caller of the peer port was turned away: %s", reason.message)
            raise _Silence from None
        self.unproven.proved(request.protocol)
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        frames = taken_over(request)
        link = Link(frames, peer, self._handlers, self._monotonic, dialled=False)
        self._links[link] = address
        try:
            await frames.send_bytes(
                frame_of(proofs(self._identity.key, self._swarm, "peer-answerer", said, self._summary()))
            )
            self._joined(link)
            await link.run()
        finally:
            del self._links[link]
        return ws

    async def _token(self, link: Link, _message: Message) -> Message:
        """What a linked node shows to fetch blobs, for as long as the link lasts."""
        token = next((token for token, other in self._tokens.items() if other is link), None)
        if token is None:
            self._tokens = {known: other for known, other in self._tokens.items() if other.open}
            token = self._entropy(nonce_bytes).hex()
            self._tokens[token] = link
        return Message({"token": token}, ())

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        link = self._tokens.get(request.headers.get("Authorization", "").removeprefix("Bearer "))
        if link is None or not link.open:
            self.refused += 1
            raise _Silence
        address = site(request.get_extra_info("peername"))
        if not self._fetching.may(request.transport, link.peer.node, address):
            response = web.Response(status=503)
            response.force_close()
            return response
        self.unproven.proved(request.protocol)
        self.sending += 1
        try:
            if not self._gives(payload_id(request.match_info["payload_id"])):
                raise NotFound("blob: expected one of a model that is offered, found another")
            if request.path.endswith("/index"):
                return await send_index(request, self._store)
            return await send_blob(request, self._store, self._rate.turn(link.peer.node))
        except NotFound:
            return web.Response(status=404)
        except ConnectionError:  # who asked is gone
            return web.Response(status=503)
        except Fault as reason:
            _log.warning("a blob was not sent to peer %s: %s", link.peer.node[:12], reason.message)
            return web.Response(status=503)
        finally:
            self.sending -= 1

    def _shown(self, request: web.Request) -> tuple[Challenge, Caller, dict[str, Any]]:
        """The challenge that is answered, who answers, and its proofs."""
        try:
            raw = base64.b64decode(request.headers.get(proofs_header, ""), validate=True)
            shown = as_dict(orjson.loads(raw))
        except (binascii.Error, ValueError):
            shown = None
        if shown is None:
            raise Denied("peer: expected proofs, found none")
        answered = str(shown.get("challenge"))
        until, _ = self._challenges.pop(answered, (0.0, ""))
        if until < self._monotonic():
            raise Denied("peer: expected an answer to a challenge of ours, found none")
        return self._challenge_of(answered), parse_caller(shown), shown


class _Silence(web.HTTPException):
    """Whoever came here is told nothing."""

    status_code = 404


@web.middleware
async def _silent(request: web.Request, handler: Route) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException:
        if request.transport is not None:
            request.transport.abort()
        raise asyncio.CancelledError from None


def taken_over(request: web.Request) -> FrameSocket:
    """The connection of a request that was answered as a WebSocket: from now on its frames are ours.

    No frame waits for the next one (Nagle): calls are small, and each is waited for.
    """
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("expected a caller, found the connection closed")
    found = transport.get_extra_info("socket")
    if found is not None and found.family in (socket.AF_INET, socket.AF_INET6):
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made = FrameSocket(client=False, frame_bytes_max=limits.link_frame_bytes_max, beside=request.protocol)
    made.take_over(transport)
    return made
