"""Which node is asked to generate an answer alone. Pure: candidates and a prediction in, an order of candidates out.

Each is expected to take the time of its steps, the longer the more it has to do, and for each layer in which an expert
is likely to be one that it lacks a call to another node. So who holds all goes before who lacks few, unless it is slow.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from blyan.inference.expert_set import ExpertSet
from blyan.inference.snapshot import Rank
from blyan.primitives.ids import PublicKey
from blyan.wire.peer import Holding

_unmeasured_step_s: Final = 0.02  # of a step, where nothing was measured
_unmeasured_rtt_s: Final = 0.02
_tokens: Final = 64  # of an answer, to weigh its beginning against its steps
_waiting_cost: Final = 0.25  # of a step, for each generation that is under way there


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that says that it holds a model's trunk."""

    node: PublicKey
    rank: Rank
    holding: Holding  # as it says
    rtt_s: float | None = None  # measured
    step_s: float | None = None  # of generations that it led, measured
    call_s: float | None = None  # of an expert call, measured
    under_way: int = 0  # generations, of this node's there
    queue: int = 0  # that wait there, as it says


@dataclass(frozen=True, slots=True)
class Delegate:
    """One choice, and what speaks against it."""

    node: PublicKey
    lacking: tuple[int, ...]  # of the predicted experts
    bytes_lacking: int
    step_s: float  # expected, calls included
    total_s: float  # of an answer of ordinary length


def choose(
    candidates: Sequence[Candidate],
    predicted: ExpertSet,
    size: Callable[[int], int],
    without: Collection[PublicKey] = (),
) -> tuple[Delegate, ...]:
    """Who can be asked, the best first: by rank, then by how soon an answer is expected; then fewer bytes, then key.

    `size`: bytes of an expert by its number. Nobody who is unreachable, or in `without`.
    """
    known = [each for each in candidates if each.rank != Rank.unreachable and each.node not in without]
    ordered = sorted((_tier(each.rank), _expected(each, predicted, size)) for each in known)
    return tuple(
        Delegate(node, lacking, bytes_lacking, step_s, total_s)
        for _, (total_s, bytes_lacking, node, lacking, step_s) in ordered
    )


def _tier(rank: Rank) -> int:
    """Newcomers are asked like those that are proven: nobody proves itself unasked, and an answer survives its end."""
    return Rank.proven if rank == Rank.newcomer else rank


def _expected(
    candidate: Candidate, predicted: ExpertSet, size: Callable[[int], int]
) -> tuple[float, int, PublicKey, tuple[int, ...], float]:
    lacking = tuple(number for number in predicted.numbers if not candidate.holding.has(number))
    by_layer: dict[int, float] = {}
    for number in lacking:
        layer = number // predicted.weights.shape[1]
        by_layer[layer] = by_layer.get(layer, 0.0) + predicted.weight(number)
    rtt = _unmeasured_rtt_s if candidate.rtt_s is None else candidate.rtt_s
    call = rtt if candidate.call_s is None else candidate.call_s
    step = _unmeasured_step_s if candidate.step_s is None else candidate.step_s
    step *= 1 + _waiting_cost * (candidate.under_way + candidate.queue)
    step += call * sum(min(1.0, weight) for weight in by_layer.values())
    return rtt + _tokens * step, sum(size(number) for number in lacking), candidate.node, lacking, step
