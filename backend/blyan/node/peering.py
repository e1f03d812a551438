"""A node among others: its identity, its door, its links, what it computes for peers and asks of them.

Constructed where `network.listen` is set. Everything that talks runs in the network's thread; `close` ends all of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from torch import Tensor

from blyan.inference import expert_demand
from blyan.inference.executor import Executor, ExecutorOptions
from blyan.inference.expert_host import ExpertHost, HostedModel
from blyan.inference.registry import Registry
from blyan.inference.roster import Roster
from blyan.inference.steppers import PreparedMixture, SteppersInTurn
from blyan.model.expert_memory import ExpertMemory
from blyan.model.experts import ExpertCall
from blyan.model.loading import LoadedModel
from blyan.model.manifest import Manifest, read_manifest
from blyan.model.parts import expert_part
from blyan.model.weights import ModelWeights
from blyan.network import more_held
from blyan.network.answers import Bulky
from blyan.network.dialling import Dialler
from blyan.network.door import PeerDoor
from blyan.network.gossip import SummaryTable
from blyan.network.identity import Identity, make_identity
from blyan.network.link import Handler, Link
from blyan.network.links import Links
from blyan.network.reach import Reach, ReachOptions
from blyan.network.redis_gossip import RedisGossip
from blyan.network.thread import NetworkThread, kept
from blyan.node.config import NodeConfig
from blyan.node.demand import Demands
from blyan.node.giving_up import GivingUp
from blyan.node.holdings import HeldModel, Holdings, Hosted, read_held
from blyan.node.leaving import Leaving
from blyan.node.network_config import NetworkConfig
from blyan.node.own_summary import OwnSummary
from blyan.node.peer_addresses import announced, linked_peers, read_peers, remember_peers
from blyan.node.proving import Shows
from blyan.node.staging import Around, Staging, make_staging
from blyan.node.swarm_secret import swarm_of
from blyan.node.wishing import Wishing
from blyan.node.writer import WritableGround
from blyan.primitives import limits
from blyan.primitives.clock import Entropy, Monotonic, UnixSeconds
from blyan.primitives.errors import ExpertUnavailable, Fault, NotFound, Unavailable
from blyan.primitives.ids import PayloadId
from blyan.storage import tensor_block
from blyan.storage.blob_store import BlobStore
from blyan.storage.redis_link import RedisLink
from blyan.wire import expert_call, possession
from blyan.wire.framing import Message, WireTensor

_log = logging.getLogger(__name__)
Result = TypeVar("Result")
_close_seconds = 5.0
manifest_kind = "manifest"


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Implements `network_step.Elsewhere` for one model."""

    peering: Peering
    manifest: PayloadId
    remote_first: bool  # ask others even for what is here
    local_only: bool

    def holds(self, layer: int, expert: int) -> bool:
        """Whether an expert is here."""
        return self.peering.holdings.holds(self.manifest, layer, expert)

    def first_here(self, layer: int, expert: int) -> bool:
        """Whether an expert is computed here rather than asked for."""
        return self.holds(layer, expert) and not (self.remote_first and self.peering.links.any_holds(self.manifest))

    def begin(self, calls: Sequence[ExpertCall], until: float) -> Future[list[Tensor | Fault]]:
        """Ask other nodes, unless the plan is to do without them."""
        if not self.local_only:
            return self.peering.executor.begin(self.manifest, calls, until)
        refused: Future[list[Tensor | Fault]] = Future()
        refused.set_result([_not_local(call) for call in calls])
        return refused

    def open(self) -> None:
        """One more stepper asks."""
        self.peering.leaving.began(self.manifest)

    def close(self) -> None:
        """One asks no more."""
        self.peering.leaving.ended(self.manifest)


