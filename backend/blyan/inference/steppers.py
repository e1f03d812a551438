"""Who computes a model's steps: the plain stepper at once, the jitted one as soon as it is ready.

Ready means that its code is compiled (by another process, once per machine and way of storing weights), loaded, and
every block of the model verified: the jitted step chooses experts itself, so none of them may be unknown.
"""

from __future__ import annotations

import gc
import inspect
import logging
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from numpy.typing import NDArray
from torch import Tensor

from blyan.inference.engine import Offer
from blyan.inference.head_in_turn import OfferHead
from blyan.inference.job import attempted
from blyan.inference.network_step import Elsewhere, NetworkStepper
from blyan.model import jit_cache
from blyan.model.config import ModelConfig
from blyan.model.eager_step import EagerStepper
from blyan.model.loading import LoadedModel
from blyan.model.parts import expert_part, layer_part, part_position
from blyan.model.stage_step import EagerHead, EagerLayers, Head, OfferLayers, StagedModel
from blyan.model.stepping import KVPages, LayerStepper, Stepper
from blyan.model.weights import ModelWeights
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import Fault

_log = logging.getLogger(__name__)


def plain_stepper(model: LoadedModel, kv: KVPages, _offer: Offer) -> Stepper:
    """The plain one, which computes every model."""
    return EagerStepper(model.weights, model.manifest.config, kv)


