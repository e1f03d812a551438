"""Carries out what `inference/placement` decides for a node that computes experts for others, and `inference/wishes`
for one that generates for them, and keeps a log of it.

What is given up is said before its bytes go; what is fetched comes in batches that are said as they come, so that the
next look, of this node and of others, sees them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from blyan.inference.demand import Demand
from blyan.inference.moves import Direction, Move, Why
from blyan.inference.placement import MoveBudget, Placement, Shelf, choose, settled
from blyan.inference.wishes import choose_wished
from blyan.node.holdings import Hosted, read_held
from blyan.node.peering import Peering
from blyan.node.proving import Proving
from blyan.node.swarm_blobs import SwarmBlobs, linked_nodes
from blyan.node.taking_layers import held_for_stages
from blyan.node.wishing import everything, part_key
from blyan.primitives import limits
from blyan.primitives.ids import PayloadId, PublicKey

_log = logging.getLogger(__name__)
_batch_bytes: Final = 256 * limits.MIB  # of blocks that are fetched before they are said
_others_min: Final = 2  # who hold what is given up
_again_seconds: Final = 120.0  # before others are asked again to show what they have not shown


@dataclass(slots=True, eq=False)
class Placing:
    """For the network's loop."""

    peering: Peering
    blobs: SwarmBlobs
    _budget: MoveBudget = field(init=False)
    _expected: Demand[str] | None = None  # of which memory was told
    _tried: Demand[str] | None = None  # for which an exchange was looked for
    _kept_said: bool = False  # that more is held than should be
    _unshown: dict[str, float] = field(default_factory=dict[str, float])  # until when nobody is asked for it again

    def __post_init__(self) -> None:
        # some saved up by lot: nodes that start together do not exchange together
        peering = self.peering
        self._budget = MoveBudget(peering.config.network.moves_per_hour, peering.draw(), peering.monotonic())

    async def place(self) -> None:
        """Give up and fetch what helps the swarm most, as much as fits; `Fault`s of fetching."""
        peering = self.peering
        models, mine, own, room = await self._here()
        came = peering.wishing.room(models, mine, own).came
        shelf = replace(await _with_demand(peering, self._shelf(models), models), kept=own | came | self._not_shown())
        self._expect(shelf, models)
        self._budget = self._budget.now(peering.monotonic())
        tried, self._tried = shelf.demand is self._tried, shelf.demand  # once for what is known: others see it too
        exchanges = 0 if peering.config.network.memory_bytes is None or tried else int(self._budget.left)
        made = await asyncio.to_thread(choose, shelf, mine, room, peering.draw, exchanges=exchanges)
        await self._carry_out(models, shelf, made, room - _bytes(shelf, mine))
        if made.drop and not _safe(shelf, made) and not self._kept_said:
            self._kept_said = True
            _log.warning("experts that nobody else holds take more than network.memory; they are kept")

    async def take_wished(self) -> None:
        """Give up and fetch what helps answers that this node generates for others; `Fault`s of fetching."""
        peering = self.peering
        models, mine, own, room = await self._here()
        uses = peering.wishing.now(mine)
        if not uses:
            return
        kept = own | self._not_shown()
        shelf = replace(await _with_demand(peering, self._shelf(models), models), kept=kept)
        wish = replace(peering.wishing.room(models, mine, own), total=room)
        self._budget = self._budget.now(peering.monotonic())
        made = await asyncio.to_thread(choose_wished, shelf, mine, uses, wish, int(self._budget.left))
        peering.wishing.came.update(made.fetch)
        await self._carry_out(models, shelf, made, room - _bytes(shelf, mine))

    async def _here(self) -> tuple[dict[PayloadId, Hosted], set[str], frozenset[str], int]:
        """Models, the experts here, those of them that are not for placement, and bytes for experts."""
        peering, network = self.peering, self.peering.config.network
        models = {hosted.manifest_id: hosted for hosted in peering.holdings.models()}
        mine = {part_key(manifest_id, number) for manifest_id, hosted in models.items() for number in hosted.here}
        held = await asyncio.to_thread(read_held, peering.config.data_dir)
        own = frozenset(each for each in mine if _of_key(each)[0] not in held)  # a model of this node's own
        room = everything if network.memory_bytes is None else network.memory_bytes
        if "stage" in network.roles:  # else their layers would be fetched again and again
            layers, trunks = held_for_stages(models.values(), room)
            own |= {part_key(hosted.manifest_id, number) for hosted, number in layers}
            room -= trunks
        return models, mine, own, room

    async def _carry_out(
        self, models: Mapping[PayloadId, Hosted], shelf: Shelf[str], made: Placement[str], free: int
    ) -> None:
        """As far as others show what is to go; `free`: bytes for experts, negative where more is held."""
        safe, giving_up = _safe(shelf, made), self.peering.shows.giving_up
        with giving_up.of([_of_key(each) for each in safe]):
            proved = await self._proved(models, shelf, safe)
            dropped, fetched = settled(
                made, shelf.sizes, free, [each for each in proved if giving_up.goes(_of_key(each))]
            )
            self._budget = self._budget.spent(min(made.exchanges, len(dropped)))
            if dropped:
                await self._give_up(models, [_of_key(each) for each in dropped])
        self._note("gave", shelf, dropped, made.why)
        await self._fetch(models, shelf, fetched, made.why)

    async def _proved(self, models: Mapping[PayloadId, Hosted], shelf: Shelf[str], parts: Sequence[str]) -> list[str]:
        """Those that as many others as it takes have shown that they hold: what is said alone gives nothing up."""
        if not parts:
            return []
        peering = self.peering
        proving = Proving(peering.identity.key.public, peering.shows.copies, peering.links.link, peering.entropy)
        shown = await proving.proved(models, {_of_key(part): shelf.holders[part] for part in parts}, _others_min)
        proved = [part for part in parts if _of_key(part) in shown]
        self._unshown.update(dict.fromkeys(set(parts) - set(proved), peering.monotonic() + _again_seconds))
        return proved

    def _not_shown(self) -> frozenset[str]:
        """What others have not shown lately: others are given up in its place, and nobody is asked again so soon."""
        now = self.peering.monotonic()
        self._unshown = {part: until for part, until in self._unshown.items() if until > now}
        return frozenset(self._unshown)

    def _expect(self, shelf: Shelf[str], models: Mapping[PayloadId, Hosted]) -> None:
        """Whose experts' memory is limited keeps there what the swarm is expected to ask of it."""
        demand, memory = shelf.demand, self.peering.memory
        if demand is None or memory is None or demand is self._expected:
            return
        self._expected = demand
        rows = demand.rows.get(shelf.me, {})
        memory.expect({models[(at := _of_key(key))[0]].block(at[1]).payload: each for key, each in rows.items()})

    async def _fetch(
        self, models: Mapping[PayloadId, Hosted], shelf: Shelf[str], wanted: Iterable[str], why: Mapping[str, Why]
    ) -> None:
        """In order, as many as make a batch: what has come is said before the next look."""
        batches: dict[PayloadId, list[int]] = {}
        size = 0
        for key in dict.fromkeys(wanted):
            manifest_id, number = _of_key(key)
            batches.setdefault(manifest_id, []).append(number)
            size += models[manifest_id].block(number).length
            if size > _batch_bytes:
                break
        for manifest_id, numbers in batches.items():
            hosted = models[manifest_id]
            before = set(hosted.here)
            try:
                await self.blobs.fetch(hosted, [hosted.block(number) for number in numbers])
            finally:  # in a thread: every block's file is looked at
                now = await asyncio.to_thread(self.peering.look_again, manifest_id)
                here = set[int]() if now is None else now.here - before
                self._note("took", shelf, [part_key(manifest_id, each) for each in numbers if each in here], why)

    def _note(self, direction: Direction, shelf: Shelf[str], parts: Sequence[str], why: Mapping[str, Why]) -> None:
        """Into the log that people can read."""
        at, known = self.peering.now(), shelf.demand
        moves = [
            Move(
                at,
                direction,
                *_of_key(part),
                why.get(part, "room"),
                shelf.others(part),
                0.0 if known is None else known.rate(part),
            )
            for part in parts
        ]
        self.peering.demand.moves.add(moves)
        if moves:
            self.peering.demand.forget()
            _log.info("%s %s experts: %s", direction, len(moves), ", ".join(sorted({move.why for move in moves})))

    def _shelf(self, models: Mapping[PayloadId, Hosted]) -> Shelf[str]:
        """The experts that somebody has, and who."""
        linked = linked_nodes(self.peering)
        sizes: dict[str, int] = {}
        holders: dict[str, list[PublicKey]] = {}
        for manifest_id, hosted in models.items():
            said = [(each.node, held) for each in linked if (held := each.holdings.get(manifest_id)) is not None]
            for number, _ in hosted.experts():
                having = [node for node, held in said if held.has(number)]
                if having or number in hosted.here:
                    key = part_key(manifest_id, number)
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


