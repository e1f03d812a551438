"""How a node is reached and finds others beside the addresses that it was given: relays, and the local network.

Puts `relay`, `tunnels` and `discovery` to the links of a process. Made before its peer port, opened after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from blyan.network.discovery import Announcement, Candidate, Discovery
from blyan.network.door import Route
from blyan.network.link import Link
from blyan.network.links import Links
from blyan.network.relay import RelayHost
from blyan.network.tunnels import RelayClient, Tunnels
from blyan.primitives.clock import Entropy, Monotonic
from blyan.primitives.ids import PublicKey

_own: dict[str, str] = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # where a port on all addresses is ours


@dataclass(frozen=True, slots=True)
class ReachOptions:
    """What of it is wanted."""

    relay: bool = False  # make others reachable
    relays: tuple[str, ...] = ()  # wss://HOST:PORT of those that are to make this node reachable
    mdns: bool = False  # announce this node on the local network, and look for others


class Reach:
    """Of one process, for the network's loop: `opened` as a context, and `run` in it until cancelled."""

    def __init__(self, options: ReachOptions, links: Links, monotonic: Monotonic, entropy: Entropy) -> None:
        """Takes its place in the dialler of these links."""
        self._options, self._links, self._monotonic, self._entropy = options, links, monotonic, entropy
        self.host = RelayHost(monotonic=monotonic, entropy=entropy) if options.relay else None
        self.tunnels = Tunnels(links.link, links.dialler.context, entropy)
        self._relays: set[PublicKey] = set()  # whose address is one of those that were given
        self._client: RelayClient | None = None
        self._discovery: Discovery | None = None
        links.dialler.through = self.tunnels.to

    @property
    def routes(self) -> Mapping[str, Route]:
        """For the peer port."""
        return {} if self.host is None else self.host.routes

    @property
    def urls(self) -> tuple[str, ...]:
        """Where this node is reached through relays now, for its summary."""
        return () if self._client is None else self._client.urls

    @asynccontextmanager
    async def opened(self, host: str, port: int, *, api_port: int = 0) -> AsyncGenerator[None]:
        """While the peer port listens at `host` and `port`: to be left before that is closed."""
        links, options = self._links, self._options
        handlers = links.dialler.handlers  # the peer port's too: links ask either way
        if self.host is not None:
            handlers.update(self.host.handlers)
        if options.relays:
            self._client = RelayClient(self.tunnels, self._relay_links, (_own.get(host, host), port), self._monotonic)
            handlers.update(self._client.handlers)
            links.seek((url, None) for url in options.relays)
        if options.mdns:
            identity = links.dialler.identity
            ours = Announcement(identity.key.public, identity.boot, links.dialler.swarm.tag, port, api_port)
            self._discovery = Discovery(ours, host or "0.0.0.0", self._found, self._gone, entropy=self._entropy)
        async with self.tunnels:
            try:
                yield
            finally:
                if self.host is not None:
                    await self.host.close()

    async def run(self) -> None:
        """Be found and be reachable."""
        async with asyncio.TaskGroup() as group:
            for each in (self._client, self._discovery):
                if each is not None:
                    group.create_task(each.run())

    def _relay_links(self) -> list[Link]:
        """One open link to each relay, known by the address that was given for it."""
        given = set(self._options.relays)
        for node, links in self._links.open.items():
            if node not in self._relays and any(link.url in given for link in links):
                self._relays.add(node)
        return [link for node in self._relays if (link := self._links.link(node)) is not None]

    def _found(self, candidate: Candidate) -> None:
        self._links.targets.heard((url, candidate.node) for url in candidate.urls)

    def _gone(self, candidate: Candidate) -> None:
        self._links.targets.unheard((url, candidate.node) for url in candidate.urls)
