"""The jitted stepper: tables of addresses of a model's mapped weights, room for a step, and the threads that compute.

Weights stay where they are mapped; nothing is copied or converted. A file that changed since it was verified is noticed
after each step and before its results leave. Its numbers are those of the plain path up to the order of sums
(`tests/unit/test_fused_step.py` says how near), and one row's do not depend on the others, bit for bit.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blyan.model import fused_code, meeting
from blyan.model.argument_table import laid_out
from blyan.model.config import ModelConfig
from blyan.model.eager_step import EagerStepper
from blyan.model.fused_layout import EMBED
from blyan.model.fused_room import Angles, Room
from blyan.model.pace import Pace
from blyan.model.stepping import KVPages, Ready, Run, RunResult, nothing
from blyan.model.weight_tables import WeightTables, kinds, widened
from blyan.model.weights import ModelWeights
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import NotComputable

_dense: Final = (torch.float32, torch.bfloat16, torch.float16)
_patience: Final = 40_000  # looks for a next step before a thread sleeps: about a millisecond


def obstacle(config: ModelConfig, dtype: torch.dtype) -> str | None:
    """Why a model cannot be stepped here: the vectors need multiples of eight; None for all that is usual."""
    widths = {
        "hidden": (config.hidden, 8),
        "head_dim": (config.head_dim, 16),
        "expert_intermediate": (config.expert_intermediate, 8),
        "shared_intermediate": (config.shared_intermediate, 8),
        "dense_intermediate": (config.dense_intermediate if len(config.moe_layers) < config.layers else 0, 8),
    }
    for name, (width, unit) in widths.items():
        if width % unit:
            return f"{name}: expected a multiple of {unit}, found {width}"
    return None if dtype in _dense else f"dtype: expected one of {_dense}, found {dtype}"


def kind_of(weights: ModelWeights, dtype: torch.dtype, part: str = "layer.0") -> tuple[NDArray[Any], NDArray[Any]]:
    """How matrices are stored, by those of a part, and how everything else is, as `simd` names it."""
    matrix = weights.part(part).get("self_attn.q_proj.weight")
    return kinds[dtype if matrix is None else matrix.dtype], kinds[dtype]  # the head is stored as everything else


class FusedThreads:
    """What computes steps in jitted code with every expert mapped here: tables, room and threads. `close` ends them."""

    def __init__(
        self,
        weights: ModelWeights,
        config: ModelConfig,
        kv: KVPages,
        threads: int,
        monotonic: Monotonic,
        layers: range | None = None,
    ) -> None:
        """`layers`: as `WeightTables` has them."""
        reason = obstacle(config, kv.keys.dtype)
        assert reason is None, reason
        self._weights, self._config, self._kv = weights, config, kv
        self.threads = threads  # that compute, the caller's included
        self.shared = np.zeros(meeting.shared_numbers(threads), np.int64)  # through which the threads meet
        self._alone = np.zeros(meeting.shared_numbers(1), np.int64)  # when the caller's computes alone
        self._like = kinds[kv.keys.dtype]
        self._layers = layers
        self._tables = WeightTables(weights, config, layers)
        self._angles = Angles(config, kv.keys.dtype)
        self._room = Room(config, kv, self._tables, threads, rows=8, pages=64)
        self._lay_arguments()
        self._others = [_ComputeThread(self, thread) for thread in range(1, threads)]
        self._pace, self._monotonic = Pace(threads), monotonic

    def _stepped(self, runs: Sequence[Run], ready: Ready, hidden: Tensor | None = None) -> NDArray[np.float32]:
        """Compute a step; the scores [scored, vocab] that are asked for, and the rest lies in the room.

        With hidden states [N, hidden] a token is the number of a row of theirs. `NotComputable` if scores are not
        finite.
        """
        rows, scored = sum(len(run.tokens) for run in runs), sum(run.scored for run in runs)
        pages = sum(len(run.pages) for run in runs)
        if rows > self._room.rows or pages > self._room.pages:
            self._lay_tables(max(rows, self._room.rows), pages if pages <= self._room.pages else 2 * pages)
        scores = np.empty((scored, self._tables.vocab), np.float32)
        while True:
            if hidden is not None:
                self._room.places[EMBED] = hidden.data_ptr()
            angles = self._room.lay_out(runs, self._angles, scores)
            self._compute(rows, ready)
            ready = nothing
            del angles  # read until here
            if self._tables.unchanged(self._room.chosen, rows):
                break
            self._rest()  # one that is late reads the old tables yet
            self._tables = WeightTables(self._weights, self._config, self._layers)
            self._lay_tables(self._room.rows, self._room.pages)
        if self._room.bad[:scored].any():
            raise NotComputable("logits: expected finite numbers, found infinities or NaN (an overflow in this dtype?)")
        return scores

    def _compute(self, rows: int, ready: Ready) -> None:
        """All threads, or this one alone while that is quicker."""
        threads = self._pace.threads(rows)
        began = self._monotonic()
        if threads == self.threads:
            self._run(self.shared, threads, self.arguments, ready)
        else:
            self._run(self._alone, threads, self._arguments_alone, ready)
        self._pace.took(threads, rows, self._monotonic() - began)

    def _run(self, shared: NDArray[np.int64], threads: int, arguments: tuple[Any, ...], ready: Ready) -> None:
        fused_code.announce(shared)
        if threads > 1:
            for other in self._others:
                other.wake()
        try:
            ready()
        finally:  # whatever it raises: the step was announced, and must be over before the next is laid out
            fused_code.serve(0, threads, int(shared[meeting.GO]) - 1, 0, True, *arguments)

    def _lay_tables(self, rows: int, pages: int) -> None:
        """New room, once no other thread holds the old one."""
        self._rest()
        self._room = Room(self._config, self._kv, self._tables, self.threads, rows, max(pages, self._room.pages))
        self._lay_arguments()

    def _rest(self) -> None:
        for other in self._others:
            other.rest()

    def _lay_arguments(self) -> None:
        """What every thread is called with, whatever its number; and what one that computes alone is."""
        room, tables = self._room, self._tables
        arrays = (room.dims, tables.floats, tables.trunk, tables.experts, room.places, *room.work)
        types = tables.kind, self._like, widened(tables.kind)
        self.arguments = laid_out((self.shared, *arrays)), *types
        self._arguments_alone = laid_out((self._alone, *arrays)), *types

    def close(self) -> None:
        """End the other threads."""
        self.shared[meeting.STOP] = 1
        fused_code.announce(self.shared)
        for other in self._others:
            other.wake()
        for other in self._others:
            other.join()
        self._others.clear()  # they name this stepper, and it them


class FusedStepper(FusedThreads):
    """Computes steps of a whole model. Implements `stepping.Stepper`."""

    def __init__(
        self, weights: ModelWeights, config: ModelConfig, kv: KVPages, threads: int, monotonic: Monotonic
    ) -> None:
        super().__init__(weights, config, kv, threads, monotonic)
        self._plain = EagerStepper(weights, config, kv)

    def step(self, runs: Sequence[Run], ready: Ready = nothing) -> list[RunResult]:
        """See `stepping.Stepper`."""
        if not self._weights.experts_all_resident:  # a budget came with another model
            return self._plain.step(runs, ready)
        scores = self._stepped(runs, ready)
        return self._room.results(runs, scores)


class _ComputeThread:
    """One more thread of a stepper: looks out for steps for a while, then sleeps until the next one wakes it."""

    def __init__(self, stepper: FusedThreads, number: int) -> None:
        self._stepper, self._number = stepper, number
        self._asleep = False
        self._awake = threading.Event()
        self._resting = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"blyan-compute-{number}", daemon=True)
        self._seen = int(stepper.shared[meeting.GO])
        self._thread.start()

    def wake(self) -> None:
        """A step was announced."""
        if self._asleep:
            self._awake.set()

    def rest(self) -> None:
        """Return when it sleeps and has seen every step, so that the next one finds it with new arguments.

        One that sleeps and missed a step is on its way to it, and may have taken the old arguments.
        """
        while not self._asleep or self._seen != int(self._stepper.shared[meeting.GO]):
            self._resting.wait(0.001)

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join()

    def _work(self) -> None:
        stepper = self._stepper
        shared = stepper.shared
        while not shared[meeting.STOP]:
            self._asleep = True
            while int(shared[meeting.GO]) == self._seen:  # who was woken for a step that it has seen sleeps on
                self._awake.wait()
                self._awake.clear()
            self._asleep = False
            self._seen = int(
                fused_code.serve(self._number, stepper.threads, self._seen, _patience, False, *stepper.arguments)
            )
