"""The compute thread: takes generations from any thread, bounded, and computes all of them together, step by step.

Torch and the kernels use their own threads inside a step; two Python threads stepping at once would only fight over
them. What a step holds is decided by `policy` and done by `batching`.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass

from blyan.inference.batching import Batching, Counters, Unwatched, Watch
from blyan.inference.delivery import Direct, Emit, Listener
from blyan.inference.engine import MakeStepper, NotedExperts, unnoted
from blyan.inference.engine_table import EngineTable
from blyan.inference.job import Job, attempted
from blyan.inference.policy import Rules
from blyan.inference.session import Work
from blyan.inference.step_times import Timed, untimed
from blyan.model.loading import LoadedModel
from blyan.model.stepping import Patience
from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import Overloaded, QueueFull, Unavailable

_log = logging.getLogger(__name__)
_idle_seconds = 0.01  # between two looks where everybody waits for memory
_retry_seconds = 5  # where nothing was measured yet
_retry_seconds_max = 120


@dataclass(slots=True, eq=False)
class Ticket:
    """One submitted generation. `cancel` takes effect before the next step; events of earlier ones may still come."""

    job: Job
    let_go: Callable[[Ticket], None]
    waits: bool = True  # guarded by the scheduler's lock
    gone: bool = False  # set once, before the compute thread is told

    def cancel(self) -> None:
        """Stop computing for this generation, and free what it holds."""
        self.let_go(self)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a scheduler works with."""

    kv_bytes: int  # for keys and values of all models together
    rules: Rules
    make_stepper: MakeStepper
    noted: NotedExperts = unnoted
    make_staged: MakeStepper | None = None  # who computes through stages what asks for it
    began: Callable[[], object] = lambda: None  # the first that the compute thread does


