"""Blocks of the swarm's models, fetched from linked nodes: whom to ask for what, by what they say that they hold."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from blyan.model.manifest import BlockReference
from blyan.network.dialling import blobs_url
from blyan.network.door import token_kind
from blyan.network.fetching import FetchPolicy, fetch
from blyan.network.items import Wanted
from blyan.network.link import Link
from blyan.network.sources import Source, SourceBook
from blyan.node.holdings import Hosted
from blyan.node.peering import Peering, manifest_kind
from blyan.primitives import limits
from blyan.primitives.errors import Fault, NotFound
from blyan.primitives.ids import PayloadId
from blyan.storage.tile import index_of
from blyan.wire.peer import Summary

_log = logging.getLogger(__name__)
ask_seconds: Final = 20.0


def linked_nodes(peering: Peering) -> list[Summary]:
    """What those say who can be asked now."""
    links, now = peering.links, peering.monotonic()
    return [each for each in links.table.live(now) if links.link(each.node) is not None]


@dataclass(frozen=True, slots=True)
class SwarmBlobs:
    """For the network's loop. `book` remembers who gave wrong bytes."""

    peering: Peering
    book: SourceBook

    async def fetch(self, hosted: Hosted, blocks: Iterable[BlockReference], *, trunk: bool = False) -> None:
        """Make blocks of a model be here, all of its `trunk` or routed experts; `NotFound`, `PeerFault` as `fetch`."""
        wanted = list({block.payload: Wanted(block.payload, block.length) for block in blocks}.values())
        sources = await self._sources(hosted, trunk=trunk)
        if not sources:
            raise NotFound(f"model {hosted.manifest.name}: expected a linked node that has its blocks, found none")
        rate = self.peering.config.network.fetch_bytes
        await fetch(self.peering.ground.store, wanted, sources, self.book, policy=FetchPolicy(rate=rate))

    async def _sources(self, hosted: Hosted, *, trunk: bool) -> list[Source]:
        """Linked nodes that say they hold something of the model, with what they say."""
        found: list[Source] = []
        parts = dict(hosted.experts())
        for summary in linked_nodes(self.peering):
            link, holding = self.peering.links.link(summary.node), summary.holdings.get(hosted.manifest_id)
            if link is None or holding is None or (trunk and not holding.trunk) or len(found) >= limits.sources_max:
                continue
            url = next((url for url in summary.peer_urls if url.startswith("wss://")), None)
            token = await self._token(link)
            if url is None or token is None:
                continue
            holds = None
            if not trunk:
                numbers = [number for number in parts if holding.has(number)]
                holds = frozenset(hosted.manifest.parts[parts[number]].payload for number in numbers)
            found.append(Source(blobs_url(url), holds, token, summary.certificate))
        return found

    async def _token(self, link: Link) -> str | None:
        try:
            answer = await link.request(token_kind, {}, seconds=ask_seconds)
        except Fault as reason:
            _log.debug("no token of peer %s: %s", link.peer.node[:12], reason.message)
            return None
        token = answer.fields.get("token")
        return token if isinstance(token, str) and token.isalnum() and len(token) <= 128 else None


async def fetch_manifest(peering: Peering, manifest_id: PayloadId) -> bytes:
    """A manifest of a linked node that holds something of its model, verified by its id."""
    why: Fault = NotFound(f"manifest {manifest_id}: expected a linked node that has it, found none")
    for summary in linked_nodes(peering):
        link = peering.links.link(summary.node)
        if link is None or manifest_id not in summary.holdings:
            continue
        try:
            answer = await link.request(manifest_kind, {"manifest": manifest_id}, seconds=ask_seconds)
            raw = bytes(answer.tensors[0].data) if answer.tensors else b""
            if len(raw) <= limits.manifest_bytes_max and index_of(raw).payload_id == manifest_id:
                return raw
            _log.warning("peer %s gave a manifest that is another one", summary.node[:12])
        except Fault as reason:
            why = reason
    raise why
