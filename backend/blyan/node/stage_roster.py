"""The stages that this node knows, how fast they are, and the routes through them. For the network's loop.

Speeds come from trial calls (`inference/stage_probe`), made soon after a stage is linked, again after a while, and at
once when calls take much longer or shorter than they should. Where a much better route turns up, a pipeline with
nothing under way takes it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from blyan.inference.layer_cost import end_cost, layer_costs
from blyan.inference.own_times import OwnTimes
from blyan.inference.partition import Demand, StagePlan
from blyan.inference.registry import Registry
from blyan.inference.stage_lead import StageLead
from blyan.inference.stage_probe import StageProbe
from blyan.inference.stage_session import Session, StageLost
from blyan.inference.stage_speeds import Known, Model, Route, along, route, solved, unlimited
from blyan.model.config import ModelConfig
from blyan.network.link import Link
from blyan.network.links import Links
from blyan.node.holdings import Holdings, Hosted
from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import Fault
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.storage import tensor_block
from blyan.wire.peer import Holding
from blyan.wire.stage_shapes import Hop

_log = logging.getLogger(__name__)
_round_trip_seconds: Final = 0.05  # where none was measured
_look_seconds: Final = 1.0  # between two looks at what is to be tried
_again_seconds: Final = 300.0  # after which a stage is tried again
_failed_seconds: Final = 10.0  # the same of one that did not answer
_drift: Final = 1.5  # times as long, or as short, as calls should take: then stages are tried again
_drift_seconds: Final = 5.0  # but not at once after they were
_better: Final = 0.8  # of the seconds of an answer: so much makes another route worth computing again
_room_seconds: Final = 30.0  # for which it counts what a stage said of its room
_none: Final = frozenset[int]()
_usual: Final = Demand(512, 128, 128, 1024)  # by which routes are chosen: nobody knows what will be asked


@dataclass(slots=True, eq=False)
class StageRoster:
    """Implements `stage_session.StageNodes` over links, what their nodes say, and what was measured of them."""

    own: PublicKey
    links: Links
    holdings: Holdings
    registry: Registry
    monotonic: Monotonic
    shares: bool  # whether this node computes the first layers itself where it has them
    between: dict[tuple[PublicKey, PublicKey], float] = field(
        default_factory=dict["tuple[PublicKey, PublicKey]", float]
    )
    preferred: dict[PayloadId, tuple[Hop, ...]] = field(default_factory=dict["PayloadId", "tuple[Hop, ...]"])
    _own: dict[PayloadId, OwnTimes] = field(default_factory=dict["PayloadId", OwnTimes])
    _ends: dict[tuple[PublicKey, PayloadId], tuple[bool, bool]] = field(
        default_factory=dict["tuple[PublicKey, PayloadId]", "tuple[bool, bool]"]
    )  # whether it embeds, whether it draws, by the leases that it gave
    _rooms: dict[PublicKey, tuple[float, int]] = field(default_factory=dict[PublicKey, "tuple[float, int]"])
    _held: dict[tuple[PublicKey, PayloadId], tuple[Holding, frozenset[int]]] = field(
        default_factory=dict["tuple[PublicKey, PayloadId]", "tuple[Holding, frozenset[int]]"]
    )
    _routes: dict[PayloadId, tuple[float, tuple[Hop, ...] | None]] = field(
        default_factory=dict["PayloadId", "tuple[float, tuple[Hop, ...] | None]"]
    )

    def route(
        self,
        model: PayloadId,
        config: ModelConfig,
        without: frozenset[PublicKey],
    ) -> tuple[Hop, ...] | None:
        """Linked nodes that are stages and hold layers of the model: the best route, evenly split if none is known.

        This node has a share where it may: how large follows from how long its layers took in earlier steps.
        """
        hosted = self.holdings.find(model)
        if hosted is None or hosted.manifest.config.layers != config.layers:
            return None
        known = [each for each in self.candidates(hosted) if each.node not in without]
        preferred, layers = self.preferred.get(model, ()), {each.node: each.layers for each in known}
        if preferred and all(layers.get(hop.node, _none).issuperset(range(hop.begin, hop.end)) for hop in preferred):
            return preferred
        return route(self.model(hosted), known, _usual, self.between)

    def link(self, node: PublicKey) -> Link | None:
        """An open link to a node."""
        return self.links.link(node)

    def round_trip(self, node: PublicKey) -> float:
        """Seconds of a ping, usually."""
        return self.registry.measurements.of(node).rtt_s or _round_trip_seconds

    def granted(self, model: PayloadId, hop: Hop, *, ends: bool) -> None:
        """It embeds or draws, or does not, where its layers are the first or the last."""
        hosted = self.holdings.find(model)
        if hosted is None:
            return
        embeds, draws = self._ends.pop((hop.node, model), (False, False))
        last = hop.end == hosted.manifest.config.layers
        self._ends[hop.node, model] = ends if hop.begin == 0 else embeds, ends if last else draws
        if len(self._ends) > limits.nodes_known_max:
            del self._ends[next(iter(self._ends))]

    def has_room(self, node: PublicKey, left: object) -> None:
        """It has so many bytes for pages of this lead: for a while routes ask no more of it."""
        if type(left) is int and left >= 0:
            self._rooms[node] = self.monotonic() + _room_seconds, left
            if len(self._rooms) > limits.nodes_known_max:
                del self._rooms[next(iter(self._rooms))]

    def _room(self, node: PublicKey) -> int:
        until, left = self._rooms.get(node, (0.0, unlimited))
        return left if self.monotonic() < until else unlimited

    def known(self, hosted: Hosted) -> list[Known]:
        """Linked stages with layers of a model, and what was measured of them."""
        found: list[Known] = []
        for summary in self.links.table.live(self.monotonic()):
            node, held = summary.node, summary.holdings.get(hosted.manifest_id)
            if held is None or "stage" not in summary.roles or summary.draining or self.links.link(node) is None:
                continue
            layers = self._whole(hosted, node, held)
            times, rtt = self.registry.measurements.layers(node, hosted.manifest_id), self._rtt(node)
            if layers:
                rate = math.inf if times is None else times.bytes_per_s
                ends = self._ends.get((node, hosted.manifest_id), (False, False))
                found.append(Known(node, layers, times, rtt, rate, self._room(node), *ends))
        return found

    def candidates(self, hosted: Hosted) -> list[Known]:
        """These, and this node itself if it may compute first layers that it has."""
        own = [layer for layer in range(hosted.manifest.config.layers) if self.shares and hosted.whole(layer)]
        if 0 not in own:
            return self.known(hosted)
        times = self.own_times(hosted.manifest_id).times(self.monotonic())
        return [Known(self.own, frozenset(own), times, 0.0), *self.known(hosted)]

    def own_times(self, model: PayloadId) -> OwnTimes:
        """How long this node's layers of a model take. From any thread."""
        found = self._own.get(model)
        if found is None:
            while len(self._own) >= limits.models_timed_max:
                del self._own[next(iter(self._own))]
            found = self._own[model] = OwnTimes()
        return found

    def spans(self, session: Session) -> tuple[Hop, ...]:
        """The route of a session, this node's layers included."""
        return (*((Hop(self.own, 0, len(session.own)),) if session.own else ()), *session.hops)

    def model(self, hosted: Hosted) -> Model:
        """What a model takes."""
        return Model(layer_costs(hosted.manifest), end_cost(hosted.manifest), self.own)

    def expected(self, hosted: Hosted, hops: Sequence[Hop], demand: Demand, *, ends: bool = False) -> StagePlan | None:
        """What a route should take; None where not all of its stages were measured. `ends`: see `along`."""
        return along(self.model(hosted), self.candidates(hosted), hops, demand, self.between, ends=ends)

    def now(self, hosted: Hosted, sessions: Sequence[Session]) -> Route | None:
        """The route of the session that is open for a model, else the one that would be."""
        open_now = (each for each in sessions if each.model == hosted.manifest_id and each.lost is None)
        found = next((self.spans(each) for each in open_now), None)
        known, now = self.candidates(hosted), self.monotonic()
        until, spans = self._routes.get(hosted.manifest_id, (0.0, None))
        if found is not None:
            spans = found
        elif now >= until or not {hop.node for hop in spans or ()} <= {each.node for each in known}:
            spans = route(self.model(hosted), known, _usual, self.between)
            self._routes[hosted.manifest_id] = now + _look_seconds, spans
        return None if spans is None else Route(self.model(hosted), tuple(known), spans, dict(self.between))

    async def best(self, hosted: Hosted, demand: Demand) -> StagePlan | None:
        """The best of all routes, which may take a while to find."""
        return await asyncio.to_thread(solved, self.model(hosted), self.candidates(hosted), demand, dict(self.between))

    def passed(self, here: PublicKey, there: PublicKey, later: float) -> None:
        """The way from one stage to another took so many seconds more than was expected, or less."""
        most = (self._rtt(here) + self._rtt(there)) / 2
        before = self.between.pop((here, there), most / 2)
        self.between[here, there] = min(most, max(0.0, before + later))
        if len(self.between) > limits.nodes_known_max:
            del self.between[next(iter(self.between))]

    def _whole(self, hosted: Hosted, node: PublicKey, held: Holding) -> frozenset[int]:
        """The layers that a node says to have; counted anew when it says something else."""
        known, layers = self._held.get((node, hosted.manifest_id), (None, frozenset[int]()))
        if known != held:
            layers = whole_layers(hosted, held, hosted.manifest.config)
            self._held[node, hosted.manifest_id] = held, layers
            if len(self._held) > limits.nodes_known_max:
                del self._held[next(iter(self._held))]
        return layers

    def _rtt(self, node: PublicKey) -> float:
        measured = self.registry.measurements.of(node).rtt_s
        return _round_trip_seconds if measured is None else measured


