"""Which node is asked to generate an answer alone. Pure: candidates and a prediction in, an order of candidates out.

Each is expected to take the time of its steps, the longer the more it has to do, and for each layer in which an expert
is likely to be one that it lacks a call to whoever has it. So who holds all goes before who lacks few, unless it is
slow or far, and who is far before who is near and lacks what is as far.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from blyan.inference.call_times import Calls, CallTimes, Spread
from blyan.inference.expert_set import ExpertSet
from blyan.inference.snapshot import Rank
from blyan.inference.trying import Doubt, drawn, share
from blyan.primitives.ids import PublicKey
from blyan.wire.peer import Holding

_unmeasured_step_s: Final = 0.02  # of a step, where nothing was measured
_unmeasured_rtt_s: Final = 0.02
_tokens: Final = 64  # of an answer, to weigh its beginning against its steps
_waiting_cost: Final = 0.25  # of a step, for each generation that is under way there
_seldom: Final = 1e-3  # of what a layer uses: less is not asked for


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that says that it holds a model's trunk."""

    node: PublicKey
    rank: Rank
    holding: Holding  # as it says
    rtt_s: float | None = None  # measured
    step_s: float | None = None  # of generations that it led, measured, without what it waited for others
    under_way: int = 0  # generations, of this node's there
    queue: int = 0  # that wait there, as it says
    doubt: Doubt | None = None  # of its steps
    stretch: float = 1.0  # of its calls, as in `Calls`


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Who would be asked for each expert of a model; this node itself for those that are here."""

    callees: tuple[CallTimes, ...]  # as seen from here
    places: NDArray[np.int32]  # [experts of the model]: in `callees`; -1: nobody


nowhere: Final = Elsewhere((), np.zeros(0, np.int32))


@dataclass(frozen=True, slots=True)
class Delegate:
    """One choice, and what speaks against it."""

    node: PublicKey
    lacking: tuple[int, ...]  # of the predicted experts
    bytes_lacking: int
    step_s: float  # expected, calls included
    total_s: float  # of an answer of ordinary length
    calls: Calls  # for what it lacks
    doubt: Doubt | None = None  # where it is as good as the best but for its steps


def choose(
    candidates: Sequence[Candidate],
    predicted: ExpertSet,
    size: Callable[[int], int],
    elsewhere: Elsewhere = nowhere,
    without: Collection[PublicKey] = (),
) -> tuple[Delegate, ...]:
    """Who can be asked, the best first: by rank, then by how soon an answer is expected; then fewer bytes, then key.

    `size`: bytes of an expert by its number. Nobody who is unreachable, or in `without`.
    """
    known = [each for each in candidates if each.rank != Rank.unreachable and each.node not in without]
    best = min((_tier(each.rank) for each in known), default=0)
    made = [(_tier(each.rank), _expected(each, predicted, size, elsewhere)) for each in known]
    made.sort(key=lambda each: (each[0], each[1].total_s, each[1].bytes_lacking, each[1].node))
    return tuple(found if tier == best else replace(found, doubt=None) for tier, found in made)


def again(ranked: Sequence[Delegate], draw: Callable[[], float]) -> Sequence[Delegate]:
    """The same; rarely one goes first that may have become quicker than it was, or was never measured."""
    first, *others = ranked
    options = [(each, share(each.doubt, each.total_s / first.total_s)) for each in others]
    found = drawn(options, draw()) if any(own for _, own in options) else None
    return ranked if found is None else (found, *(each for each in ranked if each is not found))


def _tier(rank: Rank) -> int:
    """Newcomers are asked like those that are proven: nobody proves itself unasked, and an answer survives its end."""
    return Rank.proven if rank == Rank.newcomer else rank


def _expected(candidate: Candidate, predicted: ExpertSet, size: Callable[[int], int], elsewhere: Elsewhere) -> Delegate:
    lacking = tuple(number for number in predicted.numbers if not candidate.holding.has(number))
    rtt = _unmeasured_rtt_s if candidate.rtt_s is None else candidate.rtt_s
    calls = replace(_calls(candidate.holding, predicted, elsewhere, rtt), stretch=candidate.stretch)
    step = _unmeasured_step_s if candidate.step_s is None else candidate.step_s
    step *= 1 + _waiting_cost * (candidate.under_way + candidate.queue)
    step += replace(calls, callees=tuple(_measured(each, rtt) for each in calls.callees)).seconds(1)
    total_s, bytes_lacking = rtt + _tokens * step, sum(size(number) for number in lacking)
    return Delegate(candidate.node, lacking, bytes_lacking, step, total_s, calls, candidate.doubt)


def _measured(callee: CallTimes, rtt: float) -> CallTimes:
    """With something in the place of what nothing tells of."""
    return callee if callee.seconds(1) is not None else replace(callee, round_trip_s=max(rtt, _unmeasured_rtt_s))


def _calls(holding: Holding, predicted: ExpertSet, elsewhere: Elsewhere, rtt: float) -> Calls:
    """Whom a node to which the way takes so long asks for what it lacks: also for what is used seldom."""
    layers, experts = predicted.weights.shape
    bits = np.frombuffer(holding.experts[: (layers * experts + 7) >> 3], np.uint8)
    held = np.zeros(layers * experts, np.bool_)
    flags = np.unpackbits(bits, bitorder="little")[: len(held)]
    held[: len(flags)] = flags
    count, per_token = len(elsewhere.callees), max(1.0, float(predicted.weights[0].sum()))
    numbers = np.flatnonzero(~held[: len(elsewhere.places)] & (elsewhere.places >= 0))
    cells = numbers // experts * count + elsewhere.places[numbers]
    shares = np.bincount(cells, predicted.weights.ravel()[numbers] / per_token, layers * count).reshape(layers, count)
    asked = np.flatnonzero((shares > _seldom).any(axis=0)) if count else np.zeros(0, np.int64)
    spreads = [[(place, float(row[at])) for place, at in enumerate(asked) if row[at] > _seldom] for row in shares]
    return Calls(
        round(per_token),
        tuple(elsewhere.callees[at].over(rtt) for at in asked),
        tuple(Spread(1, tuple(each)) for each in spreads if each),
    )
