"""The threads that compute a model's steps in jitted code, the room that they compute in, and their arguments.

One thread calls; the others look out for steps for a while and then sleep. `fused_step`, `fused_mixture` and
`inference/network_step` say what is computed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from blyan.model import fused_code, meeting
from blyan.model.argument_table import laid_out
from blyan.model.config import ModelConfig
from blyan.model.fused_layout import scores_of
from blyan.model.fused_room import Room
from blyan.model.pace import Pace
from blyan.model.stepping import KVPages, Ready, nothing
from blyan.model.weight_tables import WeightTables, kinds, widened
from blyan.model.weights import ModelWeights
from blyan.primitives.clock import Monotonic

_few: Final = 4  # rows: what is done to each of so many takes less than meeting for it


class FusedTeam:
    """Threads over the parts of a model that are `held`. `close` ends them."""

    def __init__(
        self,
        weights: ModelWeights,
        config: ModelConfig,
        kv: KVPages,
        threads: int,
        monotonic: Monotonic,
        *,
        dtype: torch.dtype,
        held: Callable[[str], bool] = lambda _: True,
        patience: int = 40_000,
    ) -> None:
        """`dtype`: of hidden states, and of everything that is not a matrix. `patience`: looks for a next step before a
        thread sleeps; as many as there are by default take a millisecond.
        """
        self.patience = patience
        self._weights, self._config, self._kv, self._held = weights, config, kv, held
        self.threads = threads  # that compute, the caller's included
        self.shared = np.zeros(meeting.shared_numbers(threads), np.int64)  # through which the threads meet
        self._alone = np.zeros(meeting.shared_numbers(1), np.int64)  # when the caller's computes alone
        self._like = kinds[dtype]
        self.tables = WeightTables(weights, config, held)
        self.room = Room(config, kv, self.tables, threads, rows=8, pages=64)
        self._lay_arguments()
        self._others = [_ComputeThread(self, thread) for thread in range(1, threads)]
        self.pace, self._monotonic = Pace(threads), monotonic

    def make_room(self, rows: int, pages: int) -> None:
        """Room for a step of so many rows and entries of page tables."""
        if rows > self.room.rows or pages > self.room.pages:
            self._lay_tables(max(rows, self.room.rows), pages if pages <= self.room.pages else 2 * pages)

    def map_again(self) -> None:
        """Compute with what the parts are now."""
        self._rest()  # one that is late reads the old tables yet
        self.tables = WeightTables(self._weights, self._config, self._held)
        self._lay_tables(self.room.rows, self.room.pages)

    def compute(self, rows: int, ready: Ready = nothing) -> None:
        """A whole step that is laid out in the room, by all threads, or this one alone while that is quicker."""
        self.stretch(0, scores_of(self._config.layers) + 1, rows, ready, self.pace)

    def stretch(self, begin: int, end: int, rows: int, ready: Ready, pace: Pace) -> None:
        """The parts `begin` … `end` - 1 of a step (`fused_layout`); `pace` is of such stretches."""
        threads = pace.threads(rows)
        began = self._monotonic()
        if threads == self.threads:
            self._run(self.shared, (begin, end, int(rows <= _few)), threads, self.arguments, ready)
        else:
            self._run(self._alone, (begin, end, 1), threads, self._arguments_alone, ready)
        pace.took(threads, rows, self._monotonic() - began)

    def close(self) -> None:
        """End the other threads."""
        self.shared[meeting.STOP] = 1
        fused_code.announce(self.shared, 0, 0, 0)
        for other in self._others:
            other.wake()
        for other in self._others:
            other.join()
        self._others.clear()  # they name this team, and it them

    def _run(
        self,
        shared: NDArray[np.int64],
        parts: tuple[int, int, int],
        threads: int,
        arguments: tuple[Any, ...],
        ready: Ready,
    ) -> None:
        fused_code.announce(shared, *parts)
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
        self.room = Room(self._config, self._kv, self.tables, self.threads, rows, max(pages, self.room.pages))
        self._lay_arguments()

    def _rest(self) -> None:
        for other in self._others:
            other.rest()

    def _lay_arguments(self) -> None:
        """What every thread is called with, whatever its number; and what one that computes alone is."""
        room, tables = self.room, self.tables
        arrays = (room.dims, tables.floats, tables.trunk, tables.experts, room.places, *room.work)
        types = tables.kind, self._like, widened(tables.kind)
        self.arguments = laid_out((self.shared, *arrays)), *types
        self._arguments_alone = laid_out((self._alone, *arrays)), *types


class _ComputeThread:
    """One more thread of a team: looks out for steps for a while, then sleeps until the next one wakes it."""

    def __init__(self, team: FusedTeam, number: int) -> None:
        self._team, self._number = team, number
        self._asleep = False
        self._awake = threading.Event()
        self._resting = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"blyan-compute-{number}", daemon=True)
        self._seen = int(team.shared[meeting.GO])
        self._thread.start()

    def wake(self) -> None:
        """A step was announced."""
        if self._asleep:
            self._awake.set()

    def rest(self) -> None:
        """Return when it sleeps and has seen every step, so that the next one finds it with new arguments.

        One that sleeps and missed a step is on its way to it, and may have taken the old arguments.
        """
        while not self._asleep or self._seen != int(self._team.shared[meeting.GO]):
            self._resting.wait(0.001)

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join()

    def _work(self) -> None:
        team = self._team
        shared = team.shared
        while not shared[meeting.STOP]:
            self._asleep = True
            while int(shared[meeting.GO]) == self._seen:  # who was woken for a step that it has seen sleeps on
                self._awake.wait()
                self._awake.clear()
            self._asleep = False
            self._seen = int(
                fused_code.serve(self._number, team.threads, self._seen, team.patience, False, *team.arguments)
            )