@dataclass(slots=True, eq=False)
class Peering:
    """One node's network. `start`, then `close` once, from any thread but the network's."""

    config: NodeConfig
    ground: WritableGround
    now: UnixSeconds
    monotonic: Monotonic
    entropy: Entropy
    steppers: SteppersInTurn
    stage_bytes: int  # for keys and values of leads whose layers are computed here
    memory: ExpertMemory | None = None
    holdings: Holdings = field(init=False)
    wishing: Wishing = field(init=False)
    identity: Identity = field(init=False)
    registry: Registry = field(init=False)
    links: Links = field(init=False)
    roster: Roster = field(init=False)
    executor: Executor = field(init=False)
    host: ExpertHost = field(init=False)
    staging: Staging = field(init=False)
    summary: OwnSummary = field(init=False)
    leaving: Leaving = field(init=False)
    shows: Shows = field(init=False)
    demand: Demands = field(init=False)
    redis: RedisGossip | None = field(init=False)  # None where it is not configured
    port: int = 0  # that was taken
    _thread: NetworkThread = field(init=False)
    door: PeerDoor = field(init=False)
    reach: Reach = field(init=False)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _running: Future[None] | None = None
    hosted: dict[PayloadId, HostedModel] = field(default_factory=dict[PayloadId, HostedModel])
    led: Callable[[], int] = lambda: 0  # whole answers that are computed for peers now

    def __post_init__(self) -> None:
        config, network = self.config, self.config.network
        swarm = swarm_of(config.data_dir, network.joins, self.entropy)
        self.identity = make_identity(self.ground.key, self.now, self.entropy)
        self.holdings = Holdings(self.ground.store)
        self.wishing = Wishing(self.holdings, network, self.monotonic)
        table = SummaryTable()
        self.registry = Registry(table, self.identity.key.public)
        self.host = ExpertHost(self.hosted.get, self.monotonic, network.peer_rows)
        self.summary = OwnSummary(self.identity, swarm.tag, network.roles, self.holdings, self.host, self.monotonic)
        self._thread = NetworkThread()
        handlers: dict[str, Handler] = {expert_call.kind: self.host.answer}
        dialler = Dialler(self.identity, swarm, handlers, self.monotonic, self.entropy)
        self.links = Links(dialler, table, self.summary, self.registry, self.monotonic, self.draw)
        handlers.update(self.links.handlers)
        self.leaving = Leaving(
            self.holdings,
            self._refuse,
            lambda: self._thread.run(self.links.tell()),
            lambda model: self.ask(lambda: self.registry.drop(model)),
        )
        self.demand = _demands(self)
        handlers[expert_demand.kind] = self.demand.answer
        self.redis = _redis_gossip(network.redis, swarm.tag, self)
        self.reach = Reach(_reach_options(network), self.links, self.monotonic, self.entropy)
        handlers[more_held.kind] = self.summary.tell_rest
        self.shows = Shows(self.ground.store, self.holdings.find, GivingUp(self.identity.key.public), self.monotonic)
        handlers[possession.kind] = Bulky(self.shows.answer)
        handlers[manifest_kind] = _manifest_giver(self.holdings, self.ground.store)
        self.roster = Roster(self.registry, self.links, self.monotonic, self.draw, partial(_number, self.holdings))
        options = ExecutorOptions(network.exactness, float(network.call_seconds))
        self.executor = Executor(self._thread, self.roster, self.monotonic, self.entropy, options)
        self.staging = make_staging(
            network, self.identity, _around(self, self._thread), self.steppers, self.stage_bytes
        )
        handlers.update(self.staging.handlers(network.roles))
        self.door = PeerDoor(
            *(self.identity, swarm, self.summary, handlers, self.links.joined),
            store=self.ground.store,
            gives=self.holdings.gives,
            monotonic=self.monotonic,
            entropy=self.entropy,
            routes=self.reach.routes,
            address_links=network.address_links,
            serve_rate=network.serve_bytes,
        )

    def draw(self) -> float:
        """A number in [0, 1)."""
        return int.from_bytes(self.entropy(4), "little") / (1 << 32)

    def serve(self, model: LoadedModel) -> Hosted:
        """A model that this node answers with: what is here of it, and plans for what is not may be asked."""
        return self.host_model(model.manifest_id, model.manifest, model.weights)

    def host_model(self, manifest_id: PayloadId, manifest: Manifest, weights: ModelWeights) -> Hosted:
        """A model of which experts are computed for peers, those that are here."""
        hosted = self.holdings.look(manifest_id, manifest)
        mixture = PreparedMixture(self.steppers, manifest.config, tensor_block.dtypes[manifest.dtype], weights)
        self.hosted[manifest_id] = HostedModel(
            manifest.config, weights, partial(self.holdings.holds, manifest_id), mixture
        )
        self.staging.host_model(manifest_id, manifest, weights)
        self.ask(lambda: self.registry.serve(manifest_id, hosted.grid))
        return hosted

    def host_held(self, held: Mapping[PayloadId, HeldModel]) -> None:
        """Models of which this node has experts alone: peers may ask for them."""
        for manifest_id, each in held.items():
            if manifest_id in self.hosted:
                continue
            try:
                manifest = read_manifest(self.ground.store, manifest_id)
            except Fault as reason:
                _log.error("experts of %s are not offered: %s", each.name, reason.message)
                continue
            self.host_model(manifest_id, manifest, ModelWeights(manifest, self.ground.store, self.memory))

    def ready(self) -> None:
        """`Unavailable` as long as nothing is held for peers: of a node that answers nobody itself."""
        if not any(hosted.here or hosted.trunk for hosted in self.holdings.models()):
            raise Unavailable(
                "node: expected a model of the swarm, found none yet",
                hint="it takes one from the nodes that it is linked to; `blyan node peers` shows them",
            )

    def look_again(self, manifest_id: PayloadId) -> Hosted | None:
        """Blocks of a model have come or gone; None for one that is not offered."""
        hosted = self.holdings.find(manifest_id)
        return None if hosted is None else self.holdings.look(manifest_id, hosted.manifest)

    def follow(self, work: Callable[[], Coroutine[Any, Any, None]]) -> Future[None]:
        """Run something in the network's loop, for as long as the node has peers."""
        return self._thread.run(kept("taking", work))

    def _refuse(self, manifest_id: PayloadId) -> None:
        if (hosted := self.hosted.pop(manifest_id, None)) is not None:
            hosted.close()
        self.staging.drop(manifest_id)

    def elsewhere(self, model: LoadedModel) -> Elsewhere | None:
        """Who computes what is not here of a model; None if all of it is."""
        hosted, plan = self.holdings.find_used(model.manifest_id), self.config.network.plan
        network = self.config.network
        exchanges = network.memory_bytes is not None or network.waits_for_wishes
        may_give_up = exchanges and model.manifest_id in read_held(self.config.data_dir)
        if hosted is None or (hosted.complete and plan != "dynamic" and not may_give_up):
            return None
        return Elsewhere(self, model.manifest_id, plan == "dynamic", plan == "local")

    def ask(self, read: Callable[[], Result]) -> Future[Result]:
        """What `read` finds in the network's loop, where the registry and the links belong; from any other thread."""

        async def reading() -> Result:
            return read()

        return self._thread.run(reading())

    def drain(self, draining: bool) -> Future[None]:
        """Be asked by peers only for what nobody else has, or as before; done when they were told."""
        self.summary.draining = draining
        return self._thread.run(self.links.tell())

    def start(self) -> None:
        """Open the door and begin to dial; raises what listening raises."""
        self._thread.run(self._open()).result()
        self._running = self._thread.run(self._run())

    def close(self) -> None:
        """End all links and stop listening."""
        if self._running is not None:
            self._running.cancel()
        try:
            self._thread.run(self._shut()).result(_close_seconds)
        except TimeoutError:
            _log.warning("peers did not let go in %s s", _close_seconds)
        self.host.close()
        self.shows.copies.close()
        self.staging.host.close()
        self._thread.close()

    async def _open(self) -> None:
        address = self.config.network.address
        assert address is not None, "a node with a peer port"
        self.port = await self.door.listen(*address)
        self._stack.push_async_callback(self.door.close)
        await self._stack.enter_async_context(self.reach.opened(address[0], self.port))
        own = self.config.network.announce or (announced(address[0], self.port),)
        self.summary.where = lambda: self.reach.urls if self.config.network.through_relays else own
        self.links.seek((url, None) for url, _ in self.config.network.joins if url)
        self.links.seek(read_peers(self.config.data_dir))
        _log.info("peers reach this node at %s", ", ".join(self.summary.urls))

    async def _run(self) -> None:
        remembering = partial(remember_peers, self.config.data_dir, lambda: linked_peers(self.links, self.monotonic()))
        async with asyncio.TaskGroup() as group:
            group.create_task(kept("links", self.links.run))
            group.create_task(kept("relays and discovery", self.reach.run))
            group.create_task(kept("addresses of peers", remembering))
            for what, work in _wanted_work(self):
                group.create_task(kept(what, work))

    async def _shut(self) -> None:
        if self._running is not None:
            await asyncio.gather(asyncio.wrap_future(self._running), return_exceptions=True)
        await self._stack.aclose()


