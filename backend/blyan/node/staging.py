"""Pipelines of this node: layers that it computes for leads, and models that it leads itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from blyan.inference.head_in_turn import HeadInTurn
from blyan.inference.layers_in_turn import LayersInTurn
from blyan.inference.pipeline_session import Led
from blyan.inference.pipeline_step import PipelineStepper
from blyan.inference.quick_work import QuickWork
from blyan.inference.registry import Registry
from blyan.inference.stage_calls import LeadOptions
from blyan.inference.stage_host import StageHost
from blyan.inference.stage_lead import StageLead
from blyan.inference.steppers import SteppersInTurn
from blyan.model.loading import LoadedModel
from blyan.model.manifest import Manifest
from blyan.model.stage_step import StagedModel
from blyan.model.stepping import KVPages
from blyan.model.weights import ModelWeights
from blyan.network.answers import Handler, Prompt
from blyan.network.identity import Identity
from blyan.network.links import Links
from blyan.network.thread import NetworkThread
from blyan.node.holdings import Holdings, Hosted
from blyan.node.network_config import NetworkConfig
from blyan.node.stage_roster import StageRoster, StageSpeeds
from blyan.primitives.clock import Entropy, Monotonic
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.storage import tensor_block
from blyan.wire.stage_call import end_kind

_patience_seconds = 2.0  # for stages to be found, where an answer may go another way


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
    quick: QuickWork  # what is computed in its loop


@dataclass(slots=True, eq=False)
class Staging:
    """What a node does in pipelines. `steppers` prepares jitted code for layers and heads."""

    host: StageHost
    lead: StageLead
    steppers: SteppersInTurn
    holdings: Holdings
    monotonic: Monotonic
    models: dict[PayloadId, StagedModel]
    roster: StageRoster
    speeds: StageSpeeds
    patience: float  # seconds in which stages are found

    def handlers(self, roles: tuple[str, ...]) -> dict[str, Handler]:
        """What links answer for it."""
        found: dict[str, Handler] = {end_kind: Prompt(self.lead.ended)}
        return found | self.host.handlers if "stage" in roles else found

    def host_model(self, manifest_id: PayloadId, manifest: Manifest, weights: ModelWeights) -> None:
        """A model of which layers are computed for leads, those that are here."""
        dtype = tensor_block.dtypes[manifest.dtype]
        whole = partial(self.holdings.whole, manifest_id)
        has = partial(self.holdings.has, manifest_id)
        self.models[manifest_id] = StagedModel(manifest.name, manifest.config, weights, dtype, whole, has)

    def drop(self, manifest_id: PayloadId) -> None:
        """A model is offered no more."""
        self.models.pop(manifest_id, None)

    def stepper(self, model: LoadedModel, kv: KVPages) -> PipelineStepper:
        """Who computes a model that this node leads; its pages hold what is of the layers that are computed here."""
        config, dtype = model.manifest.config, kv.keys.dtype
        whole = partial(self.holdings.whole, model.manifest_id)
        has = partial(self.holdings.has, model.manifest_id)
        staged = StagedModel(model.name, config, model.weights, dtype, whole, has)
        here = partial(LayersInTurn, self.steppers.make_layers, staged, kv)
        led = Led(
            model.manifest_id,
            config,
            model.weights,
            kv.pages,
            self.patience,
            here,
            self.roster.own_times(model.manifest_id).note,
        )
        make_head = partial(HeadInTurn, self.steppers.make_head, staged, kv)
        return PipelineStepper(led, self.lead, make_head, self.monotonic)


def make_staging(
    network: NetworkConfig, identity: Identity, around: Around, steppers: SteppersInTurn, kv_bytes: int
) -> Staging:
    """`kv_bytes`: for keys and values of leads whose layers are computed here."""
    models: dict[PayloadId, StagedModel] = {}
    links, monotonic = around.links, around.monotonic
    own, chance = identity.key.public, (monotonic, around.entropy)
    roster = StageRoster(own, links, around.holdings, around.registry, monotonic, shares=network.plan == "pipeline")
    options = LeadOptions(network.exactness, float(network.call_seconds))
    lead = StageLead(around.thread, roster, own, identity.boot, *chance, options)

    def led() -> list[Hosted]:
        return [hosted for hosted in around.holdings.models() if hosted.trunk]

    speeds = StageSpeeds(roster, lead.probe, lead, led)
    patience = float(network.call_seconds)
    patience = min(patience, _patience_seconds) if network.plan == "auto" else patience
    layers, head = steppers.make_layers, steppers.make_head
    host = StageHost(models.get, links.link, layers, kv_bytes, monotonic, around.allow, around.quick, head)
    return Staging(host, lead, steppers, around.holdings, monotonic, models, roster, speeds, patience)
