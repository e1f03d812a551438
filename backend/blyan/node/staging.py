"""Pipelines of this node: layers that it computes for leads, and models that it leads itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from blyan.inference.pipeline_step import Led, PipelineStepper
from blyan.inference.registry import Registry
from blyan.inference.stage_host import StageHost
from blyan.inference.stage_lead import LeadOptions, StageLead
from blyan.inference.stage_route import Candidate, even_split
from blyan.inference.steppers import SteppersInTurn
from blyan.model.config import ModelConfig
from blyan.model.loading import LoadedModel
from blyan.model.manifest import Manifest
from blyan.model.stage_step import StagedModel
from blyan.model.stepping import KVPages
from blyan.model.weights import ModelWeights
from blyan.network.identity import Identity
from blyan.network.link import Handler, Link
from blyan.network.links import Links
from blyan.network.thread import NetworkThread
from blyan.node.holdings import Holdings, Hosted
from blyan.node.network_config import NetworkConfig
from blyan.primitives.clock import Entropy, Monotonic
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.storage import tensor_block
from blyan.wire.peer import Holding
from blyan.wire.stage_call import Hop, end_kind

_round_trip_seconds = 0.05  # where none was measured


@dataclass(frozen=True, slots=True)
class StageRoster:
    """Implements `stage_lead.StageNodes` over links and what their nodes say."""

    links: Links
    holdings: Holdings
    registry: Registry
    monotonic: Monotonic

    def route(self, model: PayloadId, config: ModelConfig, without: frozenset[PublicKey]) -> tuple[Hop, ...] | None:
        """Linked nodes that are stages and hold layers of the model, in an even split."""
        hosted = self.holdings.find(model)
        if hosted is None:
            return None
        found: list[Candidate] = []
        for summary in self.links.table.live(self.monotonic()):
            held = summary.holdings.get(model)
            if held is None or "stage" not in summary.roles or summary.draining or summary.node in without:
                continue
            if self.links.link(summary.node) is not None:
                found.append(Candidate(summary.node, whole_layers(hosted, held, config)))
        return even_split(config.layers, found)

    def link(self, node: PublicKey) -> Link | None:
        """An open link to a node."""
        return self.links.link(node)

    def round_trip(self, node: PublicKey) -> float:
        """Seconds of a ping."""
        measured = self.registry.measurements.of(node)
        return measured.rtt_p95_s or measured.rtt_s or _round_trip_seconds


@dataclass(frozen=True, slots=True)
class Around:
    """What a node's network has already."""

    thread: NetworkThread
    links: Links
    holdings: Holdings
    registry: Registry
    monotonic: Monotonic
    entropy: Entropy
    allow: Callable[[PublicKey, int], bool]  # whether a node may have so many rows computed


@dataclass(slots=True, eq=False)
class Staging:
    """What a node does in pipelines. `steppers` prepares jitted code for layers and heads."""

    host: StageHost
    lead: StageLead
    steppers: SteppersInTurn
    holdings: Holdings
    monotonic: Monotonic
    models: dict[PayloadId, StagedModel]

    def handlers(self, roles: tuple[str, ...]) -> dict[str, Handler]:
        """What links answer for it."""
        found: dict[str, Handler] = {end_kind: self.lead.ended}
        return found | self.host.handlers if "stage" in roles else found

    def host_model(self, manifest_id: PayloadId, manifest: Manifest, weights: ModelWeights) -> None:
        """A model of which layers are computed for leads, those that are here."""
        dtype = tensor_block.dtypes[manifest.dtype]
        whole = partial(self.holdings.whole, manifest_id)
        self.models[manifest_id] = StagedModel(manifest.name, manifest.config, weights, dtype, whole)

    def drop(self, manifest_id: PayloadId) -> None:
        """A model is offered no more."""
        self.models.pop(manifest_id, None)

    def stepper(self, model: LoadedModel, kv: KVPages) -> PipelineStepper:
        """Who computes a model that this node leads; its own pages are only counted."""
        led = Led(model.manifest_id, model.manifest.config, model.weights, kv.pages, self.lead.options.call_seconds)
        make_head = partial(self.steppers.make_head, model, kv)
        return PipelineStepper(led, self.lead, make_head, self.monotonic, time.sleep)


def make_staging(
    network: NetworkConfig, identity: Identity, around: Around, steppers: SteppersInTurn, kv_bytes: int
) -> Staging:
    """`kv_bytes`: for keys and values of leads whose layers are computed here."""
    models: dict[PayloadId, StagedModel] = {}
    links, monotonic = around.links, around.monotonic
    roster = StageRoster(links, around.holdings, around.registry, monotonic)
    options = LeadOptions(network.exactness, float(network.call_seconds))
    lead = StageLead(around.thread, roster, identity.key.public, identity.boot, monotonic, around.entropy, options)
    host = StageHost(models.get, links.link, steppers.make_layers, kv_bytes, monotonic, around.allow)
    return Staging(host, lead, steppers, around.holdings, monotonic, models)


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
