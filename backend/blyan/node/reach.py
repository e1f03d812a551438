"""How nodes find and reach each other beyond plain addresses: relays, either side of them, and the local network."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from blyan.network.discovery import Announcement, Candidate, Discovery
from blyan.network.door import Route
from blyan.network.identity import Identity
from blyan.network.link import Handler, Link
from blyan.network.links import Links
from blyan.network.relay import RelayHost
from blyan.network.tunnels import RelayClient, Tunnels
from blyan.node.network_config import NetworkConfig
from blyan.primitives.clock import Entropy, Monotonic
from blyan.primitives.ids import PublicKey

_log = logging.getLogger(__name__)
_wildcards = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(slots=True, eq=False)
class Reach:
    """Construct before the links, `begin` when the door is open, then `run`. For the network's loop."""

    config: NetworkConfig
    identity: Identity
    monotonic: Monotonic
    entropy: Entropy
    tunnels: Tunnels = field(init=False)
    relay: RelayHost | None = None
    _links: Links | None = None
    _client: RelayClient | None = None
    _discovery: Discovery | None = None

    def __post_init__(self) -> None:
        self.tunnels = Tunnels(self._link)
        if self.config.relay:
            self.relay = RelayHost(monotonic=self.monotonic, entropy=self.entropy)

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """What links answer by it, from the start."""
        return {} if self.relay is None else self.relay.handlers

    @property
    def routes(self) -> Mapping[str, Route]:
        """What the peer port answers beside."""
        return {} if self.relay is None else self.relay.routes

    @property
    def urls(self) -> tuple[str, ...] | None:
        """Where a node without a port of its own is reached; None if it has one."""
        return None if self._client is None else self._client.urls

    def begin(self, links: Links, handlers: dict[str, Handler], swarm: str, door: tuple[str, int]) -> None:
        """The door is open: `door` is its address."""
        self._links = links
        host, port = door
        if self.config.through_relays:
            here = (_wildcards.get(host, host), port)
            self._client = RelayClient(self.tunnels, self._relays, here, self.monotonic)
            handlers.update(self._client.handlers)
        if self.config.announced_here:
            ours = Announcement(self.identity.key.public, self.identity.boot, swarm, port)
            self._discovery = Discovery(ours, host, self._found, self._gone, entropy=self.entropy)

    async def run(self) -> None:
        """Until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            if self._client is not None:
                group.create_task(self._client.run())
            if self._discovery is not None:
                group.create_task(self._discovery.run())

    async def close(self) -> None:
        """End all tunnels; before the door is closed."""
        if self.relay is not None:
            await self.relay.close()

    def _link(self, node: PublicKey) -> Link | None:
        return None if self._links is None else self._links.link(node)

    def _relays(self) -> list[Link]:
        """Those that were named to join, of which some may be relays."""
        given = {url for url, _ in self.config.joins if url}
        links = [] if self._links is None else [link for each in self._links.open.values() for link in each]
        return [link for link in links if link.open and link.dialled and link.url in given]

    def _found(self, candidate: Candidate) -> None:
        assert self._links is not None, "begun"
        self._links.seek((url, candidate.node) for url in candidate.urls)

    def _gone(self, candidate: Candidate) -> None:
        assert self._links is not None, "begun"
        self._links.unseek((url, candidate.node) for url in candidate.urls)