Made: TypeAlias = Callable[[Callable[[], Any]], None]  # takes what makes the better one


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Jitted code to prepare. It keeps neither pages nor their engine alive: who is let go meanwhile is gone."""

    name: str
    weights: ModelWeights
    config: ModelConfig
    parts: tuple[str, ...]  # that must be here
    stored: int | None  # a layer that says how matrices are stored; None: as everything else
    dtype: torch.dtype
    kv: Callable[[], KVPages | None]  # gone with whoever wants it
    offer: Callable[[], Made | None]
    build: Callable[[KVPages, int, Monotonic], Any]
    resident: bool = True  # whether it computes only where all experts have a place in memory


def _weakly(offer: Made) -> Callable[[], Made | None]:
    return weakref.WeakMethod(offer) if inspect.ismethod(offer) else lambda: offer


class Mixture(Protocol):
    """Computes single experts in jitted code: `model/fused_mixture`, which is loaded when it is first wanted."""

    def answer(self, layer: int, experts: Sequence[int], rows: Sequence[int], hidden: Tensor) -> Tensor:
        """What each expert gives for its rows, [n, hidden]."""
        ...

    def has(self, layer: int, expert: int) -> bool:
        """Whether it computed with an expert before."""
        ...

    def close(self) -> None:
        """End its threads."""
        ...


class PreparedMixture:
    """The experts of one model in jitted code, as soon as it is ready; asked for by the first who wants one of them."""

    def __init__(
        self, steppers: SteppersInTurn, config: ModelConfig, dtype: torch.dtype, weights: ModelWeights
    ) -> None:
        self.config, self.dtype, self.weights = config, dtype, weights
        self._steppers = steppers
        self._ready: Mixture | None = None
        self._asked = self._closed = False

    def get(self, layer: int, expert: int) -> Mixture | None:
        """None while it is not ready, or where it cannot be. The expert is one that is here."""
        if not self._asked:
            self._asked = True
            self._steppers.prepare(self, (layer, expert))
        return self.ready

    @property
    def ready(self) -> Mixture | None:
        """What computes, if it may now."""
        return self._ready if self.weights.experts_all_resident else None

    def give(self, ready: Mixture) -> None:
        """It is ready."""
        self._ready = ready
        if self._closed:
            ready.close()

    def close(self) -> None:
        """Nobody asks any more."""
        self._closed = self._asked = True
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.close()


class SteppersInTurn:
    """Makes plain steppers and prepares jitted ones behind them, one after the other. `close` ends it."""

    def __init__(self, threads: int, monotonic: Monotonic, cache: Path | None = None) -> None:
        """`cache`: where compiled code is kept if not beside the package; None for the usual place in the home."""
        self._threads, self._monotonic = threads, monotonic
        if cache is not None:
            jit_cache.use_for_user(cache)
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._frozen: set[str] = set()  # code that was loaded: what runs now is not frozen with it again
        self.pending = 0  # models for which it is not decided yet who computes; for whoever wants to wait

    def make(self, model: LoadedModel, kv: KVPages, offer: Offer, elsewhere: Elsewhere | None = None) -> Stepper:
        """A stepper for now; a better one is offered when it is ready. `elsewhere`: where not all experts are here."""
        weights, config, parts = model.weights, model.manifest.config, tuple(model.manifest.parts)
        if elsewhere is not None:
            parts = tuple(part for part in parts if part_position(part)[1] is None)

        def build(kv: KVPages, threads: int, monotonic: Monotonic) -> Stepper:
            from blyan.inference.jitted_network_step import JittedNetworkStepper
            from blyan.model.fused_step import FusedStepper

            if elsewhere is not None:
                return JittedNetworkStepper(weights, config, kv, elsewhere, threads, monotonic)
            return FusedStepper(weights, config, kv, threads, monotonic)

        wanted = _Wanted(
            *(model.name, weights, config, parts, 0, kv.keys.dtype, weakref.ref(kv), _weakly(offer), build),
            resident=elsewhere is None,
        )
        self._later(partial(self._offer, wanted))
        if elsewhere is None:
            return plain_stepper(model, kv, offer)
        return NetworkStepper(weights, config, kv, elsewhere, self._monotonic)

    def make_layers(self, model: StagedModel, kv: KVPages, layers: range, offer: OfferLayers) -> LayerStepper:
        """The same of a stage's layers."""
        weights, config = model.weights, model.config

        def build(kv: KVPages, threads: int, monotonic: Monotonic) -> LayerStepper:
            from blyan.model.fused_stage import FusedLayers

            return FusedLayers(weights, config, kv, threads, monotonic, layers)

        trunk = (layer_part(layer) for layer in layers)
        moe = (layer for layer in layers if layer in config.moe_layers)
        parts = (*trunk, *(expert_part(layer, expert) for layer in moe for expert in range(config.experts)))
        name = f"{model.name} (layers {layers.start} to {layers.stop})"
        pages, where = weakref.ref(kv), _weakly(offer)
        wanted = _Wanted(name, weights, config, parts, layers.start, model.dtype, pages, where, build)
        self._later(partial(self._offer, wanted))
        return EagerLayers(weights, config, kv, layers)

    def make_head(self, model: StagedModel, kv: KVPages, offer: OfferHead) -> Head:
        """The same of what comes after the last layer; `kv` says for how long it is wanted."""
        weights, config, dtype = model.weights, model.config, model.dtype

        def build(_kv: KVPages, threads: int, monotonic: Monotonic) -> Head:
            from blyan.model.fused_stage import FusedHead

            return FusedHead(weights, config, dtype, threads, monotonic)

        name, pages = f"{model.name} (scores)", weakref.ref(kv)
        wanted = _Wanted(name, weights, config, ("head",), None, dtype, pages, _weakly(offer), build, resident=False)
        self._later(partial(self._offer, wanted))
        return EagerHead(weights, config)

    def prepare(self, mixture: PreparedMixture, sample: tuple[int, int]) -> None:
        """Give the experts of a model when they can be computed in jitted code. `sample`: layer and expert of one."""
        self._later(partial(self._give, mixture, sample))

    def close(self) -> None:
        """Prepare no more. A compilation under way is left to its process."""
        self._closing = True
        self._queue.put(None)

    def _later(self, work: Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="blyan-jit", daemon=True)
            self._thread.start()
        self.pending += 1
        self._queue.put(work)

    def _work(self) -> None:
        while self._next():  # whose names end with it: waiting for the next, this thread holds no pages
            pass

    def _next(self) -> bool:
        work = self._queue.get()
        if work is None or self._closing:
            return False
        reason = attempted(work)
        if reason is not None:  # the plain path goes on, and others are still prepared
            _log.error("jitted code could not be prepared", exc_info=reason)
        self.pending -= 1
        return True

    def _offer(self, wanted: _Wanted) -> None:
        try:
            make = self._prepared(wanted)
        except (Fault, OSError, RuntimeError) as reason:  # no compiler, no memory, a damaged block
            _log.warning("%s is computed by the plain path: %s", wanted.name, reason)
            return
        offer = wanted.offer()
        if make is not None and offer is not None:
            offer(make)

    def _give(self, mixture: PreparedMixture, sample: tuple[int, int]) -> None:
        from blyan.model.fused_mixture import FusedMixture
        from blyan.model.fused_step import obstacle, stored_as

        config, weights = mixture.config, mixture.weights
        try:
            if obstacle(config, mixture.dtype) is None and weights.experts_all_resident:
                stored = weights.expert(*sample)["gate_proj.weight"].dtype
                if self._compiled(stored_as(stored, mixture.dtype), "experts for peers"):
                    arguments = config, mixture.dtype, sample, self._threads, self._monotonic
                    mixture.give(FusedMixture(weights, *arguments))
        except (Fault, OSError, RuntimeError) as reason:
            _log.warning("experts for peers are computed by the plain path: %s", reason)

    def _compiled(self, kind: tuple[NDArray[Any], NDArray[Any]], what: str) -> bool:
        """Have jitted code in this process; False if it is not wanted any more."""
        from blyan.model.fused_compile import compile_apart, forget, load, name_of

        name = name_of(*kind)
        if not compile_apart(name):
            _log.info("the jitted step for %s is compiled in this process", name)
        if self._closing:
            return False
        reason = attempted(lambda: load(name))
        if reason is not None:  # whatever unpickling raises of what a power cut or a full disk left
            _log.warning("compiled code (%s) is damaged, and compiled again: %s", name, reason)
            forget()
            compile_apart(name)
            load(name)
        if name not in self._frozen:
            self._frozen.add(name)
            gc.freeze()  # the compiler's objects stay: a collection that looked through them would stop everybody
        _log.info("%s is computed by the jitted step (%s, %d threads)", what, name, self._threads)
        return True

    def _prepared(self, wanted: _Wanted) -> Callable[[], Any] | None:
        # imported here: numba takes half a second, and no node must wait for it
        from blyan.model.fused_step import kind_of, obstacle, stored_as

        weights, dtype = wanted.weights, wanted.dtype
        reason = obstacle(wanted.config, dtype)
        if reason is None and wanted.resident and not weights.experts_all_resident:
            reason = "its experts do not fit the budget"
        if reason is not None:
            _log.info("%s is computed by the plain path: %s", wanted.name, reason)
            return None
        kind = stored_as(dtype, dtype) if wanted.stored is None else kind_of(weights, dtype, wanted.stored)
        if not self._compiled(kind, wanted.name):
            return None
        for part in wanted.parts:
            if self._closing:
                return None
            weights.part(part)
        kv = wanted.kv()
        if kv is None:
            return None
        return lambda: wanted.build(kv, self._threads, self._monotonic)
