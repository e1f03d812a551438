"""What the compute thread does with the generations it was given: one step after the other, for all of them together.

Of one model at a time; models with work take turns. Whatever goes wrong is the end of those it concerns alone.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field
from typing import Final, Protocol

from blyan.inference.delivery import Emit, Listener
from blyan.inference.engine import Engine
from blyan.inference.engine_table import EngineTable
from blyan.inference.fairness import ClientShares
from blyan.inference.housing import Housing
from blyan.inference.job import Job, attempted
from blyan.inference.leased_pages import LeasedPages
from blyan.inference.needs import Answer, Need
from blyan.inference.policy import Rules, plan
from blyan.inference.sequence import TokenSequence
from blyan.inference.session import Event, Failed, Finished
from blyan.inference.step_times import StepSeen, Timed, untimed
from blyan.model.stepping import PagesLost, Run
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import Fault, InternalError

_log = logging.getLogger(__name__)
_ends_kept: Final = 32


class Watch(Protocol):
    """Who counts steps. Called in the compute thread."""

    def stepped(self, seconds: float, sequences: int, tokens: int) -> None:
        """One step was computed."""
        ...

    def waited(self, seconds: float) -> None:
        """A generation was admitted so long after it came."""
        ...


class Unwatched:
    """Nobody counts."""

    def stepped(self, seconds: float, sequences: int, tokens: int) -> None:
        """Nothing."""

    def waited(self, seconds: float) -> None:
        """Nothing."""


@dataclass(slots=True)
class Counters:
    """What happened since the start."""

    preemptions: int = 0
    recomputed: int = 0  # generations, because a stage of their pipeline was replaced
    drafted: int = 0
    accepted: int = 0

    def guessed(self, drafts: int, accepted: int) -> None:
        """Guesses were computed, and so many of them, perhaps, were right and of use."""
        if drafts:
            self.drafted += drafts
            self.accepted += min(max(accepted, 0), drafts)


@dataclass(slots=True, eq=False)
class Batching:
    """All generations that are here. The compute thread's alone."""

    engines: EngineTable
    rules: Rules
    monotonic: Monotonic
    watch: Watch
    timed: Timed = untimed
    jobs: dict[int, Job] = field(default_factory=dict[int, Job])
    shares: ClientShares = field(default_factory=ClientShares)
    counters: Counters = field(default_factory=Counters)
    ends: deque[float] = field(default_factory=lambda: deque[float](maxlen=_ends_kept))  # when generations ended
    _out: dict[Listener, list[tuple[Emit, Event]]] = field(default_factory=dict[Listener, list[tuple[Emit, Event]]])
    _deserted: set[Emit] = field(default_factory=set[Emit])  # whose loop is gone; they may be in the step under way
    _turn: int = 0
    _housing: Housing = field(init=False)
    _leased: LeasedPages = field(init=False)

    def __post_init__(self) -> None:
        self._housing = Housing(self.engines, self.monotonic, self._fail)
        self._leased = LeasedPages(lambda number, reason: self._fail(self.jobs[number], reason), self.counters)

    def add(self, job: Job) -> None:
        """A new generation."""
        self.jobs[job.number] = job
        self.shares.enter(job.client)
        self._advance(job, None)

    def let_go(self, number: int) -> None:
        """Nobody waits for this generation any more; what it held is free for the next step."""
        job = self.jobs.get(number)
        if job is not None:
            self._end(job)

    def end_all(self, fault: BaseException) -> None:
        """Tell everybody that it ends here."""
        for job in list(self.jobs.values()):
            self._fail(job, fault)
        self.deliver()

    @property
    def running(self) -> int:
        """Generations that hold pages."""
        return sum(len(engine.running) for engine in self.engines)

    def step(self) -> bool:
        """One step of one model, and the events of it; False if there was nothing that could be done."""
        if self._deserted:
            for job in [job for job in self.jobs.values() if job.emit in self._deserted]:
                self._end(job)
            self._deserted.clear()
        self._housing.find()
        busy = [engine for engine in self.engines if not engine.idle]
        done = False
        for _ in busy:  # who waits for others keeps nobody up
            self._turn += 1
            done = self._step(busy[self._turn % len(busy)])
            if done:
                break
        if not (done and self.jobs):
            self.deliver()
        return done

    def deliver(self) -> None:
        """Hand over the events that are ready: best when the interpreter is not needed here, for they need it."""
        out, self._out = self._out, {}
        for listener, events in out.items():
            try:
                listener.deliver(events)
            except RuntimeError:  # the event loop that listened was closed
                self._deserted.update(emit for emit, _ in events)

    def _step(self, engine: Engine) -> bool:
        if not self._leased.ready(engine):
            return False
        waiting = engine.waiting
        if self._housing.to_be_made_anew(engine):
            if not engine.running or self._housing.long_enough(engine):
                self.counters.preemptions += self._housing.move_out(engine, self.jobs)
                return True
            waiting = {}
        queues = {client: queue.values() for client, queue in waiting.items()}
        made = plan(engine.views(), queues, self.shares.served, engine.pool.free, self.rules)
        for number in made.preempted:
            engine.preempt(number)
            self.counters.preemptions += 1
        now = self.monotonic()
        for number in made.admitted:
            if engine.admit(number):
                self._began(self.jobs[number], now)
        engine.drafts_max = made.drafts_max
        runs = engine.runs(made.tokens)
        if not runs:
            return bool(made.preempted)
        before = _waited(engine)
        done = self._computed(engine, runs) or []
        self.watch.stepped(self.monotonic() - now, len(done), sum(len(run.tokens) for _, run in done))
        for sequence, _ in done:
            self.shares.charge(sequence.client, engine.charge(sequence))
            if engine.leased is not None:
                self.jobs[sequence.id].worked.update(dict.fromkeys(engine.leased.nodes))
            if sequence.complete:
                self._advance(self.jobs[sequence.id], engine.answer(sequence))
        if len(done) == len(runs):
            self._time(engine, [run for _, run in runs], now, before)
        return True

    def _time(self, engine: Engine, runs: list[Run], began: float, waited: float) -> None:
        """Tell of a step that went well, with all that it takes until the next can begin."""
        tokens = sum(len(run.tokens) for run in runs)
        positions = sum(run.start * len(run.tokens) for run in runs) / tokens
        plan = "local" if engine.waits is None else engine.waits.plan
        seen = StepSeen(plan, self.monotonic() - began, _waited(engine) - waited, len(runs), tokens, positions)
        self.timed(engine.model.manifest_id, seen, jitted=engine.jitted)

    def _computed(
        self, engine: Engine, runs: list[tuple[TokenSequence, Run]]
    ) -> list[tuple[TokenSequence, Run]] | None:
        """Those of the runs that went well. A step that fails is made again, each run by itself.

        None if the pages were lost: everybody begins anew, so none of these runs is to be computed any more.
        """
        failed: dict[int, Fault] = {}
        reason = attempted(lambda: failed.update(engine.compute(runs, self.deliver)))
        if isinstance(reason, PagesLost):
            self._leased.lost(engine, reason)
            return None
        if reason is None:
            for number, fault in failed.items():
                self._fail(self.jobs[number], fault)
            return [(sequence, run) for sequence, run in runs if sequence.id not in failed] if failed else runs
        if len(runs) == 1:
            self._fail(self.jobs[runs[0][0].id], reason)
            return []
        done: list[tuple[TokenSequence, Run]] = []
        for alone in runs:
            went = self._computed(engine, [alone])
            if went is None:
                return None
            done += went
        return done

    def _began(self, job: Job, now: float) -> None:
        if not job.admitted:
            job.admitted = True
            job.started()
            self.watch.waited(now - job.came)

    def _advance(self, job: Job, answer: Answer | None) -> None:
        """Give a generation its answer; take its events, up to its next need or its end."""
        reason = attempted(lambda: self._told(job, answer))
        if reason is not None:
            self._fail(job, reason)

    def _told(self, job: Job, answer: Answer | None) -> None:
        while True:
            try:
                item = job.context.run(job.work.send, answer)
            except StopIteration:
                self._end(job)
                return
            if isinstance(item, Need):
                self._asked(job, item)
                return
            answer = None
            if isinstance(item, Finished) and job.sequence is not None:  # no need follows that would tell of the last
                chosen = item.prompt_tokens + item.completion_tokens - job.sequence.need.start
                self.counters.guessed(job.sequence.need.drafts, chosen - 2)
            self._tell(job, item)

    def _asked(self, job: Job, need: Need) -> None:
        if job.engine is not None and job.sequence is not None:
            if need.end - need.drafts > job.engine.positions:
                self._housing.outgrow(job, need)
                return
            before = job.sequence.need
            self.counters.guessed(before.drafts, need.start - before.start - 1)
            job.engine.ask(job.sequence, need)
            return
        job.need = need
        self._housing.place(job)

    def _tell(self, job: Job, event: Event) -> None:
        self._out.setdefault(job.listener, []).append((job.emit, event))

    def _fail(self, job: Job, reason: BaseException) -> None:
        self._tell(job, Failed(job.context.run(_as_fault, reason)))
        self._end(job)

    def _end(self, job: Job) -> None:
        if self.jobs.pop(job.number, None) is None:
            return
        self._housing.forget(job.number)
        job.work.close()
        job.started()
        self.ends.append(self.monotonic())
        if job.engine is not None and job.sequence is not None:
            job.engine.remove(job.sequence)
        job.engine = job.sequence = None  # who waits for the last event keeps no pages alive
        self.shares.leave(job.client)


def _waited(engine: Engine) -> float:
    return 0.0 if engine.waits is None else engine.waits.waited_s


def _as_fault(reason: BaseException) -> Fault:
    if isinstance(reason, Fault):
        return reason
    _log.error("generation failed", exc_info=reason)
    return InternalError(f"generation failed: {type(reason).__name__}")
