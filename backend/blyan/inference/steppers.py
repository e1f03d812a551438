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

import torch

from blyan.inference.engine import Offer
from blyan.model import jit_cache
from blyan.model.eager_step import EagerStepper
from blyan.model.loading import LoadedModel
from blyan.model.stepping import KVPages, Stepper
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

    @classmethod
    def of(cls, model: LoadedModel, kv: KVPages, offer: Offer) -> _Wanted:
        """With weak references."""
        weak = weakref.WeakMethod(offer) if inspect.ismethod(offer) else lambda: offer
        return cls(model, weakref.ref(kv), kv.keys.dtype, weak)


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
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="blyan-jit", daemon=True)
            self._thread.start()
        self.pending += 1
        self._queue.put(_Wanted.of(model, kv, offer))
        return plain_stepper(model, kv, offer)

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
            _log.warning("%s is computed by the plain path: %s", wanted.model.name, reason)
        else:
            offer = wanted.offer()
            if make is not None and offer is not None:
                offer(make)
        self.pending -= 1
        return True

    def _prepared(self, wanted: _Wanted) -> Callable[[], Stepper] | None:
        # imported here: numba takes half a second, and no node must wait for it
        from blyan.model.fused_compile import compile_apart, load, name_of
        from blyan.model.fused_step import FusedStepper, kind_of, obstacle

        model, config = wanted.model, wanted.model.manifest.config
        reason = obstacle(config, wanted.dtype)
        if reason is not None or not model.weights.experts_all_resident:
            _log.info("%s is computed by the plain path: %s", model.name, reason or "its experts do not fit the budget")
            return None
        kind, like = kind_of(model.weights, wanted.dtype)
        name = name_of(kind, like)
        if not compile_apart(name):
            _log.info("the jitted step for %s is compiled in this process", name)
        if self._closing:
            return None
        load(name)
        gc.freeze()  # the compiler's objects stay: a collection that looked through them would stop everybody
        for part in model.manifest.parts:
            if self._closing:
                return None
            model.weights.part(part)
        kv = wanted.kv()
        if kv is None:
            return None
        _log.info("%s is computed by the jitted step (%s, %d threads)", model.name, name, self._threads)
        return lambda: FusedStepper(model.weights, config, kv, self._threads, self._monotonic)
