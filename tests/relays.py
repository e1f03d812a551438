"""Nodes for tests of relays: a peer port, a dialler and ends of tunnels in one loop, and relays that are hostile."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web

from blyan.network.dialling import Dialler, Expected, relayed_url
from blyan.network.door import PeerDoor, challenge_path, link_path
from blyan.network.handshake import Swarm
from blyan.network.identity import make_identity
from blyan.network.link import Handler, Link
from blyan.network.relay import RelayHost
from blyan.network.tunnels import RelayClient, Tunnels
from blyan.primitives.clock import system_entropy, system_monotonic, system_seconds
from blyan.primitives.keys import Key
from blyan.storage.blob_store import BlobStore
from blyan.wire.framing import Message, WireTensor
from blyan.wire.peer import Summary, secret_bytes

SECRET = b"nobody in between may read this "
SWARM = Swarm(bytes(range(secret_bytes)))


class RelayNode:
    """One node; a relay if it is given a `host`, reached through relays if `relays` says so. A context."""

    def __init__(
        self,
        *,
        swarm: Swarm = SWARM,
        host: RelayHost | None = None,
        handlers: Mapping[str, Handler] | None = None,
        listen: str = "127.0.0.1",
        port: int = 0,
        store: BlobStore | None = None,
    ) -> None:
        self.swarm, self.host, self.listen, self.port = swarm, host, listen, port
        self.identity = make_identity(Key.from_seed(system_entropy(32)), system_seconds, system_entropy)
        self.key = self.identity.key.public
        self._folder = tempfile.TemporaryDirectory(prefix="blyan-relay-")
        self.links: list[Link] = []
        self.peer_urls: tuple[str, ...] = ()
        self.relays: set[str] = set()  # keys of those by which this node wants to be reached
        self.handlers: dict[str, Handler] = {"echo": echo, **(handlers or {}), **(host.handlers if host else {})}
        self.door = PeerDoor(
            self.identity,
            swarm,
            self.summary,
            self.handlers,
            self.links.append,
            store=store or BlobStore(Path(self._folder.name)),
            monotonic=system_monotonic,
            entropy=system_entropy,
            routes=host.routes if host else None,
        )
        self.dialler = Dialler(self.identity, swarm, self.handlers, system_monotonic, system_entropy)
        self.tunnels = Tunnels(self.link, self.dialler.context, system_entropy)
        self.dialler.through = self.tunnels.to
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self.port = await self.door.listen(self.listen, self.port)
        self.url = f"wss://{f'[{self.listen}]' if ':' in self.listen else self.listen}:{self.port}"
        self.peer_urls = (self.url,)
        await self.tunnels.__aenter__()
        self.client = RelayClient(
            self.tunnels,
            lambda: [link for link in self.links if link.open and link.peer.node in self.relays],
            (self.listen, self.port),
            system_monotonic,
        )
        self.handlers.update(self.client.handlers)
        self._tasks.append(asyncio.create_task(self.client.run()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, reason: BaseException | None, trace: TracebackType | None
    ) -> None:
        for link in self.links:
            await link.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.tunnels.__aexit__(None, None, None)
        if self.host is not None:
            await self.host.close()
        await self.door.close()
        self._folder.cleanup()

    def summary(self) -> Summary:
        ours = self.identity
        said = Summary(
            self.key, ours.boot, ours.started, 1, ours.certificate_hash, self.swarm.tag, peer_urls=self.peer_urls
        )
        return said.sign(ours.key)

    def link(self, node: str) -> Link | None:
        return next((link for link in reversed(self.links) if link.open and link.peer.node == node), None)

    async def dial(self, url: str, expected: Expected | None = None) -> Link:
        """A link that is read."""
        link = await self.dialler.dial(url, expected or Expected(), self.summary())
        self.links.append(link)
        self._tasks.append(asyncio.create_task(link.run()))
        return link

    async def offer(self, relay: RelayNode) -> None:
        """Be reached through a relay from now on."""
        self.relays.add(relay.key)
        await self.dial(relay.url)
        await until(lambda: relayed_url(relay.key) in self.client.urls and self.key in relay.host.nodes)

    async def call(self, relay: RelayNode, node: RelayNode) -> Link:
        """A link to a node through a relay, to which a link is made where there is none."""
        if self.link(relay.key) is None:
            await self.dial(relay.url)
        return await self.dial(relayed_url(relay.key), Expected(node.key, node.identity.certificate_hash))


async def echo(link: Link, message: Message) -> Message:
    """What was sent, and to whom it was said to come."""
    return Message({"said": message.fields.get("say")}, message.tensors)


async def until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.01)


def relay_host(kind: type[RelayHost] = RelayHost, **settings: object) -> RelayHost:
    return kind(monotonic=system_monotonic, entropy=system_entropy, **settings)


@asynccontextmanager
async def three(host: RelayHost | None = None) -> AsyncIterator[tuple[RelayNode, RelayNode, RelayNode]]:
    """A relay, a node that offered itself there, and a caller."""
    async with RelayNode(host=host or relay_host()) as relay, RelayNode() as node, RelayNode() as caller:
        await node.offer(relay)
        yield relay, node, caller


def tensor(size: int) -> WireTensor:
    return WireTensor("t", "U8", (size,), (SECRET * (size // len(SECRET) + 1))[:size])


class ChangingRelay(RelayHost):
    """A relay that does something to the bytes: `change(side, data)` says what goes on, None cuts the tunnel."""

    def change(self, side: int, data: bytes) -> bytes | None:  # 0: what the caller says, 1: what the node says
        return data

    async def _pass(self, tunnel, side: int, target: web.WebSocketResponse, data: bytes) -> None:
        changed = self.change(side, data)
        if changed is None:
            await self._end(tunnel)
        elif changed:
            await super()._pass(tunnel, side, target, changed)


class MisleadingRelay(RelayHost):
    """A relay that connects to whom it likes."""

    instead: str = ""  # the node in place of whoever is asked for

    async def _asked(self, link: Link, message: Message) -> Message:
        return await super()._asked(link, Message({**message.fields, "node": self.instead}, ()))


class Impersonator:
    """A door whose TLS is its own, that passes on what another node says, with the certificate changed to its own.

    Where a relay connects a caller to this, it reads and writes all that the two say, if they let it. A context.
    """

    def __init__(self, victim: RelayNode, *, claims_own_certificate: bool) -> None:
        self.victim, self.claims = victim, claims_own_certificate
        self.identity = make_identity(Key.from_seed(system_entropy(32)), system_seconds, system_entropy)
        self.passed = 0  # callers' proofs that were shown to it

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False))
        app = web.Application()
        app.router.add_get(challenge_path, self._challenge)
        app.router.add_get(link_path, self._link)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self.identity.server).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _challenge(self, _request: web.Request) -> web.Response:
        async with self._session.get(self.victim.url.replace("wss", "https") + challenge_path) as response:
            said = await response.json()
        if self.claims:
            said["certificate"] = self.identity.certificate_hash
        return web.json_response(said)

    async def _link(self, request: web.Request) -> web.StreamResponse:
        self.passed += 1
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        headers = {name: value for name, value in request.headers.items() if name.startswith("X-")}
        async with self._session.ws_connect(self.victim.url + link_path, headers=headers) as there:
            await ws.send_bytes((await there.receive()).data)
        return ws
