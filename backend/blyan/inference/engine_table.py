"""The engines of the models that are asked, and how they share the memory for keys and values.

Each model that the node offers has an equal share, so that none waits for another's memory. An engine is made when its
model is first asked, and again when the share has changed and it has nothing to do. A model that is offered no more
keeps its memory while it answers, until others wait for long: then it ends in half of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from blyan.inference.engine import Engine, MakeStepper, NotedExperts, page_bytes, page_count, unnoted
from blyan.inference.sequence import pages_for
from blyan.model.loading import LoadedModel
from blyan.model.stepping import page_positions
from blyan.primitives import limits
from blyan.primitives.errors import ContextLengthExceeded, InvalidInput
from blyan.storage.mapping import trim_heap

_Key: TypeAlias = tuple[int, bool]  # identity of the weights, which the engine keeps alive; whether stages compute


def too_long_for_memory(most: int, tokens: int) -> ContextLengthExceeded:
    """The fault of a prompt and answer that memory for `most` positions can never hold."""
    return ContextLengthExceeded(
        f"memory: expected at most {max(0, most - 1)} tokens of prompt and answer together, found {tokens}",
        hint="ask for fewer, or give the node more memory for keys and values: inference.kv_memory",
        detail={"context_length": max(0, most - 1)},
    )


def least_pages(model: LoadedModel) -> int:
    """Pages of a sequence of 256 tokens (or of the model's context), below which an engine is of no use."""
    return pages_for(min(limits.sequence_tokens_min, model.manifest.config.context_length) + 1)


def want_memory(kv_bytes: int, models: Sequence[LoadedModel], lent: int = 0) -> None:
    """`InvalidInput` if a model's share of `kv_bytes` holds no sequence of 256 tokens (or of the model's context).

    `lent`: what others get of the memory that is configured.
    """
    wants = {model.name: len(models) * page_bytes(model) * least_pages(model) for model in models}
    name, most = max(wants.items(), key=lambda each: each[1], default=("", 0))
    if kv_bytes < most:
        most = -(-most * (kv_bytes + lent) // kv_bytes)
        raise InvalidInput(
            f"inference.kv_memory: expected at least {most} bytes, found {kv_bytes + lent}",
            hint=f"{name} needs that for {limits.sequence_tokens_min} tokens, with the same share for each of "
            f"{len(models)} models: set {-(-most // limits.MIB)}MiB or more",
        )


@dataclass(frozen=True, slots=True)
class PageUsage:
    """Pages of all engines together."""

    used: int  # by generations that run
    kept: int  # for prompts that begin alike
    blank: int
    reused_positions: int  # since the start


class Computing(NamedTuple):
    """How a model is computed now."""

    jitted: bool = False  # by code that nothing quicker takes over
    waited_s: float = 0.0  # for experts on other nodes, since that code began


class EngineTable:
    """Engines by model. The compute thread's alone, but for `positions_max`."""

    def __init__(
        self,
        kv_bytes: int,
        models: Callable[[], int],
        make_stepper: MakeStepper,
        offers: Callable[[LoadedModel], bool] = lambda _: True,
        noted: NotedExperts = unnoted,
        make_staged: MakeStepper | None = None,
    ) -> None:
        """`make_staged`: who computes a model through stages, beside whoever `make_stepper` makes."""
        self._kv_bytes = kv_bytes
        self._models = models
        self._offers = offers
        self._make, self._noted, self._make_staged = make_stepper, noted, make_staged
        self._reused = 0  # positions, by engines that are no more
        self._engines: dict[_Key, Engine] = {}

    def __iter__(self) -> Iterator[Engine]:
        return iter(list(self._engines.values()))

    @property
    def share(self) -> int:
        """Bytes for one model."""
        return self._kv_bytes // max(1, self._models())

    def positions_max(self, model: LoadedModel) -> int:
        """How long a sequence of this model may be. From any thread."""
        return page_count(model, self.share) * page_positions

    def standing(self, model: LoadedModel, tokens: Sequence[int], *, staged: bool = False) -> int:
        """How many tokens at the front of a prompt need not be computed, as things stand. From any thread."""
        found = self._engines.get((id(model.weights), staged))
        return 0 if found is None else found.pool.standing(tokens, share=found.alike)

    def computing(self, model: LoadedModel) -> Computing:
        """By which code a model is computed, and how long it waited so far. From any thread."""
        found = self._engines.get((id(model.weights), False))
        if found is None:
            return Computing()
        waits = found.waits
        waited_s = 0.0 if waits is None or waits.plan != "dynamic" else waits.waited_s
        return Computing(found.jitted or found.leased is not None, waited_s)  # by stages: their code is theirs

    def engine(self, model: LoadedModel, positions: int = 0, *, staged: bool = False) -> Engine | None:
        """The engine of a model; None as long as others hold the memory that is its share.

        While a removed model answers yet, what it leaves is taken, if that holds more than `positions`.
        """
        if staged:
            return self._staged(model)
        found = self._engines.get((id(model.weights), False))
        share = self.share if found is None else self._target(found)
        if found is not None and (found.kv_bytes == share or not found.idle):
            return found
        if found is not None and found.kv_bytes < share and not self.may_grow(found):
            return found  # what has become its share is still held by a model that was removed and answers yet
        for key, engine in list(self._engines.items()):
            if engine.idle and not engine.staged and (engine.kv_bytes > self.share or engine is found):
                self._drop(key)
        if self._held + share > self._kv_bytes:
            self._drop_idle()
        left = self._kv_bytes - self._held
        least = max(least_pages(model), pages_for(positions + 1))
        if left < share and not (any(other.limit for other in self) and page_count(model, left) >= least):
            return None
        made = self._engines[id(model.weights), False] = Engine(model, min(left, share), self._make, self._noted)
        made.limit = None if found is None else found.limit
        return made

    def make_room(self) -> bool:
        """Let those that are offered no more end in half of their memory; whether any will.

        Not where half could be too little for an answer that was promised.
        """
        found = [
            engine
            for engine in self
            if engine.limit is None
            and not engine.staged
            and not engine.idle
            and not self._offers(engine.model)
            and self.holds_any(engine.model, engine.kv_bytes // 2)
        ]
        for engine in found:
            engine.limit = engine.kv_bytes // 2
        return bool(found)

    def holds_any(self, model: LoadedModel, kv_bytes: int) -> bool:
        """Whether every sequence that the model can have fits so much memory."""
        return page_count(model, kv_bytes) * page_positions > model.manifest.config.context_length

    def may_move(self, engine: Engine) -> bool:
        """Whether what runs in an engine can go on in the one that comes in its place."""
        target = self._target(engine)
        return target > engine.kv_bytes or self.holds_any(engine.model, target)

    def unload(self, model: LoadedModel) -> None:
        """Give back what a model takes, unless it has something to do: pages, stepper, mapped weights, hot experts."""
        keys = [key for key in ((id(model.weights), False), (id(model.weights), True)) if key in self._engines]
        if not all(self._engines[key].idle for key in keys):
            return
        for key in keys:
            self._drop(key)
        model.weights.cool()
        trim_heap()

    def close(self) -> None:
        """Let go of everything."""
        for key in list(self._engines):
            self._drop(key)

    def usage(self) -> PageUsage:
        """How pages are used. From any thread; numbers of a moment."""
        pools = [engine.pool for engine in self]
        free, kept = sum(pool.free for pool in pools), sum(pool.kept for pool in pools)
        reused = self._reused + sum(pool.counters.reused_positions for pool in pools)
        return PageUsage(sum(pool.pages for pool in pools) - free, kept, free - kept, reused)

    def outgrown(self, engine: Engine) -> bool:
        """Whether an engine holds more than its share, so that it admits nobody and ends."""
        return not engine.staged and engine.kv_bytes > self._target(engine)

    def may_grow(self, engine: Engine) -> bool:
        """Whether an engine that has less than its share would have all of it if it were made again."""
        share = self._target(engine)
        if engine.staged:
            return False
        others = (other for other in self if other is not engine and not other.staged)
        held = sum(other.kv_bytes for other in others if not other.idle)
        return engine.kv_bytes < share and held + share <= self._kv_bytes

    @property
    def _held(self) -> int:
        return sum(engine.kv_bytes for engine in self._engines.values() if not engine.staged)

    def _target(self, engine: Engine) -> int:
        return self.share if engine.limit is None else min(self.share, engine.limit)

    def _staged(self, model: LoadedModel) -> Engine:
        """The engine of what goes through stages: it takes no memory here, however many pages it counts."""
        assert self._make_staged is not None, "a node with peers"
        key = id(model.weights), True
        found = self._engines.get(key)
        if found is not None and (found.kv_bytes == self.share or not found.idle):
            return found
        if found is not None:
            self._drop(key)
        made = self._engines[key] = Engine(model, self.share, self._make_staged, self._noted)
        made.staged = True
        return made

    def _drop(self, key: _Key) -> None:
        engine = self._engines.pop(key)
        engine.close()
        self._reused += engine.pool.counters.reused_positions

    def _drop_idle(self) -> None:
        for key, engine in list(self._engines.items()):
            if engine.idle and not engine.staged:
                self._drop(key)
