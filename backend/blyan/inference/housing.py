"""Which generations wait for memory, and how memory changes hands between models. The compute thread's alone.

An engine that is to be made anew, larger or smaller, admits nobody; what runs in it is given a while to end by itself
and is then computed again from its tokens in the one that comes in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from blyan.inference.engine import Engine
from blyan.inference.engine_table import EngineTable, too_long_for_memory
from blyan.inference.job import Job, attempted
from blyan.inference.needs import Need
from blyan.primitives.clock import Monotonic

_patience_seconds: Final = 5.0  # for what runs to end by itself


@dataclass(slots=True, eq=False)
class Housing:
    """Jobs whose model has no memory yet."""

    engines: EngineTable
    monotonic: Monotonic
    fail: Callable[[Job, BaseException], None]
    _homeless: dict[int, Job] = field(default_factory=dict[int, Job])
    _since: float | None = None  # somebody is always homeless

    def place(self, job: Job) -> None:
        """Give a job to its model's engine, if it has one now."""
        end = job.need.end if job.sequence is None else len(job.sequence.tokens)
        most = self.engines.positions_max(job.model)
        if end >= most:
            self.fail(job, too_long_for_memory(most, end))
            return
        engine = self.engines.engine(job.model, end, staged=job.staged)
        if engine is None or end >= engine.positions:
            self._homeless[job.number] = job
            return
        self._homeless.pop(job.number, None)
        job.engine = engine
        if job.sequence is None:
            job.sequence = engine.add(job.number, job.client, job.need, job.patience)
        else:
            engine.adopt(job.sequence)

    def find(self) -> None:
        """Place whoever can be placed now."""
        if not self._homeless:
            self._since = None
            return
        for job in list(self._homeless.values()):
            self._house(job)
        now = self.monotonic()
        if self._since is None:
            self._since = now
        elif self._homeless and now - self._since >= _patience_seconds:
            self.engines.make_room()

    def forget(self, number: int) -> None:
        """It ended."""
        self._homeless.pop(number, None)

    def outgrow(self, job: Job, need: Need) -> None:
        """It needs more memory than its engine has: perhaps its model's share has grown meanwhile."""
        assert job.engine is not None and job.sequence is not None, "it runs"
        if need.end - need.drafts >= self.engines.positions_max(job.model):
            raise too_long_for_memory(job.engine.positions, need.end - need.drafts)
        job.engine.remove(job.sequence)
        job.sequence.ask(need)
        job.sequence.restart()
        job.engine = None
        self._homeless[job.number] = job

    def to_be_made_anew(self, engine: Engine) -> bool:
        """Whether an engine admits nobody because its memory is to change.

        It grows if it must: else one that was made with little, and has always something to do, would keep to that.
        Once begun it goes on, though pages come free, for nobody is admitted to them.
        """
        if not self.engines.outgrown(engine) and not (self.engines.may_grow(engine) and self._lacks(engine)):
            engine.outgrown_since = None
            return False
        return True

    def _lacks(self, engine: Engine) -> bool:
        if engine.outgrown_since is not None or engine.lacks_pages:
            return True
        homeless = (job for job in self._homeless.values() if job.staged == engine.staged)
        return any(job.model.weights is engine.model.weights for job in homeless)

    def long_enough(self, engine: Engine) -> bool:
        """Whether what runs in an engine that is to be made anew was given its while."""
        now = self.monotonic()
        if engine.outgrown_since is None:
            engine.outgrown_since = now
        return now - engine.outgrown_since >= _patience_seconds and self.engines.may_move(engine)

    def move_out(self, engine: Engine, jobs: dict[int, Job]) -> int:
        """All go to the engine that comes in its place; how many of them ran."""
        running = list(engine.running)
        for number in running:
            engine.preempt(number)
        for sequence in engine.hand_over():
            job = self._homeless[sequence.id] = jobs[sequence.id]
            job.engine = None
            self._house(job)  # before others, whom its memory would suit too
        return len(running)

    def _house(self, job: Job) -> None:
        reason = attempted(lambda: self.place(job))
        if reason is not None:
            self.fail(job, reason)
