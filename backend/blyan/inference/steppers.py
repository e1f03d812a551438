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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from blyan.inference.engine import Offer
from blyan.inference.stage_host import OfferLayers, StagedModel
from blyan.model import jit_cache
from blyan.model.config import ModelConfig
from blyan.model.eager_step import EagerStepper
from blyan.model.loading import LoadedModel
from blyan.model.parts import expert_part
from blyan.model.stage_step import EagerHead, EagerLayers, Head
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
    parts: tuple[str, ...]  # that it computes with, a layer's or the head's first: it says how matrices are stored
    dtype: torch.dtype
    kv: Callable[[], KVPages | None]  # gone with whoever wants it
    offer: Callable[[], Made | None]
    build: Callable[[KVPages, int, Monotonic], Any]


def _weakly(offer: Made) -> Callable[[], Made | None]:
    return weakref.WeakMethod(offer) if inspect.ismethod(offer) else lambda: offer


class SteppersInTurn:
    """Makes plain steppers and prepares jitted ones behind them, one after the other. `close` ends it."""

    def __init__(self, threads: int, monotonic: Monotonic, cache: Path | None = None) -> None:
        """`cache`: where compiled code is kept if not beside the package; None for the usual place in the home."""
        self._threads, self._monotonic = threads, monotonic
        if cache is not None:
            jit_cache.use_for_user(cache)
        self._queue: queue.SimpleQueue[_Wanted | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closing = False
        self.pending = 0  # models for which it is not decided yet who computes; for whoever wants to wait

    def make(self, model: LoadedModel, kv: KVPages, offer: Offer) -> Stepper:
        """A stepper for now; a better one is offered when it is ready."""
        weights, config, parts = model.weights, model.manifest.config, tuple(model.manifest.parts)

        def build(kv: KVPages, threads: int, monotonic: Monotonic) -> Stepper:
            from blyan.model.fused_step import FusedStepper

            return FusedStepper(weights, config, kv, threads, monotonic)

        first = ("layer.0", *(part for part in parts if part != "layer.0"))
        self._prepare(
            _Wanted(model.name, weights, config, first, kv.keys.dtype, weakref.ref(kv), _weakly(offer), build)
        )
        return plain_stepper(model, kv, offer)

    def make_layers(self, model: StagedModel, kv: KVPages, layers: range, offer: OfferLayers) -> LayerStepper:
        """The same of a stage's layers."""
        weights, config = model.weights, model.config

        def build(kv: KVPages, threads: int, monotonic: Monotonic) -> LayerStepper:
            from blyan.model.fused_stage import FusedLayers

            return FusedLayers(weights, config, kv, threads, monotonic, layers)

        trunk = [f"layer.{layer}" for layer in layers]
        moe = [layer for layer in layers if layer in config.moe_layers]
        parts = (*trunk, *(expert_part(layer, expert) for layer in moe for expert in range(config.experts)))
        name = f"{model.name} (layers {layers.start} to {layers.stop})"
        self._prepare(_Wanted(name, weights, config, parts, model.dtype, weakref.ref(kv), _weakly(offer), build))
        return EagerLayers(weights, config, kv, layers)

    def make_head(self, model: LoadedModel, kv: KVPages, offer: Callable[[Callable[[], Head]], None]) -> Head:
        """The same of what comes after the last layer; `kv` says for how long it is wanted."""
        weights, config, dtype = model.weights, model.manifest.config, kv.keys.dtype

        def build(_kv: KVPages, threads: int, monotonic: Monotonic) -> Head:
            from blyan.model.fused_stage import FusedHead

            return FusedHead(weights, config, dtype, threads, monotonic)

        name = f"{model.name} (scores)"
        self._prepare(_Wanted(name, weights, config, ("head",), dtype, weakref.ref(kv), _weakly(offer), build))
        return EagerHead(weights, config)

    def _prepare(self, wanted: _Wanted) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="blyan-jit", daemon=True)
            self._thread.start()
        self.pending += 1
        self._queue.put(wanted)

    def close(self) -> None:
        """Prepare no more. A compilation under way is left to its process."""
        self._closing = True
        self._queue.put(None)

    def _work(self) -> None:
        while self._next():  # whose names end with it: waiting for the next, this thread holds no pages
            pass

    def _next(self) -> bool:
        wanted = self._queue.get()
        if wanted is None or self._closing:
            return False
        try:
            make = self._prepared(wanted)
        except (Fault, OSError, RuntimeError) as reason:  # no compiler, no memory, a damaged block
            _log.warning("%s is computed by the plain path: %s", wanted.name, reason)
        else:
            offer = wanted.offer()
            if make is not None and offer is not None:
                offer(make)
        self.pending -= 1
        return True

    def _prepared(self, wanted: _Wanted) -> Callable[[], Any] | None:
        # imported here: numba takes half a second, and no node must wait for it
        from blyan.model.fused_compile import compile_apart, load, name_of
        from blyan.model.fused_step import kind_of, obstacle

        weights = wanted.weights
        reason = obstacle(wanted.config, wanted.dtype)
        if reason is not None or not weights.experts_all_resident:
            _log.info(
                "%s is computed by the plain path: %s", wanted.name, reason or "its experts do not fit the budget"
            )
            return None
        name = name_of(*kind_of(weights, wanted.dtype, wanted.parts[0]))
        if not compile_apart(name):
            _log.info("the jitted step for %s is compiled in this process", name)
        if self._closing:
            return None
        load(name)
        gc.freeze()  # the compiler's objects stay: a collection that looked through them would stop everybody
        for part in wanted.parts:
            if self._closing:
                return None
            weights.part(part)
        kv = wanted.kv()
        if kv is None:
            return None
        _log.info("%s is computed by the jitted step (%s, %d threads)", wanted.name, name, self._threads)
        return lambda: wanted.build(kv, self._threads, self._monotonic)
