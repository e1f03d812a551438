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
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from blyan.inference.engine import Offer
from blyan.inference.network_step import Elsewhere, NetworkStepper
from blyan.model import jit_cache
from blyan.model.config import ModelConfig
from blyan.model.eager_step import EagerStepper
from blyan.model.loading import LoadedModel
from blyan.model.parts import part_position
from blyan.model.stepping import KVPages, Stepper
from blyan.model.weights import ModelWeights
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import Fault

_log = logging.getLogger(__name__)


def plain_stepper(model: LoadedModel, kv: KVPages, _offer: Offer) -> Stepper:
    """The plain one, which computes every model."""
    return EagerStepper(model.weights, model.manifest.config, kv)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A stepper to prepare. It keeps neither pages nor their engine alive: who is let go meanwhile is gone."""

    model: LoadedModel
    kv: Callable[[], KVPages | None]
    dtype: torch.dtype
    offer: Callable[[], Offer | None]
    elsewhere: Elsewhere | None  # who computes what is not here

    @classmethod
    def of(cls, model: LoadedModel, kv: KVPages, offer: Offer, elsewhere: Elsewhere | None) -> _Wanted:
        """With weak references."""
        weak = weakref.WeakMethod(offer) if inspect.ismethod(offer) else lambda: offer
        return cls(model, weakref.ref(kv), kv.keys.dtype, weak, elsewhere)


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
        self.pending = 0  # models for which it is not decided yet who computes; for whoever wants to wait

    def make(self, model: LoadedModel, kv: KVPages, offer: Offer, elsewhere: Elsewhere | None = None) -> Stepper:
        """A stepper for now; a better one is offered when it is ready. `elsewhere`: where not all experts are here."""
        self._later(partial(self._offer, _Wanted.of(model, kv, offer, elsewhere)))
        if elsewhere is None:
            return plain_stepper(model, kv, offer)
        return NetworkStepper(model.weights, model.manifest.config, kv, elsewhere, self._monotonic)

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
        work()
        self.pending -= 1
        return True

    def _offer(self, wanted: _Wanted) -> None:
        try:
            make = self._prepared(wanted)
        except (Fault, OSError, RuntimeError) as reason:  # no compiler, no memory, a damaged block
            _log.warning("%s is computed by the plain path: %s", wanted.model.name, reason)
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
        from blyan.model.fused_compile import compile_apart, load, name_of

        name = name_of(*kind)
        if not compile_apart(name):
            _log.info("the jitted step for %s is compiled in this process", name)
        if self._closing:
            return False
        load(name)
        gc.freeze()  # the compiler's objects stay: a collection that looked through them would stop everybody
        _log.info("%s is computed by the jitted step (%s, %d threads)", what, name, self._threads)
        return True

    def _prepared(self, wanted: _Wanted) -> Callable[[], Stepper] | None:
        # imported here: numba takes half a second, and no node must wait for it
        from blyan.inference.jitted_network_step import JittedNetworkStepper
        from blyan.model.fused_step import FusedStepper, kind_of, obstacle

        model, config = wanted.model, wanted.model.manifest.config
        weights, elsewhere, threads, monotonic = model.weights, wanted.elsewhere, self._threads, self._monotonic
        reason = obstacle(config, wanted.dtype)
        if reason is None and elsewhere is None and not weights.experts_all_resident:
            reason = "its experts do not fit the budget"
        if reason is not None:
            _log.info("%s is computed by the plain path: %s", model.name, reason)
            return None
        if not self._compiled(kind_of(weights, wanted.dtype), model.name):
            return None
        for part in model.manifest.parts:
            if self._closing:
                return None
            if elsewhere is None or part_position(part)[1] is None:
                weights.part(part)
        kv = wanted.kv()
        if kv is None:
            return None
        if elsewhere is not None:
            return lambda: JittedNetworkStepper(weights, config, kv, elsewhere, threads, monotonic)
        return lambda: FusedStepper(weights, config, kv, threads, monotonic)
