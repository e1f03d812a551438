"""The stepper of a lead, whose layers are computed by stages elsewhere.

The first layers may be computed here too, where they are, without a hop. The ends of the model, embeddings and scores,
are computed at the first and the last stage where these have them, and here otherwise. A step is cut into pieces that
follow each other through the stages, so that one computes while another does. The pages of the lead's pool are the
stages' pages. When a stage is lost others take its place, and what was under way is computed again from its tokens
(`stepping.PagesLost`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from blyan.inference.head_in_turn import HeadInTurn
from blyan.inference.own_times import OwnStep
from blyan.inference.pipeline_pieces import (
    Ahead,
    Foreseen,
    Foresight,
    Part,
    Piece,
    cut,
    draws_of,
    next_runs,
    stretch_of,
)
from blyan.inference.pipeline_results import Gathered
from blyan.inference.pipeline_session import Led, Openings, PipelineSession
from blyan.inference.stage_calls import Asked, plain
from blyan.inference.stage_session import Outcome, Passage, Session, StageLost
from blyan.model.attention import rms_norm
from blyan.model.stepping import PlanName, Ready, Run, RunFault, RunResult, Stretch, nothing
from blyan.primitives.clock import Monotonic, give_way
from blyan.primitives.errors import NotComputable
from blyan.primitives.ids import PublicKey

_log = logging.getLogger(__name__)
_sound_seconds: Final = 10.0  # between two tests of stages whose answers were no numbers


class Lead(Openings, Protocol):
    """Who talks to the stages (`stage_lead.StageLead`)."""

    def test(self, session: Session) -> Future[None]:
        """Have its stages compute ordinary rows: a session ends of which one gives what is no number for them."""
        ...

    def begin(
        self,
        session: Session,
        given: Tensor,
        runs: Sequence[Stretch],
        chosen: NDArray[Any] | None = None,
        asked: Asked = plain,
    ) -> Passage:
        """Send hidden states or tokens through the layers of all stages; `chosen`: the experts of earlier layers."""
        ...

    def finish(self, session: Session, passage: Passage) -> Outcome:
        """Wait for what comes out. Raises `StageLost`."""
        ...


class PipelineStepper:
    """Implements `stepping.Stepper`, `Waits` and `Leased`. The compute thread waits for the last stage of a step."""

    plan: PlanName = "pipeline"

    def __init__(self, led: Led, lead: Lead, make_head: Callable[[], HeadInTurn], monotonic: Monotonic) -> None:
        self._led, self._lead = led, lead
        self._monotonic = monotonic
        self.waited_s = 0.0
        self._stages = PipelineSession(led, lead, monotonic)
        self._head = make_head()
        self._foresight = Foresight()
        self._sound = "", -math.inf  # a session whose stages count as tested, and until when

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
        session = self._stages.current
        assert session is not None, "prepared"
        try:
            if session.lost is not None:
                raise session.lost
            pieces = self._begun(session, runs)
            self._go_ahead(session, runs)
            self._foresee(session, runs, pieces)
            give_way()  # to the network's thread, which is to send it
            ready()  # once all is on its way: what remains is to wait, and then to score
            gathered = self._gathered(runs, pieces)
            foreseen, results = self._foresight.foreseen, gathered.results()
            if foreseen is not None:
                self._foresight.drawn = [gathered.drawn.get(index) for index in foreseen.of]
            self._draw_here(session, runs, results)
            if any(map(_not_computed, results)):
                self._want_sound(session)
        except StageLost as reason:
            raise self._stages.lose(reason) from None
        self._stages.went_well()
        return results

    def _begun(self, session: Session, runs: Sequence[Run]) -> list[Piece]:
        """All calls of a step on their way; some of them may be already."""
        foreseen = self._foresight.take(session, runs)
        done = {part.index for piece in foreseen for part in piece.parts}
        return [*foreseen, *self._cut(session, runs, done)]

    def _cut(self, session: Session, runs: Sequence[Run], done: Collection[int] = ()) -> list[Piece]:
        """Begin with all runs that are not `done`."""
        pieces = cut(runs, len(session.hops) + bool(session.own), done)
        for piece in pieces:
            self._begin(session, runs, piece)
        return pieces

    def _begin(self, session: Session, runs: Sequence[Run], piece: Piece) -> None:
        """Compute what is computed here, and send it on."""
        tokens = [token for part in piece.parts for token in runs[part.index].tokens[part.begin : part.end]]
        stretches = [stretch_of(runs[part.index], part) for part in piece.parts]
        piece.draws = draws_of(runs, piece.parts) if session.draws and session.hops else ()
        if session.embeds and not session.own:
            given, chosen = torch.tensor(tokens, dtype=torch.int32), None
        else:
            given, chosen = self._own_layers(session, tokens, stretches)
        if not session.hops:
            assert chosen is not None, "all layers are here"
            piece.wait = partial(Outcome, chosen, given)
            return
        piece.passage = self._lead.begin(session, given, stretches, chosen, Asked(piece.draws))
        piece.wait = partial(self._lead.finish, session, piece.passage)

    def _own_layers(
        self, session: Session, tokens: Sequence[int], stretches: Sequence[Stretch]
    ) -> tuple[Tensor, NDArray[Any] | None]:
        """Hidden states after the layers that are computed here, and the experts chosen in them."""
        hidden = self._led.weights.embed()[torch.tensor(tokens)]
        own = self._stages.own
        if own is None:
            return hidden, None
        settled, began, session.computing = own.settled, self._monotonic(), True
        layers = own.current()
        try:
            return layers.through(hidden, stretches)
        finally:
            session.computing, now = False, self._monotonic()
            if settled:
                self._led.took(OwnStep(id(layers), len(own.layers), len(tokens), now - began, now))

    def _go_ahead(self, session: Session, runs: Sequence[Run]) -> None:
        """Send what follows in prompts behind this step: else all stages would be idle between two steps."""
        following = tuple(run.following for run in runs if run.following is not None)
        if following and session.hops:
            self._foresight.ahead = Ahead(session, following, tuple(self._cut(session, following)))

    def _foresee(self, session: Session, runs: Sequence[Run], pieces: Sequence[Piece]) -> None:
        """Send a call that goes on with one of this step's, whose tokens the last stage will tell the first one."""
        if not session.rings:
            return
        positions = self._led.config.context_length
        following, after, piece = max(
            ((*next_runs(runs, each, positions), each) for each in pieces), key=lambda each: len(each[0])
        )
        if not following:
            return
        assert after is not None, "there are some"
        of = tuple(piece.parts[place].index for place in after.runs)
        parts = [Part(index, 0, 1) for index in range(len(following))]
        draws, stretches = draws_of(following, parts), [stretch_of(run, Part(0, 0, 1)) for run in following]
        asked = Asked(draws, after)
        passage = self._lead.begin(session, torch.empty(0, dtype=torch.int32), stretches, None, asked)
        wait = partial(self._lead.finish, session, passage)
        self._foresight.foreseen = Foreseen(session, following, of, passage, wait, draws)
        self._foresight.drawn = []

    def close(self) -> None:
        """Give the leases back."""
        self._stages.close()
        self._foresight = Foresight()
        self._head.close()

    def _gathered(self, runs: Sequence[Run], pieces: Sequence[Piece]) -> Gathered:
        """Scores are computed while later pieces are under way."""
        gathered = Gathered(runs, self._led.config, self._head, self._normed)
        for piece in pieces:
            gathered.take(piece, self._waited_for(piece))
        return gathered

    def _draw_here(self, session: Session, runs: Sequence[Run], results: list[RunResult | RunFault]) -> None:
        """Where the last stage says that nothing can be drawn for a run, its scores are computed here.

        If they are numbers, the stage draws no more in this session: that is its word alone, and nobody else's fault.
        """
        places = [
            index
            for index, each in enumerate(results)
            if _not_computed(each) and runs[index].drawing is not None and session.draws
        ]
        if not places:
            return
        again = [runs[index]._replace(drawing=None, following=None) for index in places]
        found = self._gathered(again, self._cut(session, again)).results()
        for index, each in zip(places, found, strict=True):
            results[index] = each
        if not all(map(_not_computed, found)):
            _log.warning("stage %s: expected tokens, found it said that there are none", session.hops[-1].node[:12])
            session.distrust_draws()
            self._foresight.foreseen = None

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

    def _waited_for(self, piece: Piece) -> Outcome:
        assert piece.wait is not None, "begun"
        began = self._monotonic()
        try:
            return piece.wait()
        finally:
            self.waited_s += self._monotonic() - began

    def _normed(self, hidden: Tensor) -> Tensor:
        return rms_norm(hidden, self._led.weights.head()["norm.weight"], self._led.config.rms_eps)


def _not_computed(result: RunResult | RunFault) -> bool:
    """Whether there were no numbers."""
    return isinstance(result, RunFault) and isinstance(result.reason, NotComputable)
