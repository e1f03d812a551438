"""How an answer is computed: the one place where that is carried out, and what a node needs for each way.

By this node's own scheduler, which asks for experts where they are; by another node that generates alone; or by stages
that have the layers. Requests come here from every dialect; orders of other nodes go to the scheduler at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np

from blyan.inference.call_times import CallTimes
from blyan.inference.delegate_host import DelegateHost
from blyan.inference.delegating import Delegating, Delegation, DelegationOptions, delegable
from blyan.inference.delegation import Elsewhere, nowhere
from blyan.inference.delivery import Emit, Listener
from blyan.inference.expert_set import predict
from blyan.inference.leading import Lead
from blyan.inference.leads import Leads
from blyan.inference.prediction import Delegate
from blyan.inference.scheduler import Scheduler, Ticket
from blyan.inference.session import GenerationRequest, answer_tokens_max, run
from blyan.inference.snapshot import RegistrySnapshot
from blyan.inference.step_times import Curve, Timed, untimed
from blyan.model.config import ModelConfig
from blyan.model.loading import LoadedModel
from blyan.model.stepping import PlanName
from blyan.network.streams import Streaming
from blyan.node.course import Begun, Course
from blyan.node.holdings import Hosted
from blyan.node.peering import Peering
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.wire import generation

_nobody: Final[Mapping[PublicKey, int | None]] = {}


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, as whoever computes it needs it."""

    model: LoadedModel
    request: GenerationRequest
    client: str
    listener: Listener
    until: float


class Answering:
    """Construct before the node has links. `begin` from any thread."""

    def __init__(
        self,
        scheduler: Scheduler,
        peering: Peering | None,
        loaded: Callable[[], Sequence[LoadedModel]],
        timed: Timed = untimed,
    ) -> None:
        """`timed` is told of steps that other nodes led."""
        self.scheduler, self.peering = scheduler, peering
        self.host: DelegateHost | None = None  # where this node has peers, as the next
        self.delegating: Delegating | None = None
        self._known_elsewhere: tuple[tuple[PayloadId, int, int] | None, Elsewhere] = None, nowhere
        if peering is None:
            return
        lead = Lead(scheduler, lambda: scheduler.drafts_max)

        def find(manifest: PayloadId) -> LoadedModel | None:
            return next((model for model in loaded() if model.manifest_id == manifest), None)

        self.host = DelegateHost(lead, find, peering.host.allowance.take, peering.wishing)
        peering.links.dialler.handlers[generation.kind] = Streaming(self.host.give)
        peering.summary.led = lambda: sum(scheduler.depth())
        peering.led = partial(getattr, self.host, "under_way")

        self.delegating = Delegating(
            peering.executor.thread,
            Leads(
                *(peering.registry, peering.links, peering.monotonic, peering.draw, timed),
                *(self._size, self._elsewhere),
            ),
            lead,
            lambda model: peering.demand.of(model.manifest_id, model.manifest.config),
            peering.monotonic,
            peering.entropy,
            DelegationOptions(step_seconds=peering.config.network.call_seconds + 5.0),
        )

    def delegate(self, manifest: PayloadId, config: ModelConfig) -> Delegate | None:
        """The node that would be asked for an answer now. For the network's loop."""
        if self.delegating is None:
            return None
        assert self.peering is not None, "who asks others has peers"
        candidates = self.delegating.leads.candidates(manifest)
        if not candidates:
            return None
        predicted = predict(self.peering.demand.of(manifest, config), (), self.peering.monotonic())
        ranked = self.delegating.leads.ranked(manifest, predicted)
        if not ranked:
            return None
        best, first = ranked[0], next(each for each in candidates if each.node == ranked[0].node)
        beside = first.under_way + first.queue
        return Delegate(first.node, Curve(), first.rtt_s, len(best.lacking), beside, best.calls)

    def excluded(self, model: LoadedModel, request: GenerationRequest) -> frozenset[PlanName]:
        """Plans that a request excludes: what follows a grammar, or tells of its prompt, is not delegated."""
        fits = self.delegating is not None and delegable(request, answer_tokens_max(model, request))
        return frozenset() if fits else frozenset({"static_delegate"})

    def begin(
        self,
        model: LoadedModel,
        request: GenerationRequest,
        plans: Sequence[PlanName],
        emit: Emit,
        *,
        client: str,
        listener: Listener,
        until: float = math.inf,
    ) -> Course:
        """Events of one generation by the first of these plans that can, until `cancel`; the faults of a full queue.

        Without any plan, as the node is configured. `until`: when whoever asks waits no longer, by the monotonic clock.
        """
        excluded = self.excluded(model, request)
        able: list[PlanName] = [plan for plan in plans if plan not in excluded]
        chosen = able or [self._usual(model, excluded)]
        if chosen == ["static_delegate"]:
            chosen.append(own_plan(self.peering, model.manifest_id))
        asked = _Asked(model, request, client, listener, until)
        course = Course(lambda plan: self._way(plan, asked), chosen, emit)
        course.begin()
        return course

    def _usual(self, model: LoadedModel, excluded: frozenset[PlanName]) -> PlanName:
        configured = "auto" if self.peering is None else self.peering.config.network.plan
        if configured == "static_delegate" and "static_delegate" not in excluded:
            return "static_delegate"
        return own_plan(self.peering, model.manifest_id)

    def _way(self, plan: PlanName, asked: _Asked) -> _Own | _Delegated:
        return _Delegated(self, asked) if plan == "static_delegate" else _Own(self, asked, plan)

    def _elsewhere(self, manifest: PayloadId) -> Elsewhere:
        """Who would be asked for which expert of a model; kept while that is the same. For the network's loop."""
        peering = self.peering
        hosted = None if peering is None else peering.holdings.find(manifest)
        if peering is None or hosted is None:
            return nowhere
        snapshot = peering.registry.snapshot(peering.monotonic())
        as_of = manifest, snapshot.version, peering.holdings.version
        if self._known_elsewhere[0] != as_of:
            self._known_elsewhere = as_of, self._placed(peering, hosted, snapshot)
        return self._known_elsewhere[1]

    def _placed(self, peering: Peering, hosted: Hosted, snapshot: RegistrySnapshot) -> Elsewhere:
        callees = {-1: CallTimes(peering.identity.key.public, 0.0, 0.0, 0.0)}  # -1: this node; else by index
        found = {-1: 0}
        places = np.full(hosted.grid.count, -1, np.int32)
        for number in range(hosted.grid.count):
            choice = None if number in hosted.here else snapshot.choice(hosted.manifest_id, *hosted.place(number))
            if choice is None and number not in hosted.here:
                continue
            at = -1 if choice is None else choice.order[0]
            if at not in found:
                view = snapshot.view(at)
                measured, found[at] = view.measured, len(found)
                callees[at] = CallTimes(view.node, measured.fixed_s, measured.row_s, measured.rtt_s)
            places[number] = found[at]
        return Elsewhere(tuple(callees.values()), places)

    def _size(self, manifest: PayloadId, number: int) -> int:
        """Bytes of a model's expert."""
        hosted = None if self.peering is None else self.peering.holdings.find(manifest)
        return 0 if hosted is None or number >= hosted.grid.count else hosted.block(number).length


