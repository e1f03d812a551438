"""What this node takes of the swarm's models: manifests, trunks where it answers, experts where it computes for others.

Steps for a model that was not known: (1) its manifest, verified by its id, (2) a line in `held.json`, so that blocks
that are not here are no damage, (3) blocks, each verified, and said in the summary as they come, (4) where this node
answers and the trunk is whole: the model on its own chains. A crash between leaves blocks that the next start uses.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from blyan.inference.placement import Shelf, choose
from blyan.inference.stage_route import layers_to_hold
from blyan.model.manifest import BlockReference, Manifest, parse_manifest
from blyan.model.weights import ModelWeights
from blyan.network.dialling import blobs_url
from blyan.network.door import token_kind
from blyan.network.fetching import FetchPolicy, fetch
from blyan.network.link import Link
from blyan.network.pieces import Wanted
from blyan.network.sources import Source, SourceBook
from blyan.node.holdings import HeldModel, Hosted, blocks_of_layer, is_expert, read_held, write_held
from blyan.node.peering import Peering, manifest_kind
from blyan.node.staging import whole_layers
from blyan.primitives import limits
from blyan.primitives.errors import Fault, InvalidInput, NotFound
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.storage.tile import index_of
from blyan.wire.peer import Holding, Summary

_log = logging.getLogger(__name__)
_look_seconds: Final = 1.0
_batch_bytes: Final = 256 * limits.MIB  # of blocks that are fetched before they are said
_ask_seconds: Final = 20.0
_wait_max: Final = 60.0
_everything: Final = 1 << 62  # bytes: no budget
_others_min: Final = 2  # who hold what is given up

Publish = Callable[[Manifest], None]


@dataclass(slots=True, eq=False)
class Taking:
    """`run` in the network's loop until it is cancelled. `publish` puts a model on this node's chains and serves it."""

    peering: Peering
    publish: Publish
    book: SourceBook
    _kept_said: bool = False  # that more is held than should be
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
                except (Fault, OSError) as reason:
                    _log.warning("model %s is not taken whole yet: %s", manifest_id[:12], reason)
                    self._waits[manifest_id] = (now + pause, min(_wait_max, 2 * pause))
            if {"expert", "stage"} & set(self.peering.config.network.roles):
                try:
                    await _place_layers(self) if "stage" in self.peering.config.network.roles else await self._place()
                except (Fault, OSError) as reason:
                    _log.warning("experts are not all taken yet: %s", reason)

    def _offered(self) -> list[PayloadId]:
        """Models of which a linked node holds something."""
        found: dict[PayloadId, None] = {}
        for summary in self.linked():
            found.update(dict.fromkeys(summary.holdings))
        return list(found)

    def linked(self) -> list[Summary]:
        """The summaries of nodes that a link is up to."""
        links = self.peering.links
        now = self.peering.monotonic()
        return [each for each in links.table.live(now) if links.link(each.node) is not None]

    async def _take(self, manifest_id: PayloadId) -> None:
        roles = self.peering.config.network.roles
        hosted = self.peering.holdings.find(manifest_id) or await self._known(manifest_id)
        if "gateway" in roles and manifest_id not in self._published:
            await asyncio.to_thread(self._want_trunk, manifest_id)
            trunk = [block for part, block in hosted.manifest.blocks.items() if not is_expert(part)]
            if not hosted.trunk:
                await self.fetch_blocks(manifest_id, hosted, trunk, trunk=True)
                hosted = self.peering.look_again(manifest_id)
            await asyncio.to_thread(self.publish, hosted.manifest)
            self._published.add(manifest_id)

    def _want_trunk(self, manifest_id: PayloadId) -> None:
        """What was held for its experts alone is answered with from now on."""
        folder = self.peering.config.data_dir
        held = read_held(folder)
        if manifest_id in held and not held[manifest_id].trunk:
            write_held(folder, {**held, manifest_id: replace(held[manifest_id], trunk=True)})

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
        for summary in self.linked():
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

    async def _place(self) -> None:
        """Give up and fetch what helps the swarm most, as much as fits; in batches that are said as they come."""
        peering = self.peering
        budget = peering.config.network.memory_bytes
        models = {hosted.manifest_id: hosted for hosted in peering.holdings.models()}
        mine = [(manifest_id, number) for manifest_id, hosted in models.items() for number in hosted.here]
        shelf = self._shelf(models)
        held = await asyncio.to_thread(read_held, peering.config.data_dir)
        room = _everything if budget is None else budget
        made = choose(shelf, [_key(*each) for each in mine], room, peering.draw)
        # never a model of this node's own, nor the only one that there is, or may be as others give up theirs
        dropped = [each for each in made.drop if shelf.others(each) >= _others_min and _of_key(each)[0] in held]
        if dropped:
            await self._give_up(models, [_of_key(each) for each in dropped])
        elif made.drop and not self._kept_said:
            self._kept_said = True
            _log.warning("experts that nobody else holds take more than network.memory; they are kept")
        batches: dict[PayloadId, list[int]] = {}
        size = 0
        for manifest_id, number in map(_of_key, made.fetch):
            batches.setdefault(manifest_id, []).append(number)
            size += models[manifest_id].block(number).length
            if size > _batch_bytes:
                break  # what has come is said before the next look
        for manifest_id, numbers in batches.items():
            hosted = models[manifest_id]
            try:
                await self.fetch_blocks(manifest_id, hosted, [hosted.block(number) for number in numbers])
            finally:
                peering.look_again(manifest_id)

    def _shelf(self, models: Mapping[PayloadId, Hosted]) -> Shelf[str]:
        """The experts that somebody has, and who."""
        linked = self.linked()
        sizes: dict[str, int] = {}
        holders: dict[str, list[PublicKey]] = {}
        for manifest_id, hosted in models.items():
            said = [(each.node, held) for each in linked if (held := each.holdings.get(manifest_id)) is not None]
            for number, _ in hosted.experts():
                having = [node for node, held in said if held.has(number)]
                if having or number in hosted.here:
                    key = _key(manifest_id, number)
                    sizes[key] = hosted.block(number).length
                    holders[key] = having
        return Shelf(self.peering.identity.key.public, len(linked) + 1, sizes, holders)

    async def _give_up(self, models: Mapping[PayloadId, Hosted], dropped: Sequence[tuple[PayloadId, int]]) -> None:
        """Say first that they are held no more, and then remove them, but what another expert here shares."""
        for manifest_id, number in dropped:
            self.peering.holdings.gave(manifest_id, number)
        await self.peering.links.tell()
        kept = {hosted.block(number).payload for hosted in models.values() for number in hosted.here}
        gone = {models[manifest_id].block(number).payload for manifest_id, number in dropped} - kept
        await asyncio.to_thread(self.peering.ground.store.give_up, gone)

    async def fetch_blocks(
        self, manifest_id: PayloadId, hosted: Hosted, blocks: Iterable[BlockReference], *, trunk: bool = False
    ) -> None:
        """Fetch blocks of a model that are not here from nodes that say they hold them."""
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
        for summary in self.linked():
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


def _key(manifest_id: PayloadId, number: int) -> str:
    return f"{manifest_id}/{number}"


def _of_key(key: str) -> tuple[PayloadId, int]:
    manifest_id, _, number = key.partition("/")
    return PayloadId(manifest_id), int(number)


async def _place_layers(taking: Taking) -> None:
    """Fetch the layers of each model that help its pipelines most, as much as fits; nothing is given up."""
    peering = taking.peering
    budget = peering.config.network.memory_bytes
    room = _everything if budget is None else budget
    for hosted in peering.holdings.models():
        config = hosted.manifest.config
        blocks = [blocks_of_layer(hosted.manifest, layer) for layer in range(config.layers)]
        sizes = [sum(block.length for block in layer) for layer in blocks]
        said = [held for each in taking.linked() if "stage" in each.roles and (held := _held(each, hosted))]
        whole = [whole_layers(hosted, held, config) for held in said]
        others = [sum(layer in each for each in whole) for layer in range(config.layers)]
        mine = [layer for layer in range(config.layers) if hosted.whole(layer)]
        if not any(each.holdings.get(hosted.manifest_id) for each in taking.linked()):
            continue
        span = layers_to_hold(sizes, others, mine, room, peering.draw())
        kept = sum(sizes[layer] for layer in mine if layer not in span)
        for layer in span:
            if layer not in mine and kept + sum(sizes[each] for each in span if each <= layer) <= room:
                await _fetch_layer(taking, hosted, blocks[layer])
        room -= sum(sizes[layer] for layer in {*mine, *span})


async def _fetch_layer(taking: Taking, hosted: Hosted, blocks: Sequence[BlockReference]) -> None:
    try:
        trunk, experts = blocks[:1], blocks[1:]
        await taking.fetch_blocks(hosted.manifest_id, hosted, trunk, trunk=True)
        if experts:
            await taking.fetch_blocks(hosted.manifest_id, hosted, experts)
    finally:
        taking.peering.look_again(hosted.manifest_id)


def _held(summary: Summary, hosted: Hosted) -> Holding | None:
    return summary.holdings.get(hosted.manifest_id)
