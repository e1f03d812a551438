"""What this node takes of the swarm's models: manifests, trunks where it answers, experts where it computes for others.

Steps for a model that was not known: (1) its manifest, verified by its id, (2) a line in `held.json`, so that blocks
that are not here are no damage, (3) blocks, each verified, and said in the summary as they come, (4) where this node
answers and the trunk is whole: the model on its own chains. A crash between leaves blocks that the next start uses.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from blyan.model.manifest import BlockReference, Manifest, parse_manifest
from blyan.model.parts import expert_part, part_position
from blyan.model.weights import ModelWeights
from blyan.network.dialling import blobs_url
from blyan.network.door import token_kind
from blyan.network.fetching import FetchPolicy, fetch
from blyan.network.link import Link
from blyan.network.pieces import Wanted
from blyan.network.sources import Source, SourceBook
from blyan.node.holdings import HeldModel, Hosted, read_held, write_held
from blyan.node.peering import Peering, manifest_kind
from blyan.primitives import limits
from blyan.primitives.errors import Fault, InvalidInput, NotFound
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.storage.tile import index_of
from blyan.wire.peer import Summary

_log = logging.getLogger(__name__)
sources_name: Final = "sources.json"
_look_seconds: Final = 1.0
_batch_bytes: Final = 256 * limits.MIB  # of blocks that are fetched before they are said
_ask_seconds: Final = 20.0
_wait_max: Final = 60.0

Publish = Callable[[Manifest], None]


@dataclass(slots=True, eq=False)
class Taking:
    """`run` in the network's loop until it is cancelled. `publish` puts a model on this node's chains and serves it."""

    peering: Peering
    publish: Publish
    book: SourceBook
    _published: set[PayloadId] = field(default_factory=set[PayloadId])
    _waits: dict[PayloadId, tuple[float, float]] = field(default_factory=dict[PayloadId, "tuple[float, float]"])

    async def run(self) -> None:
        """Look for what is to be taken, again and again."""
        while True:
            await asyncio.sleep(_look_seconds * (0.5 + self.peering.draw()))
            for manifest_id in self._offered():
                now = self.peering.monotonic()
                after, pause = self._waits.get(manifest_id, (0.0, _look_seconds))
                if now < after:
                    continue
                try:
                    await self._take(manifest_id)
                    self._waits.pop(manifest_id, None)
                except Fault as reason:
                    _log.warning("model %s is not taken whole yet: %s", manifest_id[:12], reason.message)
                    self._waits[manifest_id] = (now + pause, min(_wait_max, 2 * pause))

    def _offered(self) -> list[PayloadId]:
        """Models of which a linked node holds something."""
        found: dict[PayloadId, None] = {}
        for summary in self._linked():
            found.update(dict.fromkeys(summary.holdings))
        return list(found)

    def _linked(self) -> list[Summary]:
        links = self.peering.links
        now = self.peering.monotonic()
        return [each for each in links.table.live(now) if links.link(each.node) is not None]

    async def _take(self, manifest_id: PayloadId) -> None:
        roles = self.peering.config.network.roles
        hosted = self.peering.holdings.find(manifest_id) or await self._known(manifest_id)
        if "gateway" in roles and manifest_id not in self._published:
            trunk = [block for part, block in hosted.manifest.blocks.items() if not _is_expert(part)]
            if not hosted.trunk:
                await self._fetch(manifest_id, hosted, trunk, trunk=True)
                hosted = self.peering.look_again(manifest_id)
            await asyncio.to_thread(self.publish, hosted.manifest)
            self._published.add(manifest_id)
        if "expert" in roles:
            await self._take_experts(manifest_id, hosted)

    async def _known(self, manifest_id: PayloadId) -> Hosted:
        """Steps 1 and 2."""
        store, folder = self.peering.ground.store, self.peering.config.data_dir
        raw = await self._manifest(manifest_id)
        try:
            manifest = parse_manifest(raw)
            await asyncio.to_thread(store.put, [raw], expected=manifest_id)
        except InvalidInput as reason:
            raise InvalidInput(f"manifest {manifest_id}: {reason.message}") from None
        held = await asyncio.to_thread(read_held, folder)
        if manifest_id not in held:
            held[manifest_id] = HeldModel(manifest.name, "gateway" in self.peering.config.network.roles)
            await asyncio.to_thread(write_held, folder, held)
        weights = ModelWeights(manifest, store, self.peering.memory)
        return await asyncio.to_thread(self.peering.host_model, manifest_id, manifest, weights)

    async def _manifest(self, manifest_id: PayloadId) -> bytes:
        why: Fault = NotFound(f"manifest {manifest_id}: expected a linked node that has it, found none")
        for summary in self._linked():
            link = self.peering.links.link(summary.node)
            if link is None or manifest_id not in summary.holdings:
                continue
            try:
                answer = await link.request(manifest_kind, {"manifest": manifest_id}, seconds=_ask_seconds)
                raw = bytes(answer.tensors[0].data) if answer.tensors else b""
                if len(raw) <= limits.manifest_bytes_max and index_of(raw).payload_id == manifest_id:
                    return raw
                _log.warning("peer %s gave a manifest that is another one", summary.node[:12])
            except Fault as reason:
                why = reason
        raise why

    async def _take_experts(self, manifest_id: PayloadId, hosted: Hosted) -> None:
        """Choose what to hold, and fetch it in batches that are said as they come."""
        wanted = self._chosen(hosted)
        parts = dict(hosted.experts())
        batch: list[int] = []
        size = 0
        for number in wanted:
            length = hosted.manifest.parts[parts[number]].length
            if batch and size + length > _batch_bytes:
                await self._fetch_experts(manifest_id, hosted, batch, parts)
                batch, size = [], 0
            batch.append(number)
            size += length
        if batch:
            await self._fetch_experts(manifest_id, hosted, batch, parts)

    async def _fetch_experts(
        self, manifest_id: PayloadId, hosted: Hosted, batch: list[int], parts: dict[int, str]
    ) -> None:
        try:
            await self._fetch(manifest_id, hosted, [hosted.manifest.parts[parts[number]] for number in batch])
        finally:
            self.peering.look_again(manifest_id)

    def _chosen(self, hosted: Hosted) -> list[int]:
        """Numbers of experts that are to be fetched now: those that fewest others hold, as many as fit."""
        budget = self.peering.config.network.memory_bytes
        parts = dict(hosted.experts())
        sizes = {number: hosted.manifest.parts[part].length for number, part in parts.items()}
        used = sum(
            other.manifest.parts[expert_part(*other.place(number))].length
            for other in self.peering.holdings.models()
            for number in other.here
        )
        counts = self._replicas(hosted)
        node = self.peering.identity.key.public
        free = float("inf") if budget is None else budget - used
        chosen: list[int] = []
        missing = [number for number in parts if number not in hosted.here]
        for number in sorted(missing, key=lambda each: (counts[each], rank(node, hosted.manifest_id, each))):
            if counts[number] and sizes[number] <= free:  # of those that somebody has
                chosen.append(number)
                free -= sizes[number]
        return chosen

    def _replicas(self, hosted: Hosted) -> dict[int, int]:
        """How many linked nodes say that they hold each expert."""
        said = [each.holdings.get(hosted.manifest_id) for each in self._linked()]
        return {
            number: sum(holding is not None and holding.has(number) for holding in said)
            for number, _ in hosted.experts()
        }

    async def _fetch(
        self, manifest_id: PayloadId, hosted: Hosted, blocks: Iterable[BlockReference], *, trunk: bool = False
    ) -> None:
        wanted = list({block.payload: Wanted(block.payload, block.length) for block in blocks}.values())
        sources = await self._sources(manifest_id, hosted, trunk=trunk)
        if not sources:
            raise NotFound(f"model {hosted.manifest.name}: expected a linked node that has its blocks, found none")
        rate = self.peering.config.network.fetch_bytes
        await fetch(self.peering.ground.store, wanted, sources, self.book, policy=FetchPolicy(rate=rate))

    async def _sources(self, manifest_id: PayloadId, hosted: Hosted, *, trunk: bool) -> list[Source]:
        """Linked nodes that say they hold something of the model, with what they say."""
        found: list[Source] = []
        parts = dict(hosted.experts())
        for summary in self._linked():
            link, holding = self.peering.links.link(summary.node), summary.holdings.get(manifest_id)
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
            answer = await link.request(token_kind, {}, seconds=_ask_seconds)
        except Fault as reason:
            _log.debug("no token of peer %s: %s", link.peer.node[:12], reason.message)
            return None
        token = answer.fields.get("token")
        return token if isinstance(token, str) and token.isalnum() and len(token) <= 128 else None


def rank(node: PublicKey, manifest_id: PayloadId, number: int) -> bytes:
    """The place of an expert in the order of one node: another for each, so that nodes that start together differ.

    Rendezvous hashing (Thaler and Ravishankar 1998).
    """
    return hashlib.sha256(f"{node}{manifest_id}{number}".encode("ascii")).digest()


def _is_expert(part: str) -> bool:
    return part != "tokenizer" and part_position(part)[1] is not None
