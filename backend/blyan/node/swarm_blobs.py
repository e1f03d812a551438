"""Blocks of the swarm's models, fetched from linked nodes and configured mirrors: whom to ask for what, by what nodes
say that they hold.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from blyan.model.manifest import BlockReference
from blyan.network.dialling import blobs_url
from blyan.network.door import token_kind
from blyan.network.fetching import FetchPolicy, fetch
from blyan.network.items import Wanted
from blyan.network.link import Link
from blyan.network.receiving import SourceReport
from blyan.network.sources import Source, SourceBook, source_url
from blyan.node.holdings import Hosted
from blyan.node.peering import Peering, manifest_kind
from blyan.primitives import limits
from blyan.primitives.errors import Fault, NotFound
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.storage.tile import index_of
from blyan.wire.peer import Holding, Summary

_log = logging.getLogger(__name__)
ask_seconds: Final = 20.0
_connect_seconds: Final = 2.0  # for each address of a node
_token_seconds: Final = 5.0
_asked_at_once: Final = 32  # nodes, each of which may be silent


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
        async with AsyncExitStack() as ways:
            nodes = await self._sources(hosted, ways, trunk=trunk)
            mirrors = (Source(source_url(url, "")) for url in self.peering.config.models.mirrors)
            sources = [*nodes.values(), *dict.fromkeys(mirrors)]
            if not sources:
                raise NotFound(f"model {hosted.manifest.name}: expected a linked node that has its blocks, found none")
            rate = self.peering.config.network.fetch_bytes
            store, policy = self.peering.ground.store, FetchPolicy(rate=rate)
            await fetch(store, wanted, sources, self.book, policy=policy, told=partial(self.note, list(nodes)))

    def note(self, nodes: Sequence[PublicKey], reports: Sequence[SourceReport]) -> None:
        """What each did counts for more than this fetch: how fast it gave, and that it gave wrong bytes.

        Of the mirrors, which come after the nodes, the book alone remembers something.
        """
        peering, now = self.peering, self.peering.monotonic()
        for node, report in zip(nodes, reports[: len(nodes)], strict=True):
            if report.bytes and not peering.config.network.fetch_bytes:  # or our own limit would be measured
                peering.registry.measurements.transferred(node, report.bytes, report.busy_seconds, now)
            if report.bad:
                peering.registry.failed(node, "corrupt", 0, now, peering.draw())

    async def _sources(self, hosted: Hosted, ways: AsyncExitStack, *, trunk: bool) -> dict[PublicKey, Source]:
        """Linked nodes that say they hold something of the model, with what they say; relayed ones last, few.

        `ways` keeps their tunnels.
        """
        most = limits.sources_max - len(self.peering.config.models.mirrors)
        offered: list[tuple[Summary, Link, Holding]] = []
        for summary in sorted(linked_nodes(self.peering), key=_is_relayed):
            link, holding = self.peering.links.link(summary.node), summary.holdings.get(hosted.manifest_id)
            if link is not None and holding is not None and (holding.trunk or not trunk):
                offered.append((summary, link, holding))
        found: dict[PublicKey, Source] = {}
        relayed = 0
        for at in range(0, len(offered), _asked_at_once):
            some = offered[at : at + _asked_at_once]
            reached = await asyncio.gather(*(self._reached(link, summary) for summary, link, _ in some))
            for (summary, _, holding), (token, direct) in zip(some, reached, strict=True):
                if token is None or len(found) >= most or (direct is None and relayed >= limits.relayed_sources_max):
                    continue
                url = await self._tunnel(summary, ways) if direct is None else direct
                if url is not None:
                    relayed += direct is None
                    found[summary.node] = _source(summary, url, token, None if trunk else _said(hosted, holding))
            if len(found) >= most:
                break
        return found

    async def _reached(self, link: Link, summary: Summary) -> tuple[str | None, str | None]:
        """What is to be shown to a node, None if it does not say, and where it is: where it was dialled, else where
        it says that it is, if that answers.
        """
        if link.url.startswith("wss://"):
            return await self._token(link), link.url
        return await asyncio.gather(self._token(link), _answering(summary.peer_urls))

    async def _tunnel(self, summary: Summary, ways: AsyncExitStack) -> str | None:
        """Where a node is reached through a relay of its own."""
        for url in summary.peer_urls:
            relay = PublicKey(url.removeprefix("relay:"))
            if url.startswith("relay:") and self.peering.links.link(relay) is not None:
                return await ways.enter_async_context(self.peering.reach.tunnels.to(relay, summary.node))
        return None

    async def _token(self, link: Link) -> str | None:
        try:
            answer = await link.request(token_kind, {}, seconds=_token_seconds)
        except Fault as reason:
            _log.debug("no token of peer %s: %s", link.peer.node[:12], reason.message)
            return None
        token = answer.fields.get("token")
        return token if isinstance(token, str) and token.isalnum() and len(token) <= 128 else None


async def _answering(urls: Iterable[str]) -> str | None:
    """The first of these addresses at which somebody takes a connection; TLS shows whether it is who it should be."""
    direct = [url for url in urls if url.startswith("wss:")]
    answered = await asyncio.gather(*map(_answers, direct))
    return next((url for url, there in zip(direct, answered, strict=True) if there), None)


async def _answers(url: str) -> bool:
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(_connect_seconds):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    return True


def _source(summary: Summary, url: str, token: str, holds: frozenset[PayloadId] | None) -> Source:
    """How a node is asked: one connection through a relay, which stands at an address of this machine.

    Its address is another one now and then: what it gave is remembered under its key.
    """
    name = blobs_url(f"wss://{summary.node}.node")
    made = Source(blobs_url(url), holds, token, summary.certificate, name)
    return made if url.startswith("wss:") else replace(made, connections=1)


def _is_relayed(summary: Summary) -> bool:
    """Whether it can be reached through relays alone."""
    return bool(summary.peer_urls) and all(url.startswith("relay:") for url in summary.peer_urls)


def _said(hosted: Hosted, holding: Holding) -> frozenset[PayloadId]:
    """The routed experts that a node says it holds."""
    numbers = [(number, part) for number, part in hosted.experts() if holding.has(number)]
    return frozenset(hosted.manifest.parts[part].payload for _, part in numbers)


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
