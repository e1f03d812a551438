"""Engines whose pages lie at other nodes: whether there are any for the next step, and what to do where they are lost.

Nobody waits here: who opens leases does it elsewhere, and generations wait as requests do. The compute thread's alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from blyan.inference.engine import Engine, waiting_of
from blyan.inference.job import attempted
from blyan.inference.recomputing import compute_again
from blyan.inference.sequence import pages_for
from blyan.model.stepping import PagesLost, page_positions
from blyan.primitives.errors import StageUnavailable

_log = logging.getLogger(__name__)


class Counts(Protocol):
    """What is counted."""

    recomputed: int  # generations, because pages were lost


@dataclass(slots=True, eq=False)
class LeasedPages:
    """Those of all engines. `fail` tells a generation, by its number, that it ends."""

    fail: Callable[[int, BaseException], None]
    counters: Counts

    def ready(self, engine: Engine) -> bool:
        """Whether there are pages for a step of this engine; its generations end where nobody has any."""
        leased, found = engine.leased, list[int]()
        if leased is None:
            return True
        ends = [len(each.tokens) - each.need.drafts for each in engine.sequences.values()]
        least, wanted = pages_for(min(ends)), pages_for(max(ends))
        reason = attempted(lambda: found.append(leased.prepare(least, wanted)))
        if isinstance(reason, PagesLost):
            self.lost(engine, reason)
        elif reason is not None:
            for number in list(engine.sequences):
                self.fail(number, reason)
        pages = found[0] if found else 0
        if pages and pages != engine.pool.pages:
            _resize(engine, pages)
        if 0 < pages < wanted:
            self._turn_away(engine, wanted)
        return pages > 0

    def lost(self, engine: Engine, reason: PagesLost) -> None:
        """All that runs is computed again from its tokens."""
        _log.warning("%s is computed again from its tokens: %s", engine.model.name, reason)
        self.counters.recomputed += compute_again(engine)

    def _turn_away(self, engine: Engine, wanted: int) -> None:
        """The longest, for which there are no pages: another plan may have room. The next time others are asked for."""
        most = engine.pool.pages * page_positions
        for number, sequence in list(engine.sequences.items()):
            count = len(sequence.tokens) - sequence.need.drafts
            if pages_for(count) >= wanted:
                reason = StageUnavailable(
                    f"pipeline: expected at most {most} tokens of prompt and answer together, found {count}",
                    hint="stages have no room for more: start more with --role stage, or give them inference.kv_memory",
                )
                self.fail(number, reason)


def _resize(engine: Engine, pages: int) -> None:
    """So many there are: fewer where they are others, in which nothing was computed yet."""
    if pages > engine.pool.pages:
        engine.pool.grow(pages)
    else:
        compute_again(engine, pages)
    for queue in engine.waiting.values():
        queue.update({number: waiting_of(engine.sequences[number], pages) for number in queue})
