"""What the swarm uses of which experts, and what its nodes can do with them: told on request, gathered once a minute.

Each node tells of its own answers and its own memory; what others tell is a claim that moves experts, few an hour, and
nothing else (`inference/expert_demand`). Notes come from the compute thread, everything else is in the network's loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from blyan.inference.demand import Demand, Tier, demand_for
from blyan.inference.expert_demand import ExpertDemand, demand_of, kind, message_of, parse_demand, together
from blyan.inference.expert_host import ExpertHost
from blyan.inference.expert_use import ExpertUse
from blyan.inference.moves import MoveLog
from blyan.inference.snapshot import ExpertGrid
from blyan.model.config import ModelConfig
from blyan.model.expert_memory import ExpertMemory
from blyan.network.link import Link
from blyan.network.links import Links
from blyan.node.holdings import Holdings, Hosted
from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import Fault, MalformedMessage, NotFound
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.wire.framing import Message

_log = logging.getLogger(__name__)
_fresh_parts: Final = 6  # of the time between two rounds of questions, for which what was found is used
_ask_seconds: Final = 10.0
_lives_times: Final = 5  # the time between two rounds, for which an answer counts
_speed_unmeasured: Final = 1_000.0  # rows a second
_speed_max: Final = 1e9
_rows_min: Final = 256  # from which a speed is one
_cold_share: Final = 0.2  # of the speed in memory that experts on the disk have, until it was measured


@dataclass(frozen=True, slots=True)
class _Told:
    at: float
    demand: ExpertDemand | None
    tiers: tuple[Tier, ...]


@dataclass(slots=True, eq=False)
class Demands:
    """Of one node. `run` in the network's loop, on nodes that hold experts for others."""

    holdings: Holdings
    host: ExpertHost
    links: Callable[[], Links]
    monotonic: Monotonic
    draw: Callable[[], float]
    budget: int | None  # bytes of experts that are held for others
    memory: ExpertMemory | None
    every: float  # seconds between two rounds of questions
    moves: MoveLog = field(default_factory=MoveLog)  # what this node did about it
    _uses: dict[PayloadId, ExpertUse] = field(default_factory=dict[PayloadId, ExpertUse])
    _making: threading.Lock = field(default_factory=threading.Lock)
    _told: dict[tuple[PublicKey, PayloadId], _Told] = field(default_factory=dict["tuple[PublicKey, PayloadId]", _Told])
    _made: tuple[float, Demand[str] | None] | None = None
    _before: Demand[str] | None = None

    def note(self, manifest: PayloadId, chosen: NDArray[np.int32]) -> None:
        """The experts [moe layers, n, top k] of positions that were computed for an answer of this node."""
        use = self._uses.get(manifest)
        if use is None:
            hosted = self.holdings.find(manifest)
            if hosted is None:
                return
            use = self.of(manifest, hosted.manifest.config)
        use.note(chosen, self.monotonic())

    def of(self, manifest: PayloadId, config: ModelConfig) -> ExpertUse:
        """What was used of a model for this node's own answers, wherever it was computed. Any thread."""
        with self._making:
            found = self._uses.get(manifest)
            if found is None:
                grid = ExpertGrid(tuple(config.moe_layers), config.experts)
                found = ExpertUse(grid, config.experts_per_token)
                while len(self._uses) >= limits.held_models_max:
                    del self._uses[next(iter(self._uses))]
                self._uses[manifest] = found
            return found

    def use(self, manifest: PayloadId) -> ExpertUse | None:
        """What this node's own answers used of a model, None where there were none."""
        return self._uses.get(manifest)

    async def answer(self, _link: Link, message: Message) -> Message:
        """The handler of `use`."""
        hosted = self._asked(message)
        use = self._uses.get(hosted.manifest_id)
        found = None if use is None else await asyncio.to_thread(demand_of, use, self.monotonic())
        told = message_of(found)
        tiers = [[tier.bytes, tier.speed] for tier in self.tiers(self._held_bytes())]
        return Message({**told.fields, "tiers": tiers}, told.tensors)

    async def run(self) -> None:
        """Ask all linked nodes again and again, until it is cancelled."""
        while True:
            await self.ask()
            await asyncio.sleep(self.every * (0.75 + 0.5 * self.draw()))

    async def ask(self) -> None:
        """Ask those that are linked now."""
        links, now = self.links(), self.monotonic()
        self._told = {key: told for key, told in self._told.items() if now - told.at < _lives_times * self.every}
        for hosted in self.holdings.models():
            for node in list(links.open):
                link = links.link(node)
                if link is None or hosted.manifest_id not in link.peer.holdings:
                    continue
                try:
                    asked = {"manifest": hosted.manifest_id}
                    message = await link.request(kind, asked, seconds=_ask_seconds)
                    demand, tiers = parse_demand(message, hosted.grid), _tiers_of(message)
                    self._told[node, hosted.manifest_id] = _Told(self.monotonic(), demand, tiers)
                except Fault as reason:
                    _log.debug("peer %s does not tell what it uses: %s", node[:12], reason.message)

    def tiers(self, held: int) -> tuple[Tier, ...]:
        """The memory of this node that experts for others lie in, the fastest first."""
        counters = self.host.counters
        measured = counters.rows >= _rows_min and counters.seconds > 0
        speed = counters.rows / counters.seconds if measured else _speed_unmeasured
        total = max(1, held if self.budget is None else self.budget)
        if self.memory is None or self.memory.budget >= total:
            return (Tier("memory", total, speed),)
        usage = self.memory.usage()
        cold = usage.calls["cold"]
        wait = usage.wait_seconds / cold if cold >= _rows_min else (1 / _cold_share - 1) / speed
        return (
            Tier("memory", max(1, self.memory.budget), speed),
            Tier("disk", total - self.memory.budget, 1 / (1 / speed + wait)),
        )

    def now(
        self, models: Mapping[PayloadId, Hosted], holders: Mapping[PublicKey, Mapping[PayloadId, Sequence[int]]]
    ) -> Demand[str] | None:
        """Of all these models, with parts named MANIFEST/NUMBER; `holders`: all nodes, this one included.

        None while too little is known. Takes a while for large models: not for the network's loop, and made anew only
        after some seconds, or `forget`.
        """
        if self._made is not None and self.monotonic() < self._made[0] + self.every / _fresh_parts:
            return self._made[1]
        index: dict[str, int] = {}
        found: list[ExpertDemand] = []
        for manifest, hosted in models.items():
            first, count = len(index), hosted.grid.count
            index.update({f"{manifest}/{number}": first + number for number in range(count)})
            told = self._of(manifest, hosted)
            found.append(_numbered(told, first) if told is not None else _unused(first, count))
        made = self._made_of(index, found, models, holders) if found else None
        self._made, self._before = (self.monotonic(), made), made
        return made

    def forget(self) -> None:
        """What was found before: something has changed."""
        self._made = None

    def _made_of(
        self,
        index: Mapping[str, int],
        found: Sequence[ExpertDemand],
        models: Mapping[PayloadId, Hosted],
        holders: Mapping[PublicKey, Mapping[PayloadId, Sequence[int]]],
    ) -> Demand[str] | None:
        traffic = np.concatenate([each.rate * each.shares for each in found])
        nodes: dict[PublicKey, tuple[tuple[Tier, ...], dict[str, int]]] = {}
        for node, held in holders.items():
            sizes = {f"{manifest}/{n}": models[manifest].block(n).length for manifest, ns in held.items() for n in ns}
            nodes[node] = self._tiers_at(node) or self.tiers(sum(sizes.values())), sizes
        few = max(each.partners.shape[1] for each in found)
        partners = np.concatenate([_wide(each.partners, few) for each in found])
        company = np.concatenate([_wide(each.company, few) for each in found])
        return demand_for(index, traffic, (partners, company), nodes, self._before)

    def _of(self, manifest: PayloadId, hosted: Hosted) -> ExpertDemand | None:
        """What this node uses of a model, and those who told."""
        now = self.monotonic()
        use = self._uses.get(manifest)
        own = None if use is None else demand_of(use, now)
        told = [each.demand for (_, model), each in list(self._told.items()) if model == manifest]
        fits = [each for each in (own, *told) if each is not None and len(each.shares) == hosted.grid.count]
        return together(fits)

    def _tiers_at(self, node: PublicKey) -> tuple[Tier, ...]:
        return next((each.tiers for (key, _), each in list(self._told.items()) if key == node), ())

    def _held_bytes(self) -> int:
        return sum(hosted.block(number).length for hosted in self.holdings.models() for number in hosted.here)

    def _asked(self, message: Message) -> Hosted:
        manifest = message.fields.get("manifest")
        hosted = self.holdings.find(PayloadId(manifest)) if isinstance(manifest, str) else None
        if hosted is None:
            raise NotFound("use: expected the manifest of a model that is held here, found none")
        return hosted


