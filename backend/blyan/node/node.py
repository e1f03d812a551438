"""The node: constructs what serves, in order, and supervises it.

A model whose trunk is damaged does not stop the node: it is listed with the reason, requests for it are refused, and
the other models work.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from blyan.inference.engine import Offer
from blyan.inference.engine_table import want_memory
from blyan.inference.scheduler import Scheduler, Setting
from blyan.inference.steppers import SteppersInTurn
from blyan.model.chat_template import TemplateRenderer
from blyan.model.expert_memory import ExpertMemory
from blyan.model.loading import LoadedModel, load_model
from blyan.model.stepping import KVPages, Stepper
from blyan.model.stored_part import naming
from blyan.node.accounts import Accounts, open_accounts
from blyan.node.answering import Answering
from blyan.node.books import NodeBooks, open_books
from blyan.node.catalogue import manifest_of, no_such_model
from blyan.node.charges import Charges, open_charges
from blyan.node.config import NodeConfig, cache_dir_from_environment
from blyan.node.holdings import read_wanted
from blyan.node.indexing import catch_up, open_index
from blyan.node.kept import KeptModels
from blyan.node.machine import memory_limit, stand_back
from blyan.node.metrics import Metrics
from blyan.node.peering import Peering
from blyan.node.planning import Planning
from blyan.node.uploads import Uploads
from blyan.node.verified import verify_loaded
from blyan.node.writer import WritableGround
from blyan.primitives.clock import Entropy, Monotonic, UnixSeconds
from blyan.primitives.errors import Fault, InternalError, Unavailable
from blyan.primitives.model_name import canonical_name
from blyan.storage.index import EntryIndex

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sources:
    """Clock and chance, handed down from the edge of the process."""

    now: UnixSeconds
    monotonic: Monotonic
    entropy: Entropy

    def draw(self) -> float:
        """A number in [0, 1)."""
        return int.from_bytes(self.entropy(4), "little") / (1 << 32)


@dataclass(frozen=True, slots=True)
class RefusedModel:
    """A model of the chain that cannot be served, and why."""

    name: str
    reason: Fault


class Node:
    """One running node. Construct, `start`, serve, `close`."""

    def __init__(self, config: NodeConfig, ground: WritableGround, sources: Sources) -> None:
        self.config = config
        self.ground = ground
        self.sources = sources
        self.accounts: Accounts | None = None  # open while the node runs, if they are configured
        self.books: NodeBooks | None = None  # open while the node runs, if it has accounts
        self.charges: Charges | None = None  # open while the node runs, if it has accounts
        self.index: EntryIndex | None = None  # open while the node runs
        self.models: dict[str, LoadedModel | RefusedModel] = {}
        self.renderer = TemplateRenderer(sources.now)
        budget = config.inference.expert_bytes
        self.expert_memory = None if budget is None else ExpertMemory(budget, sources.monotonic)
        self.metrics = Metrics(self)
        kv_bytes = config.inference.kv_bytes
        whole = memory_limit() // 4 if kv_bytes is None else kv_bytes
        self._kv_lent = config.network.lent(whole)
        self._kv_bytes = whole - self._kv_lent
        threads = config.compute.threads or torch.get_num_threads()
        self._steppers = SteppersInTurn(threads, sources.monotonic, cache_dir_from_environment())
        chance = sources.now, sources.monotonic, sources.entropy
        parts = self._steppers, self._kv_lent, self.expert_memory
        self.peering = Peering(config, ground, *chance, *parts) if config.network.listen else None
        self.planning = Planning(self.peering, config.inference.rules, sources.monotonic, sources.draw)
        choose = partial(_stepper, self, self._steppers)
        told = partial(_noted, self), partial(_staged, self), partial(stand_back, config.compute.nice)
        self.scheduler = Scheduler(
            Setting(self._kv_bytes, config.inference.rules, choose, *told),
            sources.monotonic,
            models=lambda: len(self._loaded),
            offers=lambda model: self.models.get(model.name) is model,
            watch=self.metrics,
            timed=self.planning.steps.add,
        )
        steps = self.planning.steps
        self.answering = Answering(self.scheduler, self.peering, lambda: self._loaded, steps.add)
        self.planning.delegate = self.answering.delegate
        self.kept = KeptModels(sources.now, self.scheduler.unload)
        self.uploads = Uploads(ground.folder, ground.store, sources.now)
        self._closing = threading.Event()
        self._changing = threading.Lock()  # held while models are made or taken away
        self._verifier = threading.Thread(target=self._verify_experts, name="blyan-verify", daemon=True)

    def start(self) -> None:
        """Load every model of the chain and begin to verify the rest of its blocks in the background.

        `InvalidInput` if keys and values have too little memory for what was loaded.
        """
        if self.config.compute.threads:
            torch.set_num_threads(self.config.compute.threads)
        sources = self.sources
        self.accounts = open_accounts(
            self.config, now=sources.now, monotonic=sources.monotonic, entropy=sources.entropy
        )
        self.books = open_books(self.config, self.ground, sources.now)
        if self.books is not None:
            self.charges = open_charges(self.config, self.ground, self.books, sources.now, sources.entropy)
        self.uploads.sweep(starting=True)
        self.index = open_index(self.ground.folder, self.ground.chains)
        held = read_wanted(self.ground.folder, self.ground.chains.state.withdrawn)
        for name in sorted(self.ground.chains.state.models):
            version = self.ground.chains.state.current(name)
            if version is None or version.manifest not in held or held[version.manifest].trunk:
                self.models[name] = self._load(name)
        if self.peering is not None:
            self.peering.host_held(held)
        want_memory(self._kv_bytes, self._loaded if self._kv_bytes else (), self._kv_lent)
        if self.peering is not None:
            self.peering.start()
        if self.config.storage.verify_at_start:
            self._verifier.start()

    def model(self, name: str) -> LoadedModel:
        """The model of that name; `NotFound`, or the reason why it is refused."""
        name = canonical_name(name)
        found = self.models.get(name)
        if found is None:
            raise no_such_model(name, self.models)
        if isinstance(found, RefusedModel):
            found = self.models[name] = self._load(name)  # it may have been repaired since
        if isinstance(found, RefusedModel):
            raise found.reason
        return found

    def model_at_once(self, name: str) -> LoadedModel | None:
        """The same where it needs no work, for who cannot wait; None where `model` says more."""
        found = self.models.get(canonical_name(name))
        return found if isinstance(found, LoadedModel) else None

    @contextmanager
    def changing(self) -> Generator[WritableGround, None, None]:
        """The right to change which models there are, for one thread at a time; `Unavailable` while another has it."""
        if not self._changing.acquire(blocking=False):
            raise Unavailable(
                "models: expected nobody else changing them, found a change under way",
                hint="try again when it has ended",
            )
        try:
            self.want_open()
            yield self.ground
        finally:
            self._changing.release()

    def want_open(self) -> None:
        """`Unavailable` once the node is closing: what takes long asks now and then."""
        if self._closing.is_set():
            raise Unavailable("node: expected it running, found it shutting down", hint="ask again when it has started")

    def loaded(self, name: str) -> LoadedModel | RefusedModel | None:
        """A model as the chain has it now, for `adopt`; None if it is offered no more."""
        if self.index is not None:
            catch_up(self.index, self.ground.chains)
        return None if self.ground.chains.state.current(name) is None else self._load(name)

    def adopt(self, name: str, model: LoadedModel | RefusedModel | None) -> None:
        """Serve a model from now on, or no more. Answers that are under way keep the one they began with.

        For the thread of the event loop: whoever reads `models` there sees all of a change or nothing.
        """
        if self.models.get(name) is not model:
            self.kept.forget(name)
        if self.peering is not None and self.ground.chains.state.withdrawn(name):
            self.peering.leaving.withdrawn(name)
        others = {other: each for other, each in self.models.items() if other != name}
        self.models = others if model is None else {**others, name: model}

    def refused(self) -> dict[str, Fault]:
        """The models that cannot be served, with the reason: refused when loaded, or damaged in the trunk since."""
        reasons = {name: self._known_damage(model) for name, model in self.models.items()}
        return {name: reason for name, reason in reasons.items() if reason is not None}

    def ready(self) -> None:
        """Raise the reason why this node cannot serve any model now."""
        if not self.models:
            if self.peering is None:
                raise Unavailable("node: expected at least one model, found none", hint="run `blyan init`")
            self.peering.ready()
            return
        refused = self.refused()
        if len(refused) == len(self.models):
            raise next(iter(refused.values()))

    def close(self) -> None:
        """Stop computing and end what was started."""
        self._closing.set()
        self._steppers.close()
        self.scheduler.close()
        if self.peering is not None:
            self.peering.close()
        with self._changing:  # a change under way has seen it, and left things as a crash may leave them
            pass
        self.renderer.close()
        if self._verifier.is_alive():
            self._verifier.join()
        if self.expert_memory is not None:
            self.expert_memory.close()
        if self.charges is not None:
            self.charges.close()
        if self.books is not None:
            self.books.close_unused()
        if self.index is not None:
            self.index.close()
            self.index = None

    @property
    def _loaded(self) -> list[LoadedModel]:
        return [model for model in self.models.values() if isinstance(model, LoadedModel)]

    def _known_damage(self, model: LoadedModel | RefusedModel) -> Fault | None:
        if isinstance(model, RefusedModel):
            return model.reason
        for part, payload in model.trunk.items():
            _, fault = self.ground.store.state(payload)
            if fault is not None:
                return naming(model.name, part, fault)
        return None

    def _load(self, name: str) -> LoadedModel | RefusedModel:
        version = self.ground.chains.state.current(name)
        assert version is not None, "listed in the state"
        try:
            manifest_of(self.ground, version)
            model = load_model(self.ground.store, version.manifest, self.expert_memory)
            if self.peering is not None:
                self.peering.serve(model)
            return model
        except Fault as reason:
            _log.error("model %s is refused: %s", name, reason.message)
            return RefusedModel(name, reason)

    def _verify_experts(self) -> None:
        """Touch every expert that is here once, so that damage shows before somebody asks."""
        loaded = [model for model in self.models.values() if isinstance(model, LoadedModel)]
        here = None if self.peering is None else self.peering.holdings.expected
        try:
            verify_loaded(self.ground.folder, loaded, here, self._closing.is_set, self.sources.now)
        except Exception:  # noqa: BLE001 - task boundary: verification in the background must not end silently
            _log.exception("background verification stopped: %s", InternalError.code)


def _stepper(node: Node, steppers: SteppersInTurn, model: LoadedModel, kv: KVPages, offer: Offer) -> Stepper:
    """Who computes a model: with others, where experts of it are elsewhere, or all of its layers."""
    peering = node.peering
    if peering is not None and node.config.network.plan == "pipeline":
        return peering.staging.stepper(model, kv)
    return steppers.make(model, kv, offer, None if peering is None else peering.elsewhere(model))


def _staged(node: Node, model: LoadedModel, kv: KVPages, _offer: Offer) -> Stepper:
    """Who computes what goes through stages, of a model that is otherwise computed here."""
    assert node.peering is not None, "a node with peers"
    return node.peering.staging.stepper(model, kv)


def _noted(node: Node, model: LoadedModel, chosen: NDArray[np.int32]) -> None:
    """Which experts a step chose, for whoever holds them."""
    if node.peering is not None:
        node.peering.demand.note(model.manifest_id, chosen)
