"""How an answer is computed: the one place where that is decided, and what a node needs for each way.

By this node's own scheduler, which asks for experts where they are, or by another node that generates alone. Requests
come here from every dialect; orders of other nodes go to the scheduler at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeAlias

from blyan.inference.delegate_host import DelegateHost
from blyan.inference.delegating import Delegating, DelegationOptions, delegable
from blyan.inference.delivery import Emit, Listener
from blyan.inference.expert_set import CoUsage
from blyan.inference.leading import Lead
from blyan.inference.leads import Leads
from blyan.inference.scheduler import Scheduler
from blyan.inference.session import GenerationRequest, answer_tokens_max, run
from blyan.inference.snapshot import ExpertGrid
from blyan.model.loading import LoadedModel
from blyan.network.streams import Streaming
from blyan.node.peering import Peering
from blyan.primitives import limits
from blyan.primitives.ids import PayloadId
from blyan.wire import generation

Way: TypeAlias = Literal["own", "static_delegate"]


class UnderWay(Protocol):
    """Something that was begun."""

    def cancel(self) -> None:
        """Stop it. Events of before may still come."""
        ...


class Answering:
    """Construct before the node has links. `begin` from any thread."""

    def __init__(
        self, scheduler: Scheduler, peering: Peering | None, loaded: Callable[[], Sequence[LoadedModel]]
    ) -> None:
        self._scheduler = scheduler
        self._usage: dict[PayloadId, CoUsage] = {}
        self._asks = False  # others, for whole answers
        self.host: DelegateHost | None = None  # where this node has peers, as the next
        self.delegating: Delegating | None = None
        if peering is None:
            return
        network = peering.config.network
        lead = Lead(scheduler, lambda: scheduler.drafts_max)

        def find(manifest: PayloadId) -> LoadedModel | None:
            return next((model for model in loaded() if model.manifest_id == manifest), None)

        self.host = DelegateHost(lead, find, peering.host.allowance.take, peering.holdings.wish)
        peering.links.dialler.handlers[generation.kind] = Streaming(self.host.give)
        self._asks = network.plan == "static_delegate"

        def size(manifest: PayloadId, number: int) -> int:
            hosted = peering.holdings.find(manifest)
            return 0 if hosted is None or number >= hosted.grid.count else hosted.block(number).length

        self.delegating = Delegating(
            peering.executor.thread,
            Leads(peering.registry, peering.links, peering.monotonic, peering.draw),
            lead,
            self._usage_of,
            size,
            peering.monotonic,
            peering.entropy,
            DelegationOptions(step_seconds=network.call_seconds + 5.0),
        )

    def way(self, model: LoadedModel, request: GenerationRequest) -> Way:
        """How this answer is computed: the plan that is configured, where the request can go by it."""
        possible = self._asks and delegable(request, answer_tokens_max(model, request))
        return "static_delegate" if possible else "own"

    def begin(
        self,
        model: LoadedModel,
        request: GenerationRequest,
        emit: Emit,
        *,
        client: str,
        listener: Listener,
        until: float = math.inf,
    ) -> UnderWay:
        """Events of one generation, until `cancel`; the faults of a full queue, here or on the way.

        `until`: when whoever asks waits no longer, by the monotonic clock.
        """
        if self.delegating is not None and self.way(model, request) == "static_delegate":
            return self.delegating.begin(model, request, emit, client=client, listener=listener)
        work = run(model, request, self._scheduler.drafts_max)
        return self._scheduler.submit(model, work, emit, client=client, listener=listener, until=until)

    def _usage_of(self, model: LoadedModel) -> CoUsage:
        found = self._usage.get(model.manifest_id)
        if found is None:
            config = model.manifest.config
            found = CoUsage(ExpertGrid(tuple(config.moe_layers), config.experts), config.experts_per_token)
            while len(self._usage) >= limits.held_models_max:
                del self._usage[next(iter(self._usage))]
            self._usage[model.manifest_id] = found
        return found
