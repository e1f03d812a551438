"""By which stages a pipeline's stepper computes: looked for, and replaced, while the compute thread does other things.

The compute thread asks before each step whether there are pages (`stepping.Leased`) and never waits for the answer:
leases are opened in the network's loop. The compute thread's alone.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, Protocol

import torch

from blyan.inference.layers_in_turn import LayersInTurn
from blyan.inference.own_times import NoteOwnStep, OwnStep
from blyan.inference.stage_session import Session, StageLost
from blyan.model.config import ModelConfig
from blyan.model.stepping import PagesLost
from blyan.model.transformer import TrunkWeights
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import StageUnavailable
from blyan.primitives.ids import PayloadId

_look_seconds: Final = 0.05  # between two looks for stages
_tries_max: Final = 8  # sessions in a row that end before a step does


class Openings(Protocol):
    """Who talks to the stages (`stage_lead.StageLead`), as far as sessions go."""

    def open(
        self, model: PayloadId, config: ModelConfig, dtype: torch.dtype, pages: int, least: int
    ) -> Future[Session]:
        """Leases at the stages of a route, of so many pages at most."""
        ...

    def grow(self, session: Session, least: int) -> Future[None]:
        """Ask for more pages; those that there are then are `session.pages`."""
        ...

    def close(self, session: Session) -> Future[None]:
        """Give the leases back."""
        ...


def _unnoted(_: OwnStep) -> None:
    """Nobody is told."""


@dataclass(frozen=True, slots=True)
class Led:
    """What is led: a model whose ends are here."""

    manifest: PayloadId
    config: ModelConfig
    weights: TrunkWeights
    pages: int  # that its memory could count at most
    seconds: float  # in which stages must be found
    layers: Callable[[range], LayersInTurn]  # those that are computed here
    took: NoteOwnStep = _unnoted  # told of how long those took


@dataclass(slots=True, eq=False)
class PipelineSession:
    """The session that is open, and the layers that the lead computes in it itself."""

    led: Led
    lead: Openings
    monotonic: Monotonic
    current: Session | None = None
    own: LayersInTurn | None = None
    _opening: Future[Session] | None = None
    _least: int = 1  # pages that were needed when that was asked
    _growing: tuple[Future[None], int] | None = None  # for so many pages
    _began: float = 0.0  # when that was asked
    _again: float = 0.0  # when stages are looked for again
    _lacking: float | None = None  # since when none are found
    _tries: int = 0

    def prepare(self, least: int, wanted: int) -> int:
        """See `stepping.Leased`."""
        self._least = least
        session = self.current
        if session is not None and session.lost is not None:
            raise self.lose(session.lost)
        if session is None:
            session = self._opened()
        if session is None or (wanted > session.pages and not self._grown(session, wanted)):
            return 0
        if session.lost is not None:  # as it was asked for more
            raise self.lose(session.lost)
        return session.pages

    def lose(self, reason: StageLost) -> PagesLost:
        """The session serves no more, and another is looked for; what is to be raised where one was computing."""
        if self.current is not None:
            self.lead.close(self.current)
            self.current = self._growing = None
        self._tries += 1
        if self._tries <= _tries_max:
            self._open()
        return PagesLost(reason.message)

    def went_well(self) -> None:
        """A step was computed."""
        self._tries = 0

    def close(self) -> None:
        """Give everything back."""
        if self.current is not None:
            self.lead.close(self.current)
        if self._opening is not None:
            self._opening.add_done_callback(self._close_late)
        if self.own is not None:
            self.own.close()
        self.current = self.own = self._opening = None

    def _grown(self, session: Session, wanted: int) -> bool:
        """Whether the stages were asked for so many pages, and have answered."""
        growing = self._growing
        if growing is None or (growing[0].done() and growing[1] != wanted):  # less may fit where more did not
            growing = self._growing = self.lead.grow(session, wanted), wanted
        if not growing[0].done():
            return False
        self._growing = None
        growing[0].result()
        return True

    def _open(self) -> Future[Session]:
        led = self.led
        self._began = self.monotonic()
        dtype = led.weights.embed().dtype
        self._opening = self.lead.open(led.manifest, led.config, dtype, led.pages, min(self._least, led.pages))
        return self._opening

    def _opened(self) -> Session | None:
        """The session that is open now; None where stages are looked for. `StageUnavailable` where that took long."""
        if self._tries > _tries_max:
            self._tries = 0
            raise StageUnavailable(f"pipeline: expected stages that last for a step, found {_tries_max} that did not")
        opening = self._opening
        if opening is None and self.monotonic() >= self._again:
            opening = self._open()
        if opening is None or not opening.done():
            if opening is not None and self.monotonic() - self._began > self.led.seconds:
                raise self._unavailable("some that do not answer")
            return None
        self._opening = None
        try:
            session = opening.result()
        except (StageLost, StageUnavailable) as reason:
            self._missed(reason.message)
            return None
        self._lacking = None
        self._take(session)
        return session

    def _missed(self, why: str) -> None:
        now = self.monotonic()
        if self._lacking is None or now - self._again > self.led.seconds:  # long ago others lacked them
            self._lacking = now
        self._again = now + _look_seconds
        if now - self._lacking > self.led.seconds:
            raise self._unavailable(why)

    def _unavailable(self, why: str) -> StageUnavailable:
        return StageUnavailable(
            f"pipeline: expected stages for all layers in {self.led.seconds:g} s, found: {why}",
            hint="`blyan node peers` shows which nodes are there; start more with --role stage",
        )

    def _take(self, session: Session) -> None:
        """Compute by a session from now on; it is given back where what is computed here cannot be made."""
        with ExitStack() as undo:
            undo.callback(self.lead.close, session)
            self._make_own(session)
            undo.pop_all()
        self.current = session

    def _make_own(self, session: Session) -> None:
        if self.own is not None and self.own.layers != session.own:
            self.own.close()
            self.own = None
        if self.own is None and session.own:
            self.own = self.led.layers(session.own)

    def _close_late(self, opening: Future[Session]) -> None:
        """It was under way when nobody wanted it any more."""
        if not opening.cancelled() and opening.exception() is None:
            self.lead.close(opening.result())
