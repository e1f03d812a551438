"""The stepper of a lead: embeddings and scores are computed in this process, the layers by stages elsewhere.

The first layers may be computed here too, where they are, without a hop. A step is cut into pieces that follow each
other through the stages, so that one computes while another does. The pages of the lead's pool are the stages' pages.
When a stage is lost others take its place, and what was under way is computed again from its tokens
(`stepping.PagesLost`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blyan.inference.own_times import OwnStep
from blyan.inference.pipeline_session import Led, Openings, PipelineSession
from blyan.inference.stage_session import Passage, Session, StageLost
from blyan.model.attention import rms_norm
from blyan.model.stage_step import Head
from blyan.model.stepping import PlanName, Ready, Run, RunFault, RunResult, Stretch, nothing, page_positions
from blyan.primitives import limits
from blyan.primitives.clock import Monotonic, give_way
from blyan.primitives.errors import Fault, NotComputable
from blyan.primitives.ids import PublicKey

_sound_seconds: Final = 10.0  # between two tests of stages whose answers were no numbers
_not_finite: Final = "layers: expected finite numbers, found others (an overflow in this dtype?)"
_piece_rows: Final = 64  # fewer are not worth a call of their own

MakeHead: TypeAlias = Callable[[Callable[[Callable[[], Head]], None]], Head]  # one now; perhaps a better one later


class Lead(Openings, Protocol):
    """Who talks to the stages (`stage_lead.StageLead`)."""

    def test(self, session: Session) -> Future[None]:
        """Have its stages compute ordinary rows: a session ends of which one gives what is no number for them."""
        ...

    def begin(
        self, session: Session, hidden: Tensor, runs: Sequence[Stretch], chosen: NDArray[Any] | None = None
    ) -> Passage:
        """Send hidden states through the layers of all stages; `chosen`: the experts of the layers before them."""
        ...

    def finish(self, session: Session, passage: Passage) -> tuple[Tensor, NDArray[Any]]:
        """Wait for what comes out, and the experts chosen in all layers. Raises `StageLost`."""
        ...


Outcome: TypeAlias = Callable[[], tuple[Tensor, NDArray[Any]]]  # waits for what comes out


class _Part:
    """Positions of one run that are in one piece."""

    __slots__ = ("begin", "end", "index")

    def __init__(self, index: int, begin: int, end: int) -> None:
        self.index, self.begin, self.end = index, begin, end


class PipelineStepper:
    """Implements `stepping.Stepper`, `Waits` and `Leased`. The compute thread waits for the last stage of a step."""

    plan: PlanName = "pipeline"

    def __init__(self, led: Led, lead: Lead, make_head: MakeHead, monotonic: Monotonic) -> None:
        self._led, self._lead = led, lead
        self._monotonic = monotonic
        self.waited_s = 0.0
        self._stages = PipelineSession(led, lead, monotonic)
        self._offered: Callable[[], Head] | None = None
        self._head = make_head(self.offer)
        self._sound = "", -math.inf  # a session whose stages count as tested, and until when

    def offer(self, make: Callable[[], Head]) -> None:
        """Score with another head from the next step on. From any thread."""
        self._offered = make

    def prepare(self, least: int, wanted: int) -> int:
        """See `stepping.Leased`."""
        return self._stages.prepare(least, wanted)

    @property
    def nodes(self) -> tuple[PublicKey, ...]:
        """See `stepping.Leased`."""
        session = self._stages.current
        return () if session is None else tuple(hop.node for hop in session.hops)

    @torch.inference_mode()
    def step(self, runs: Sequence[Run], ready: Ready = nothing) -> list[RunResult | RunFault]:
        """One result per run, in order; `prepare` gave pages before. `PagesLost` where the stages are lost."""
        if self._offered is not None:
            make, self._offered = self._offered, None
            self._head.close()
            self._head = make()
        session = self._stages.current
        assert session is not None, "prepared"
        pieces = _cut(runs, len(session.hops) + bool(session.own))
        try:
            if session.lost is not None:
                raise session.lost
            begun = [self._begun(session, runs, piece) for piece in pieces]
            give_way()  # to the network's thread, which is to send it
            ready()  # once all is on its way: what remains is to wait, and then to score
            results = self._gathered(runs, pieces, begun)
            if any(isinstance(each, RunFault) and isinstance(each.reason, NotComputable) for each in results):
                self._want_sound(session)
        except StageLost as reason:
            raise self._stages.lose(reason) from None
        self._stages.went_well()
        return results

    def _begun(self, session: Session, runs: Sequence[Run], piece: Sequence[_Part]) -> Outcome:
        """Compute what is computed here, and send it on."""
        tokens = [token for part in piece for token in runs[part.index].tokens[part.begin : part.end]]
        stretches = [_stretch(runs[part.index], part) for part in piece]
        hidden = self._led.weights.embed()[torch.tensor(tokens)]
        chosen: NDArray[Any] | None = None
        own = self._stages.own
        if own is not None:
            settled, began, session.computing = own.settled, self._monotonic(), True
            layers = own.current()
            try:
                hidden, chosen = layers.through(hidden, stretches)
            finally:
                session.computing, now = False, self._monotonic()
            if settled:
                self._led.took(OwnStep(id(layers), len(own.layers), len(tokens), now - began, now))
        if not session.hops:
            assert chosen is not None, "all layers are here"
            return partial(_given, hidden, chosen)
        return partial(self._lead.finish, session, self._lead.begin(session, hidden, stretches, chosen))

    def close(self) -> None:
        """Give the leases back."""
        self._stages.close()
        self._offered = None
        self._head.close()

    def _gathered(
        self,
        runs: Sequence[Run],
        pieces: Sequence[Sequence[_Part]],
        begun: Sequence[Outcome],
    ) -> list[RunResult | RunFault]:
        """Scores are computed while later pieces are under way."""
        scores: list[list[NDArray[np.float32]]] = [[] for _ in runs]
        chosen: list[list[NDArray[Any]]] = [[] for _ in runs]
        states: list[list[Tensor]] = [[] for _ in runs]
        faults: dict[int, Fault] = {}
        for piece, outcome in zip(pieces, begun, strict=True):
            hidden, experts = self._waited_for(outcome)
            first, sound = 0, bool(torch.isfinite(hidden).all())
            for part in piece:
                run, end = runs[part.index], first + part.end - part.begin
                if not sound and not bool(torch.isfinite(hidden[first:end]).all()):
                    faults.setdefault(part.index, NotComputable(_not_finite))
                chosen[part.index].append(experts[:, first:end])
                if run.hidden:
                    states[part.index].append(self._normed(hidden[first:end]))
                scored = max(0, part.end - max(part.begin, len(run.tokens) - run.scored))
                if scored and part.index not in faults:
                    try:
                        scores[part.index].append(self._head.scores(hidden[end - scored : end]))
                    except Fault as reason:
                        faults[part.index] = reason
                first = end
        none = np.empty((0, self._led.config.vocab_size), np.float32)
        return [
            RunFault(faults[index])
            if index in faults
            else RunResult(
                _joined(scores[index]) if scores[index] else none,
                np.concatenate(chosen[index], axis=1),
                torch.cat(states[index]) if states[index] else None,
            )
            for index in range(len(runs))
        ]

    def _want_sound(self, session: Session) -> None:
        """Some runs gave what is no number, as an overflow does, by nobody's fault but the text's: then these runs
        alone fail. `StageLost` for stages that compute nothing else, which shows when they are asked.
        """
        now = self._monotonic()
        if not session.hops or (self._sound[0] == session.id and now < self._sound[1]):
            return
        self._lead.test(session).result()
        if session.lost is not None:
            raise session.lost
        self._sound = session.id, now + _sound_seconds

    def _waited_for(self, outcome: Outcome) -> tuple[Tensor, NDArray[Any]]:
        began = self._monotonic()
        try:
            return outcome()
        finally:
            self.waited_s += self._monotonic() - began

    def _normed(self, hidden: Tensor) -> Tensor:
        return rms_norm(hidden, self._led.weights.head()["norm.weight"], self._led.config.rms_eps)


def _given(hidden: Tensor, chosen: NDArray[Any]) -> tuple[Tensor, NDArray[Any]]:
    return hidden, chosen


def _joined(scores: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return scores[0] if len(scores) == 1 else np.concatenate(scores)


def _stretch(run: Run, part: _Part) -> Stretch:
    start, count = run.start + part.begin, part.end - part.begin
    reach = max(run.reach, run.start + len(run.tokens))
    return Stretch(count, start, run.pages[: -(-(start + count) // page_positions)], reach)


def _cut(runs: Sequence[Run], stages: int) -> list[list[_Part]]:
    """Runs in pieces of about as many rows each, in order: several only where stages can overlap them."""
    rows = sum(len(run.tokens) for run in runs)
    pieces = 1 if stages < 2 else max(1, min(limits.stage_pieces_max, rows // _piece_rows))
    most = -(-rows // pieces)
    made: list[list[_Part]] = [[]]
    room = most
    for index, run in enumerate(runs):
        begin = 0
        while begin < len(run.tokens):
            if not room:
                made.append([])
                room = most
            end = min(len(run.tokens), begin + room)
            made[-1].append(_Part(index, begin, end))
            room -= end - begin
            begin = end
    return made
