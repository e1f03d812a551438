"""The stepper of a lead: embeddings and scores are computed in this process, the layers by stages elsewhere.

The first layers may be computed here too, where they are, without a hop. A step is cut into pieces that follow each
other through the stages, so that one computes while another does. The pages of the lead's pool are the stages' pages.
When a stage is lost others take its place, and what was under way is computed again from its tokens
(`stepping.PagesLost`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blyan.inference.layers_in_turn import LayersInTurn
from blyan.inference.stage_session import Passage, Session, StageLost
from blyan.model.attention import rms_norm
from blyan.model.config import ModelConfig
from blyan.model.stage_step import Head
from blyan.model.stepping import PagesLost, PlanName, Ready, Run, RunFault, RunResult, Stretch, nothing, page_positions
from blyan.model.transformer import TrunkWeights
from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import Fault, NotComputable, StageUnavailable
from blyan.primitives.ids import PayloadId

_piece_rows: Final = 64  # fewer are not worth a call of their own
_look_seconds: Final = 0.05  # between two looks for stages
_tries_max: Final = 8  # sessions in a row that end before a step does

MakeHead: TypeAlias = Callable[[Callable[[Callable[[], Head]], None]], Head]  # one now; perhaps a better one later
Sleep: TypeAlias = Callable[[float], None]


class Lead(Protocol):
    """Who talks to the stages (`stage_lead.StageLead`)."""

    def open(self, model: PayloadId, config: ModelConfig, dtype: torch.dtype, pages: int) -> Future[Session]:
        """Leases at the stages of a route."""
        ...

    def begin(
        self, session: Session, hidden: Tensor, runs: Sequence[Stretch], chosen: NDArray[Any] | None = None
    ) -> Passage:
        """Send hidden states through the layers of all stages; `chosen`: the experts of the layers before them."""
        ...

    def finish(self, session: Session, passage: Passage) -> tuple[Tensor, NDArray[Any]]:
        """Wait for what comes out, and the experts chosen in all layers. Raises `StageLost`."""
        ...

    def close(self, session: Session) -> Future[None]:
        """Give the leases back."""
        ...


@dataclass(frozen=True, slots=True)
class Led:
    """What is led: a model whose ends are here."""

    manifest: PayloadId
    config: ModelConfig
    weights: TrunkWeights
    pages: int  # of the lead's pool
    seconds: float  # in which stages must be found
    layers: Callable[[range], LayersInTurn]  # those that are computed here


Outcome: TypeAlias = Callable[[], tuple[Tensor, NDArray[Any]]]  # waits for what comes out


class _Part:
    """Positions of one run that are in one piece."""

    __slots__ = ("begin", "end", "index")

    def __init__(self, index: int, begin: int, end: int) -> None:
        self.index, self.begin, self.end = index, begin, end


class PipelineStepper:
    """Implements `stepping.Stepper` and `Waits`. The compute thread waits for the last stage."""

    plan: PlanName = "pipeline"

    def __init__(self, led: Led, lead: Lead, make_head: MakeHead, monotonic: Monotonic, sleep: Sleep) -> None:
        """`sleep` waits between two looks for stages."""
        self._led, self._lead = led, lead
        self._monotonic, self._sleep = monotonic, sleep
        self.waited_s = 0.0
        self._session: Session | None = None
        self._opened = False  # whether there ever was a session
        self._tries = 0
        self._lacking: float | None = None  # since when no stages are found
        self._own: LayersInTurn | None = None
        self._offered: Callable[[], Head] | None = None
        self._head = make_head(self.offer)

    def offer(self, make: Callable[[], Head]) -> None:
        """Score with another head from the next step on. From any thread."""
        self._offered = make

    @torch.inference_mode()
    def step(self, runs: Sequence[Run], ready: Ready = nothing) -> list[RunResult | RunFault]:
        """One result per run, in order: all `StageUnavailable` where none are. `PagesLost` where stages were replaced.

        The former is not raised: each run would be tried by itself, in pages that may be others by then.
        """
        try:
            return self._stepped(runs, ready)
        except StageUnavailable as reason:
            return [RunFault(reason) for _ in runs]

    def _stepped(self, runs: Sequence[Run], ready: Ready) -> list[RunResult | RunFault]:
        if self._offered is not None:
            make, self._offered = self._offered, None
            self._head.close()
            self._head = make()
        if self._session is None or self._session.lost is not None:
            ready()  # whoever is there to be found may take a while
        session = self._connected()
        pieces = _cut(runs, len(session.hops) + bool(session.own))
        try:
            begun = [self._begun(session, runs, piece) for piece in pieces]
            ready()  # once all is on its way: what remains is to wait, and then to score
            results = self._gathered(runs, pieces, begun)
        except StageLost as reason:
            self._replace(reason)
            raise PagesLost(reason.message) from None
        self._tries = 0
        return results

    def _begun(self, session: Session, runs: Sequence[Run], piece: Sequence[_Part]) -> Outcome:
        """Compute what is computed here, and send it on. `NotComputable` if that gives what is no number."""
        tokens = [token for part in piece for token in runs[part.index].tokens[part.begin : part.end]]
        stretches = [_stretch(runs[part.index], part) for part in piece]
        hidden = self._led.weights.embed()[torch.tensor(tokens)]
        chosen: NDArray[Any] | None = None
        if self._own is not None:
            hidden, chosen = self._own.current().through(hidden, stretches)
        if not session.hops:
            assert chosen is not None, "all layers are here"
            return partial(_given, hidden, chosen)
        if not bool(torch.isfinite(hidden).all()):  # stages refuse it, and none of them is at fault
            raise NotComputable("layers: expected finite numbers, found others (an overflow in this dtype?)")
        return partial(self._lead.finish, session, self._lead.begin(session, hidden, stretches, chosen))

    def close(self) -> None:
        """Give the leases back."""
        if self._session is not None:
            self._lead.close(self._session)
            self._session = None
        if self._own is not None:
            self._own.close()
        self._own = self._offered = None
        self._head.close()

    def _connected(self) -> Session:
        """The session; `PagesLost` where it is another one than in the last step."""
        if self._session is not None and self._session.lost is not None:
            reason = self._session.lost
            self._replace(reason)
            raise PagesLost(reason.message)
        if self._session is None:
            self._take(self._found())
            if self._opened:  # an earlier one ended, and nobody was found at once
                raise PagesLost("pipeline: stages were found again")
            self._opened = True
        assert self._session is not None, "taken"
        return self._session

    def _found(self) -> Session:
        led = self._led
        while True:
            try:
                session = self._lead.open(led.manifest, led.config, led.weights.embed().dtype, led.pages).result()
            except (StageLost, StageUnavailable) as reason:
                now = self._monotonic()
                self._lacking = now if self._lacking is None else self._lacking
                if now - self._lacking > led.seconds:
                    raise StageUnavailable(
                        f"pipeline: expected stages for all layers in {led.seconds:g} s, found: {reason.message}",
                        hint="`blyan node peers` shows which nodes are there; start more with --role stage",
                    ) from None
                self._sleep(_look_seconds)
            else:
                self._lacking = None
                return session

    def _replace(self, reason: StageLost) -> None:
        """Another session for one that serves no more. `StageUnavailable` if that happens again and again."""
        if self._session is not None:
            self._lead.close(self._session)
            self._session = None
        self._tries += 1
        if self._tries > _tries_max:
            self._tries = 0
            raise StageUnavailable(f"pipeline: expected stages that last for a step, found: {reason.message}")
        self._take(self._found())

    def _take(self, session: Session) -> None:
        """Compute by a session from now on."""
        self._session = session
        if self._own is not None and self._own.layers != session.own:
            self._own.close()
            self._own = None
        if self._own is None and session.own:
            self._own = self._led.layers(session.own)

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
            first = 0
            for part in piece:
                run, end = runs[part.index], first + part.end - part.begin
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