class Scheduler:
    """Owns the compute thread. Construct, `submit` from any thread, `close` once."""

    def __init__(
        self,
        setting: Setting,
        monotonic: Monotonic,
        *,
        models: Callable[[], int] = lambda: 1,
        offers: Callable[[LoadedModel], bool] = lambda _: True,
        watch: Watch | None = None,
        timed: Timed = untimed,
    ) -> None:
        self.engines = EngineTable(
            *(setting.kv_bytes, models, setting.make_stepper, offers, setting.noted, setting.make_staged)
        )
        self._batching = Batching(self.engines, setting.rules, monotonic, watch or Unwatched(), timed)
        self.drafts_max = setting.rules.drafts_max
        self._monotonic = monotonic
        self._wake = threading.Condition()  # guards what follows
        self._new: list[Ticket] = []
        self._waiting: Counter[str] = Counter()  # by client
        self._waits_since = 0.0  # the moment since when somebody always waited
        self._number = 0
        self._closing = False
        self._gone: deque[int] = deque()  # appended and taken without the lock
        self._asides: deque[Callable[[], object]] = deque()  # that too: what is done between two steps
        self._thread = threading.Thread(target=self._work, args=(setting.began,), name="blyan-compute", daemon=True)
        self._thread.start()

    def submit(
        self,
        model: LoadedModel,
        work: Work,
        emit: Emit,
        *,
        client: str = "",
        listener: Listener | None = None,
        until: float = math.inf,
        staged: bool = False,
    ) -> Ticket:
        """Queue a generation; `QueueFull` if too many of this client wait already, `Overloaded` if too many do.

        `until`: when whoever asks waits no longer, by the monotonic clock; what it cancels is not waited for either.
        `staged`: through stages, whoever computes the model otherwise.
        """
        with self._wake:
            if self._closing:
                raise Unavailable("generation: expected a running node, found one that is shutting down")
            self._want_room(client)
            self._number += 1
            job = Job(
                self._number,
                client,
                model,
                work,
                emit,
                listener or _direct,
                copy_context(),
                lambda: self._started(ticket),
                self._monotonic(),
                Patience(until),
                staged,
            )
            ticket = Ticket(job, self._let_go)
            if not self._waiting:
                self._waits_since = job.came
            self._waiting[client] += 1
            self._new.append(ticket)
            self._wake.notify()
        return ticket

    def load(self, model: LoadedModel) -> None:
        """Make ready what the next generation of a model needs, between two steps."""
        self._aside(lambda: self.engines.engine(model))

    def unload(self, model: LoadedModel) -> None:
        """Give back what a model takes, between two steps, unless it has something to do then."""
        self._aside(lambda: self.engines.unload(model))

    @property
    def counters(self) -> Counters:
        """What happened since the start."""
        return self._batching.counters

    def depth(self) -> tuple[int, int]:
        """How many generations run and how many wait to begin, now."""
        with self._wake:
            return self._batching.running, self._waiting.total()

    def retry_seconds(self) -> int:
        """When to come again: about when a quarter of those who wait will have ended, by the pace of the last ends."""
        ends = [end for end in list(self._batching.ends) if end >= self._waits_since]
        if len(ends) < 2 or ends[-1] <= ends[0]:
            return _retry_seconds
        pace = (ends[-1] - ends[0]) / (len(ends) - 1)
        return max(1, min(math.ceil(pace * self._waiting.total() / 4), _retry_seconds_max))

    def close(self) -> None:
        """End the thread after the step under way; generations still running get `Failed`."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        self.engines.close()

    def _want_room(self, client: str) -> None:
        most = limits.generations_queued_max
        waiting, theirs = self._waiting.total(), self._waiting[client]
        share = min(limits.generations_queued_client_max, most)
        detail = {"retry_after_seconds": self.retry_seconds()}
        if theirs >= share:
            raise QueueFull(
                f"generation: expected fewer than {share} of one client waiting, found {theirs}",
                hint=f"try again in {detail['retry_after_seconds']} s",
                detail=detail,
            )
        if waiting >= most:
            raise Overloaded(
                f"generation: expected fewer than {most} waiting, found {waiting}",
                hint=f"try again in {detail['retry_after_seconds']} s",
                detail=detail,
            )

    def _started(self, ticket: Ticket) -> None:
        with self._wake:
            if ticket.waits:
                ticket.waits = False
                self._waiting[ticket.job.client] -= 1
                if not self._waiting[ticket.job.client]:
                    del self._waiting[ticket.job.client]

    def _aside(self, work: Callable[[], object]) -> None:
        self._asides.append(work)
        with self._wake:
            self._wake.notify()

    def _let_go(self, ticket: Ticket) -> None:
        self._started(ticket)
        ticket.job.patience.end()
        ticket.gone = True  # first: the compute thread may not have taken it yet, and then forgets its number
        self._gone.append(ticket.job.number)
        with self._wake:
            self._wake.notify()

    def _work(self, began: Callable[[], object]) -> None:
        batching, idle = self._batching, False
        began()
        while True:
            with self._wake:
                while not (self._new or self._gone or self._asides or batching.jobs or self._closing):
                    self._wake.wait()
                if idle and not (self._new or self._gone or self._asides or self._closing):
                    self._wake.wait(_idle_seconds)
                new, self._new = self._new, []
                if self._closing:
                    break
            try:
                self._take(new)
                while self._gone:
                    batching.let_go(self._gone.popleft())
                while self._asides:
                    self._beside(self._asides.popleft())
                idle = not batching.step()
            except Exception as reason:  # noqa: BLE001 - task boundary: the thread outlives whatever goes wrong in it
                batching.end_all(reason)
        self._take(new)
        batching.end_all(Unavailable("generation: the node is shutting down"))

    def _beside(self, work: Callable[[], object]) -> None:
        reason = attempted(work)
        if reason is not None:  # nobody's end: whoever asks for what could not be made ready is told then
            _log.warning("a model was not made ready or unloaded: %s: %s", type(reason).__name__, reason)

    def _take(self, new: Sequence[Ticket]) -> None:
        for ticket in new:
            if not ticket.gone:
                self._batching.add(ticket.job)


_direct = Direct()