def _number(holdings: Holdings, manifest_id: PayloadId, layer: int, expert: int) -> tuple[int, int] | None:
    """Number and bytes of a routed expert of a model that was looked at."""
    hosted = holdings.find(manifest_id)
    number = None if hosted is None else hosted.number(layer, expert)
    if hosted is None or number is None:
        return None
    return number, hosted.manifest.parts[expert_part(layer, expert)].length


def _around(peering: Peering, thread: NetworkThread) -> Around:
    chance = peering.monotonic, peering.entropy
    host, known = peering.host, (peering.links, peering.holdings, peering.registry)
    return Around(thread, *known, *chance, host.allowance.take, host.quick)


def _reach_options(network: NetworkConfig) -> ReachOptions:
    """How a node is reached beside its address; relays are those that it joins."""
    relays = tuple(url for url, _ in network.joins if url and network.through_relays)
    return ReachOptions(network.relay, relays, network.looks_around)


def _demands(peering: Peering) -> Demands:
    network, links, memory = peering.config.network, lambda: peering.links, peering.memory
    every = float(network.use_seconds)
    return Demands(
        peering.holdings, peering.host, links, peering.monotonic, peering.draw, network.memory_bytes, memory, every
    )


def _wanted_work(peering: Peering) -> Iterator[tuple[str, Callable[[], Coroutine[Any, Any, None]]]]:
    """What runs as the configuration says."""
    if "stage" in peering.config.network.roles:
        yield "leases", peering.staging.host.run
    if "gateway" in peering.config.network.roles and peering.config.network.plan in ("auto", "pipeline"):
        yield "speeds of stages", peering.staging.speeds.run
    if "expert" in peering.config.network.roles:
        yield "use of experts", peering.demand.run
    if peering.redis is not None:
        yield "news by Redis", peering.redis.run


