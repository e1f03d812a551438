"""Work on expert calls that may lead to more of it, any number of times: what follows begins when its cause is over.

So nothing waits inside of what it came from, however often nodes fail or an expert is looked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from blyan.inference.expert_round import Due
from blyan.inference.hedging import Outputs
from blyan.primitives.ids import PublicKey


@dataclass(frozen=True, slots=True)
class Turn:
    """What came of a piece of work, and what is left of it."""

    found: Outputs = field(default_factory=Outputs)
    dues: Sequence[Due] = ()
    missing: Sequence[int] = ()  # calls for which there is nobody
    without: frozenset[PublicKey] = frozenset()  # nodes that did not give the dues


Work: TypeAlias = Coroutine[Any, Any, Turn]


async def in_turns(work: Iterable[Work], follow: Callable[[Turn], Iterable[Work]]) -> Outputs:
    """What came of it and of all that follows, side by side. Who calls it off calls all off."""
    found: Outputs = {}
    under_way = {asyncio.ensure_future(each) for each in work}
    try:
        while under_way:
            done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for turn in [each.result() for each in done]:
                found.update(turn.found)
                under_way |= {asyncio.ensure_future(each) for each in follow(turn)}
    finally:
        for each in under_way:
            each.cancel()
    return found