async def _with_demand(peering: Peering, shelf: Shelf[str], models: Mapping[PayloadId, Hosted]) -> Shelf[str]:
    """The same with what is known of the use of experts, and what this node's memory is like."""
    mine = {manifest_id: sorted(hosted.here) for manifest_id, hosted in models.items()}
    where: dict[PublicKey, dict[PayloadId, list[int]]] = {shelf.me: mine}
    for manifest_id, number, having in ((*_of_key(key), having) for key, having in shelf.holders.items()):
        for node in having:
            where.setdefault(node, {}).setdefault(manifest_id, []).append(number)
    held = sum(shelf.sizes[part_key(manifest_id, each)] for manifest_id, numbers in mine.items() for each in numbers)
    demand = await asyncio.to_thread(peering.demand.now, models, where)
    return replace(shelf, demand=demand, tiers=peering.demand.tiers(held))


def _safe(shelf: Shelf[str], made: Placement[str]) -> list[str]:
    """What is given up, but never one that too few others say they hold."""
    return [each for each in made.drop if shelf.others(each) >= _others_min]


def _bytes(shelf: Shelf[str], mine: Iterable[str]) -> int:
    return sum(shelf.sizes[each] for each in mine if each in shelf.sizes)


def _of_key(key: str) -> tuple[PayloadId, int]:
    manifest_id, _, number = key.partition("/")
    return PayloadId(manifest_id), int(number)
