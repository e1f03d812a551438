"""One generation's tokens on their way through the model: what is known, what is computed, what comes next. No tensors
are computed here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from blyan.inference.needs import Need
from blyan.inference.pages import PagedSequence
from blyan.inference.policy import Running
from blyan.model.config import ModelConfig
from blyan.model.rope_scaling import lasting_positions
from blyan.model.stepping import Patience, Run, endless, page_positions


def pages_for(positions: int) -> int:
    """How many pages so many positions take."""
    return -(-positions // page_positions)


def alike_until(config: ModelConfig) -> int:
    """Up to how many positions keys do not depend on how long their sequence is, so that runs may be cut anyhow."""
    lasting = lasting_positions(config.rope_scaling, 0)
    return config.context_length if lasting is None else lasting


@dataclass(slots=True, eq=False)
class TokenSequence:
    """The tokens of one generation. `ask` first, then `run` and `took` until it is `complete`."""

    id: int  # rises in the order in which generations come
    client: str
    alike: int  # of the model: see `alike_until`
    tokens: list[int] = field(default_factory=list[int])  # all that are known, guesses included
    computed: int = 0  # positions that lie in its pages
    charged: int = 0  # positions that its client was charged for: what is computed again costs nothing
    held: PagedSequence | None = None  # its pages; None while it waits
    last: int = 0  # the number of its last run
    patience: Patience = endless
    admitted: int = -1  # the number of its admission; -1 while it waits
    need: Need = field(default_factory=lambda: Need(0, (0,)))
    scores: list[NDArray[np.float32]] = field(default_factory=list[NDArray[np.float32]])
    hidden: list[Tensor] = field(default_factory=list[Tensor])
    drawn: int | None = None  # the token that follows the need

    def ask(self, need: Need) -> None:
        """Take the next need. Positions from its start on count as not computed."""
        assert len(self.tokens) >= need.start, "a need goes on from what was asked for"
        if need.drafts and need.end > self.alike:
            need = without_drafts(need, 0)
        self.need = need
        del self.tokens[need.start :]
        self.tokens.extend(need.tokens)
        self.computed = min(self.computed, need.start)
        self.drawn = None
        self.scores.clear()
        self.hidden.clear()

    @property
    def left(self) -> int:
        """Positions to be computed, guesses not counted; at least 1 until `complete`."""
        return len(self.tokens) - self.need.drafts - self.computed

    @property
    def complete(self) -> bool:
        """Whether the need is computed."""
        return self.computed == len(self.tokens)

    @property
    def reusable(self) -> int:
        """Positions at the start that need not be computed here if somebody else's pages hold them."""
        need = self.need
        return need.start if need.hidden else max(need.start, need.end - need.scored)

    @property
    def shared(self) -> int:
        """Positions at the start whose keys do not depend on this sequence's length."""
        return 0 if self.need.reach > self.alike else self.alike

    def view(self) -> Running:
        """What the policy reads of it while it runs."""
        assert self.held is not None, "it runs"
        left, have = self.left, len(self.held.pages)
        end = self.computed + left
        lacking = max(0, pages_for(end) - have)
        spare = (have + lacking) * page_positions - end
        return Running(self.id, self.client, self.admitted, left, self.need.drafts, have, lacking, spare, self.last)

    def begin(self, held: PagedSequence, admission: int) -> None:
        """It was admitted: with these pages, the first of which may be computed already."""
        self.held, self.computed, self.admitted = held, held.length, admission
        self.charged = max(self.charged, held.length)

    def restart(self) -> None:
        """It lost its pages, and waits."""
        self.held, self.computed, self.admitted = None, 0, -1
        self.drawn = None
        self.scores.clear()
        self.hidden.clear()
        self.keep_drafts(0)

    def keep_drafts(self, count: int) -> None:
        """Leave out all guesses but the first `count`."""
        self.need = without_drafts(self.need, count)
        del self.tokens[self.need.end :]

    def run(self, most: int, *, ahead: bool = False) -> Run:
        """The next at most `most` positions as a run; if `ahead`, with the one after it, of a prompt of several."""
        run = self._run(self.computed, most)
        end = run.start + len(run.tokens)
        if not ahead or self.need.drafts or end >= self.need.end:
            return run
        return run._replace(following=self._run(end, most))

    def _run(self, start: int, most: int) -> Run:
        assert self.held is not None, "admitted"
        need = self.need
        end = min(start + most, len(self.tokens))
        if start < need.start:  # computed again: nothing of it is asked for
            end = min(end, need.start)
        if start < need.reach:
            end = min(end, need.reach)
        elif end > self.alike:  # as it was the first time: the keys of each position by the length then
            end = max(min(end, self.alike), start + 1)
        scored = max(0, end - max(start, need.end - need.scored))
        hidden = need.hidden and start >= need.start
        reach = max(need.reach, end)
        pages = tuple(self.held.pages[: pages_for(end)])
        drawing = need.drawing if end == need.end else None
        return Run(tuple(self.tokens[start:end]), start, pages, scored, hidden, reach, self.patience, drawing)


def without_drafts(need: Need, keep: int) -> Need:
    """The same need with at most `keep` guesses, and without the scores of the others."""
    gone = max(0, need.drafts - keep)
    if not gone:
        return need
    tokens = need.tokens[: len(need.tokens) - gone]
    return Need(need.start, tokens, need.scored - gone, need.hidden, need.drafts - gone, need.reach)