def _tiers_of(message: Message) -> tuple[Tier, ...]:
    """What a node tells of its memory; `MalformedMessage` for what is none."""
    given = message.fields.get("tiers")
    listed = cast("list[Any]", given) if isinstance(given, list) else None
    if listed is None or len(listed) > limits.use_tiers_max:
        raise MalformedMessage(f"use: expected at most {limits.use_tiers_max} tiers, found something else")
    found: list[Tier] = []
    for each in listed:
        pair = cast("list[Any]", each) if isinstance(each, list) else []
        size, speed = pair if len(pair) == 2 else (0, 0)
        fine = isinstance(size, int) and isinstance(speed, int | float) and not isinstance(size, bool)
        if not fine or not size > 0 or not 0 < speed <= _speed_max:
            raise MalformedMessage("use: expected bytes and rows a second of each tier, found something else")
        found.append(Tier(str(len(found)), size, float(speed)))
    return tuple(found)


def _numbered(demand: ExpertDemand, first: int) -> ExpertDemand:
    """With partners by their numbers among all models'."""
    return replace(demand, partners=demand.partners + first)


def _unused(first: int, count: int) -> ExpertDemand:
    """Of a model that nobody told of."""
    return ExpertDemand(0.0, np.zeros(count), np.full((count, 1), first), np.zeros((count, 1)))


def _wide(array: NDArray[Any], few: int) -> NDArray[Any]:
    """[n, less] → [n, few]: what is added is part 0, in no company."""
    lacking = few - array.shape[1]
    return array if not lacking else np.concatenate([array, np.zeros((len(array), lacking), array.dtype)], axis=1)