@dataclass(slots=True)
class _Own:
    """Through this node's scheduler: with what is here, with experts elsewhere, or through stages."""

    answering: Answering
    asked: _Asked
    plan: PlanName
    ticket: Ticket | None = field(default=None)

    def begin(self, emit: Emit) -> Begun:
        """Queue it."""
        asked, scheduler, peering = self.asked, self.answering.scheduler, self.answering.peering
        staged = self.plan == "pipeline" and peering is not None and peering.config.network.plan != "pipeline"
        work = run(asked.model, asked.request, scheduler.drafts_max)
        self.ticket = scheduler.submit(
            asked.model,
            work,
            emit,
            client=asked.client,
            listener=asked.listener,
            until=asked.until,
            staged=staged,
        )
        return self.ticket

    def worked(self) -> Mapping[PublicKey, int | None]:
        """The stages of all its steps, those that were lost on the way too."""
        return _nobody if self.ticket is None else dict.fromkeys(self.ticket.job.worked)


@dataclass(slots=True)
class _Delegated:
    """By another node, and the next one where that is lost."""

    answering: Answering
    asked: _Asked
    begun: Delegation | None = field(default=None)

    def begin(self, emit: Emit) -> Begun:
        """Ask for it."""
        asked, delegating = self.asked, self.answering.delegating
        assert delegating is not None, "a node with peers"
        self.begun = delegating.begin(asked.model, asked.request, emit, client=asked.client, listener=asked.listener)
        return self.begun

    def worked(self) -> Mapping[PublicKey, int | None]:
        """Those that led it, this node too where none was left."""
        return _nobody if self.begun is None else dict(self.begun.led)


def own_plan(peering: Peering | None, manifest: PayloadId) -> PlanName:
    """By which plan this node's scheduler computes a model where nobody says otherwise."""
    configured = "local" if peering is None else peering.config.network.plan
    if configured == "pipeline" or configured == "local" or configured == "dynamic":
        return configured
    hosted = None if peering is None else peering.holdings.find_used(manifest)
    return "local" if hosted is None or hosted.complete else "dynamic"
