"""What this node takes of the swarm's models: manifests, trunks where it answers, experts where it computes
for others, or generates for them.

Steps for a model that was not known: (1) its manifest, verified by its id, (2) a line in `held.json`, so that blocks
that are not here are no damage, (3) blocks, each verified, and said in the summary as they come, (4) where this node
answers and the trunk is whole: the model on its own chains. A crash between leaves blocks that the next start uses.
A newer version is taken beside the older one, which is given up later (`versions`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from blyan.model.manifest import Manifest, parse_manifest
from blyan.model.weights import ModelWeights
from blyan.network.sources import SourceBook
from blyan.node.holdings import HeldModel, Hosted, change_held, is_expert, read_held
from blyan.node.peering import Peering
from blyan.node.placing import Placing
from blyan.node.publish import is_wanted
from blyan.node.swarm_blobs import SwarmBlobs, fetch_manifest, linked_nodes
from blyan.node.taking_layers import take_layers
from blyan.node.versions import OldVersions, is_whole, replaced, told_trunks
from blyan.primitives import limits
from blyan.primitives.errors import Fault, IntegrityFault, InvalidInput, NotFound, Unavailable
from blyan.primitives.ids import PayloadId

_log = logging.getLogger(__name__)
_look_seconds: Final = 1.0
_wait_max: Final = 60.0

Publish = Callable[[Manifest], None]


@dataclass(slots=True, eq=False)
class Taking:
    """`run` in the network's loop until it is cancelled. `publish` puts a model on this node's chains and serves it."""

    peering: Peering
    publish: Publish
    book: SourceBook
    _blobs: SwarmBlobs = field(init=False)
    _placing: Placing = field(init=False)
    old: OldVersions = field(default_factory=lambda: OldVersions(limits.old_version_seconds))
    _waits: dict[PayloadId, tuple[float, float]] = field(default_factory=dict[PayloadId, "tuple[float, float]"])

    def __post_init__(self) -> None:
        self._blobs = SwarmBlobs(self.peering, self.book)
        self._placing = Placing(self.peering, self._blobs)

    async def run(self) -> None:
        """Look for what is to be taken, again and again."""
        while True:
            await asyncio.sleep(_look_seconds * (0.5 + self.peering.draw()))
            await self._give_up_old()
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
            layers = partial(take_layers, self.peering, self._blobs)
            for role, place in (
                ("gateway", self._placing.take_wished),
                ("expert", self._placing.place),
                ("stage", layers),
            ):
                if role in self.peering.config.network.roles:
                    await _tried(role, place)

    def _offered(self) -> list[PayloadId]:
        """Models of which a linked node holds something; new ones, if somebody answers with them."""
        linked, holdings = linked_nodes(self.peering), self.peering.holdings
        served = told_trunks(linked)
        held = dict.fromkeys(model for summary in linked for model in summary.holdings)
        return [model for model in held if model in served or holdings.find(model) is not None]

    async def _take(self, manifest_id: PayloadId) -> None:
        roles = self.peering.config.network.roles
        hosted = self.peering.holdings.find(manifest_id) or await self._known(manifest_id)
        manifest = hosted.manifest
        if "gateway" in roles and await asyncio.to_thread(is_wanted, self.peering.ground, manifest, manifest_id):
            if self._answers(manifest.name) and not is_whole(hosted, linked_nodes(self.peering)):
                return  # what answers now goes on until the newer version can
            await asyncio.to_thread(self._want_trunk, manifest_id)
            trunk = [block for part, block in manifest.blocks.items() if not is_expert(part)]
            if not hosted.trunk:
                await self._blobs.fetch(hosted, trunk, trunk=True)
                await self._look_again(manifest_id)
            await asyncio.to_thread(self.publish, manifest)

    def _want_trunk(self, manifest_id: PayloadId) -> None:
        """What was held for its experts alone is answered with from now on."""
        folder = self.peering.config.data_dir
        held = read_held(folder).get(manifest_id)
        if held is not None and not held.trunk:
            change_held(folder, manifest_id, replace(held, trunk=True))

    async def _known(self, manifest_id: PayloadId) -> Hosted:
        """Steps 1 and 2."""
        store, folder = self.peering.ground.store, self.peering.config.data_dir
        try:
            raw = await asyncio.to_thread(store.read, manifest_id, bytes_max=limits.manifest_bytes_max)
        except (NotFound, IntegrityFault):
            raw = await fetch_manifest(self.peering, manifest_id)
        try:
            manifest = parse_manifest(raw)
            await asyncio.to_thread(store.put, [raw], expected=manifest_id)
        except InvalidInput as reason:
            raise InvalidInput(f"manifest {manifest_id}: {reason.message}") from None
        if self.peering.ground.chains.state.withdrawn(manifest.name):
            raise Unavailable(f"model {manifest.name}: expected it wanted here, found that it was removed")
        held = await asyncio.to_thread(read_held, folder)
        if manifest_id not in held:
            new = HeldModel(manifest.name, "gateway" in self.peering.config.network.roles)
            await asyncio.to_thread(change_held, folder, manifest_id, new)
        weights = ModelWeights(manifest, store, self.peering.memory)
        return await asyncio.to_thread(self.peering.host_model, manifest_id, manifest, weights)

    async def _look_again(self, manifest_id: PayloadId) -> None:
        """In a thread: every block's file is looked at."""
        await asyncio.to_thread(self.peering.look_again, manifest_id)

    def _answers(self, name: str) -> PayloadId | None:
        """The version with which this node answers by a name; None where it has but experts of what its chain names."""
        current = self.peering.ground.chains.state.current(name)
        hosted = None if current is None else self.peering.holdings.find(current.manifest)
        return None if current is None or (hosted is not None and not hosted.trunk) else current.manifest

    async def _give_up_old(self) -> None:
        """Say with which versions this node answers no more, and let go of those with which nobody does."""
        holdings, now = self.peering.holdings, self.peering.monotonic()
        served = told_trunks(self.peering.links.table.live(now))
        newer = replaced(holdings.models(), self._answers, served)
        holdings.replaced(frozenset(newer))
        for manifest_id in self.old.to_give_up(newer, served, linked_nodes(self.peering), now):
            try:
                await self._let_go(manifest_id, newer[manifest_id])
            except (Fault, OSError) as reason:
                _log.warning("model %s is not given up yet: %s", manifest_id[:12], reason)

    async def _let_go(self, manifest_id: PayloadId, newer: Hosted) -> None:
        """Steps: (1) say that it is held no more, (2) `held.json`, (3) remove what came of the swarm for it alone."""
        peering, name = self.peering, newer.manifest.name
        old, folder = peering.holdings.find(manifest_id), peering.config.data_dir
        held = await asyncio.to_thread(read_held, folder)
        peering.leaving.drop(manifest_id)
        _log.info("%s: version %s is answered with, an older one is given up", name, newer.manifest.version)
        if old is None or manifest_id not in held:
            return  # this node's own, whose files stay
        listed = any(each.manifest == manifest_id for each in peering.ground.chains.state.models.get(name, ()))
        # a version that the chain names needs its line for ever, or the absence of its blocks would be damage
        await asyncio.to_thread(change_held, folder, manifest_id, HeldModel(name, trunk=False) if listed else None)
        kept = {payload for hosted in peering.holdings.models() for payload in hosted.payloads}
        await asyncio.to_thread(peering.ground.store.give_up, old.payloads - kept - {manifest_id})


async def _tried(role: str, place: Callable[[], Coroutine[Any, Any, None]]) -> None:
    try:
        await place()
    except (Fault, OSError) as reason:
        _log.warning("not everything is taken yet for the role %s: %s", role, reason)
