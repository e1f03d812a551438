"""A step of a pipeline in pieces, each a call through the stages; and the call after it, before its tokens are known.

Where the last stage draws, what each run goes on with is known but for its token: so the next call is on its way
already, and the first stage begins with it when the last one says the token. What then turns out not to be wanted is
left lying: its positions are computed again before anybody reads them. What follows in a prompt is known altogether,
and its calls go out behind those of the step (ADR 0041).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from blyan.inference.stage_ends import draw_of
from blyan.inference.stage_session import Outcome, Passage, Session
from blyan.model.stepping import Run, Stretch, page_positions
from blyan.primitives import limits
from blyan.wire.stage_draws import After, Draw

_piece_rows: Final = 64  # fewer are not worth a call of their own

Wait: TypeAlias = Callable[[], Outcome]  # for what comes out


@dataclass(slots=True)
class Part:
    """Positions of one run that are in one piece."""

    index: int  # of the run in its step; below 0: it is of no use any more
    begin: int
    end: int

    @property
    def rows(self) -> int:
        """How many."""
        return self.end - self.begin


@dataclass(slots=True)
class Piece:
    """One call of a step."""

    parts: list[Part]
    draws: tuple[Draw | None, ...] = ()
    wait: Wait | None = None
    passage: Passage | None = None


@dataclass(frozen=True, slots=True)
class Foreseen:
    """A call for runs whose tokens were not known when it began."""

    session: Session
    runs: tuple[Run, ...]  # as they will be, but for their tokens
    of: tuple[int, ...]  # the runs of the step before that they go on with
    passage: Passage
    wait: Wait
    draws: tuple[Draw | None, ...]

    def matched(self, runs: Sequence[Run], drawn: Sequence[int | None]) -> Piece | None:
        """The piece that it is of a step; None where none of its runs goes on as was foreseen."""
        wanted = {run.pages: index for index, run in enumerate(runs)}
        parts: list[Part] = []
        for run, token in zip(self.runs, drawn, strict=True):
            index = wanted.get(run.pages, -1)
            same = index >= 0 and token is not None and _goes_on(runs[index], run._replace(tokens=(token,)))
            parts.append(Part(index if same else -1, 0, 1))
        if all(part.index < 0 for part in parts):
            return None
        return Piece(parts, self.draws, self.wait, self.passage)


@dataclass(frozen=True, slots=True)
class Ahead:
    """Calls for what follows in prompts: all of it was known when they began."""

    session: Session
    runs: tuple[Run, ...]
    pieces: tuple[Piece, ...]

    def matched(self, runs: Sequence[Run]) -> list[Piece]:
        """Those of its pieces that are of a step; of a run all or none."""
        wanted = {run.pages: index for index, run in enumerate(runs)}
        places = [wanted.get(run.pages, -1) for run in self.runs]
        same = [
            index if index >= 0 and runs[index]._replace(following=None) == run else -1
            for index, run in zip(places, self.runs, strict=True)
        ]
        found = [
            Piece(
                [replace(part, index=same[part.index]) for part in piece.parts], piece.draws, piece.wait, piece.passage
            )
            for piece in self.pieces
        ]
        return [piece for piece in found if any(part.index >= 0 for part in piece.parts)]


@dataclass(slots=True)
class Foresight:
    """What was foreseen, and the tokens that it depends on, once they are known."""

    foreseen: Foreseen | None = None
    drawn: list[int | None] = field(default_factory=list[int | None])
    ahead: Ahead | None = None

    def take(self, session: Session, runs: Sequence[Run]) -> list[Piece]:
        """What was foreseen of these runs, once."""
        foreseen, self.foreseen = self.foreseen, None
        ahead, self.ahead = self.ahead, None
        if ahead is not None and ahead.session is session:
            return ahead.matched(runs)
        if foreseen is None or foreseen.session is not session or len(self.drawn) != len(foreseen.runs):
            return []
        found = foreseen.matched(runs, self.drawn)
        return [] if found is None else [found]


def _goes_on(run: Run, foreseen: Run) -> bool:
    """Whether a run is as it was foreseen; whether another token will follow is not known before."""
    one, other = run.drawing, foreseen.drawing
    if one is None or other is None or one.sampling != other.sampling:
        return False
    return run == foreseen._replace(drawing=one)


def next_runs(runs: Sequence[Run], piece: Piece, positions: int) -> tuple[tuple[Run, ...], After | None]:
    """What the runs that a piece draws for go on with, as far as pages and the model's positions reach."""
    found: list[Run] = []
    places: list[int] = []
    if piece.passage is None or not piece.draws:
        return (), None
    for place, part in enumerate(piece.parts):
        run = runs[part.index] if part.index >= 0 else None
        if run is None or run.drawing is None or not run.drawing.more or part.end != len(run.tokens):
            continue
        start = run.start + len(run.tokens)
        if start % page_positions and start < positions:
            following = run._replace(tokens=(0,), start=start, reach=max(run.reach, start + 1), scored=1)
            found.append(following)
            places.append(place)
    return tuple(found), After(piece.passage.call.number, tuple(places))


def draws_of(runs: Sequence[Run], parts: Sequence[Part]) -> tuple[Draw | None, ...]:
    """How to draw after each part; empty where scores or hidden states are wanted besides."""
    found: list[Draw | None] = []
    for part in parts:
        run = runs[part.index]
        scored = part.end > max(part.begin, len(run.tokens) - run.scored)
        if run.hidden or (scored and run.drawing is None):
            return ()
        found.append(draw_of(run.drawing.sampling) if scored and run.drawing is not None else None)
    return tuple(found) if any(found) else ()


def cut(runs: Sequence[Run], stages: int, done: Collection[int] = ()) -> list[Piece]:
    """Runs in pieces of about as many rows each, in order: several only where stages can overlap them.

    Without those that are `done`.
    """
    left = [(index, run) for index, run in enumerate(runs) if index not in done]
    rows = sum(len(run.tokens) for _, run in left)
    pieces = 1 if stages < 2 else max(1, min(limits.stage_pieces_max, rows // _piece_rows))
    most = -(-rows // pieces)
    made: list[list[Part]] = [[]] if left else []
    room = most
    for index, run in left:
        begin = 0
        while begin < len(run.tokens):
            if not room:
                made.append([])
                room = most
            end = min(len(run.tokens), begin + room)
            made[-1].append(Part(index, begin, end))
            room -= end - begin
            begin = end
    return [Piece(parts) for parts in made]


def stretch_of(run: Run, part: Part) -> Stretch:
    """A part as stages know it."""
    start = run.start + part.begin
    reach = max(run.reach, run.start + len(run.tokens))
    return Stretch(part.rows, start, run.pages[: -(-(start + part.rows) // page_positions)], reach)