@dataclass(slots=True, eq=False)
class StageSpeeds:
    """Tries stages, and looks for better routes, for the models that this node may lead."""

    roster: StageRoster
    probe: StageProbe
    lead: StageLead
    models: Callable[[], Sequence[Hosted]]
    _failed: dict[tuple[PublicKey, PayloadId], float] = field(
        default_factory=dict["tuple[PublicKey, PayloadId]", float]
    )
    _numbers: dict[str, int] = field(default_factory=dict[str, int])  # of the last calls of sessions

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            for hosted in self.models():
                await self.look(hosted)
            self._numbers = {each.id: each.number for each in self.lead.sessions}
            await asyncio.sleep(_look_seconds)

    async def look(self, hosted: Hosted) -> None:
        """Try what is to be tried of one model; leave routes that are much worse than what there is."""
        sessions = [each for each in self.lead.sessions if each.model == hosted.manifest_id]
        drifted = {hop.node for each in sessions if self._drifted(hosted, each) for hop in each.hops}
        for known in self.roster.known(hosted):
            if self._due(known, hosted.manifest_id, known.node in drifted):
                await self._try(known, hosted)
        for session in sessions:
            idle = self._numbers.get(session.id) == session.number  # no call since the last look
            if idle and not session.waiting and not session.computing and session.lost is None:
                await self._reconsider(hosted, session)

    def _due(self, known: Known, model: PayloadId, drifted: bool) -> bool:
        now = self.roster.monotonic()
        if now < self._failed.get((known.node, model), 0.0):
            return False
        if known.times is None:
            return self.roster.registry.measurements.of(known.node).rtt_s is not None
        return now - known.times.at > (_drift_seconds if drifted else _again_seconds)

    async def _try(self, known: Known, hosted: Hosted) -> None:
        config, dtype = hosted.manifest.config, tensor_block.dtypes[hosted.manifest.dtype]
        begin = min(known.layers)
        end = begin + 1
        while end in known.layers:
            end += 1
        try:
            times = await self.probe.times(hosted.manifest_id, config, dtype, Hop(known.node, begin, end))
        except Fault as reason:
            _log.debug("stage %s was not measured: %s", known.node[:12], reason.message)
            self._failed[known.node, hosted.manifest_id] = self.roster.monotonic() + _failed_seconds
            while len(self._failed) > limits.nodes_known_max:
                del self._failed[next(iter(self._failed))]
            return
        self.roster.registry.measurements.layers_timed(known.node, hosted.manifest_id, times)

    def _drifted(self, hosted: Hosted, session: Session) -> bool:
        """Whether calls of few rows take much longer or shorter than trials say; the ways between stages then count."""
        one = Demand(1, 2, 1, 1)
        expected = None if session.own else self.roster.expected(hosted, session.hops, one)
        if expected is None or session.fixed is None:
            return False
        if len(session.hops) > 1:
            share = (session.fixed - expected.token_s) / (len(session.hops) - 1)
            for here, there in zip(session.hops, session.hops[1:], strict=False):
                self.roster.passed(here.node, there.node, share)
            expected = self.roster.expected(hosted, session.hops, one)
        return expected is not None and not 1 / _drift < session.fixed / expected.token_s < _drift

    async def _reconsider(self, hosted: Hosted, session: Session) -> None:
        """Nothing is under way, and another route takes much less: the next step opens it."""
        route = self.roster.spans(session)
        now = self.roster.expected(hosted, route, _usual, ends=True)  # as the best is counted
        best = await self.roster.best(hosted, _usual)
        if self._numbers.get(session.id) != session.number or session.waiting or session.computing:
            return
        if best is None or (now is None and session.own):  # nobody knows what this node's layers would have taken
            return
        if now is not None and best.seconds(_usual.answer) > _better * now.seconds(_usual.answer):
            return
        spans = tuple(Hop(stage.node, stage.begin, stage.end) for stage in best.stages)
        if spans != route:
            self.roster.preferred[hosted.manifest_id] = spans
            session.end(StageLost("pipeline: another route takes less time"))


def whole_layers(hosted: Hosted, held: Holding, config: ModelConfig) -> frozenset[int]:
    """The layers of which a node says that it has all."""
    count = hosted.grid.experts
    first = {layer: place * count for place, layer in enumerate(hosted.grid.layers)}
    return frozenset(
        layer
        for layer in range(config.layers)
        if held.has_layer(layer)
        and (layer not in first or all(held.has(first[layer] + expert) for expert in range(count)))
    )