def _redis_gossip(url: str, swarm: str, peering: Peering) -> RedisGossip | None:
    """The stream that the nodes of a swarm share, where one is configured."""
    if not url:
        return None
    link = RedisLink(url, "network", "network.redis", limits.redis_look_seconds_max)
    links = peering.links
    return RedisGossip(link, swarm, peering.summary, links.told, links.pace.turn, peering.monotonic, peering.draw)


def _manifest_giver(holdings: Holdings, store: BlobStore) -> Handler:
    """Answers with the bytes of the manifest of a model that is hosted here, for each link one after the other."""

    async def give(_link: Link, message: Message) -> Message:
        asked = message.fields.get("manifest")
        if not isinstance(asked, str) or holdings.find(PayloadId(asked)) is None:
            raise NotFound("manifest: expected one of a model that is held here, found none")
        raw = await asyncio.to_thread(store.read, PayloadId(asked), bytes_max=limits.manifest_bytes_max)
        return Message({}, (WireTensor("manifest", "U8", (len(raw),), raw),))

    return Bulky(give)


def _not_local(call: ExpertCall) -> Fault:
    return ExpertUnavailable(
        f"layer {call.layer} expert {call.expert}: expected it here, for network.plan is local, found it is not held",
        detail={"layer": call.layer, "expert": call.expert},
        hint="hold it here, or let other nodes be asked: network.plan = auto",
    )
