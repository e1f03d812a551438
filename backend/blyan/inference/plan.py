"""Who computes which expert calls of one MoE layer, and who stands by: one message a node. Pure.

Replicas share the rows by score, so that a node twice as fast gets twice as many (longest call first, Graham 1969); a
node that is many times slower gets none. What is cached is in the snapshot: an unchanged registry plans again cheaply.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from blake3 import blake3

from blyan.inference.snapshot import Choice, RegistrySnapshot
from blyan.primitives import canonical
from blyan.primitives.ids import PayloadId, PublicKey

_plan = blake3(derive_key_context="blyan v1 plan")


class CallSpec(NamedTuple):
    """One expert call, by what planning needs of it."""

    layer: int  # its number in the model
    expert: int
    rows: int


class Assignment(NamedTuple):
    """One message: which calls, by their index, go to a node."""

    node: PublicKey
    calls: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """How plans choose."""

    newcomer_share: float = 0.1  # of plans that ask newcomers, where they have the expert
    probe_share: float = 0.5  # of plans that may try a node whose breaker is half-open
    probe_hedge_s: float = 0.05  # a node on trial is not waited for

    def __post_init__(self) -> None:
        assert 0 <= self.newcomer_share <= 1 and 0 <= self.probe_share <= 1, "shares"
        assert self.probe_hedge_s > 0, "it is given a moment"


default_policy: Final = Policy()


@dataclass(frozen=True, slots=True)
class ExpertPlan:
    """What one layer's calls come to. Each call is in `local`, in one assignment, or in `missing`."""

    type: Literal["local", "dynamic"]
    local: tuple[int, ...]
    assignments: tuple[Assignment, ...]
    fallbacks: tuple[tuple[PublicKey, ...], ...]  # by call: who is asked next, in order
    hedge_after: Mapping[PublicKey, float]  # seconds, by node: when its message is late enough for a second copy
    missing: tuple[int, ...]  # nobody has their expert
    probes: tuple[PublicKey, ...] = ()  # nodes that this plan tries after a failure, each with one call

    @property
    def signature(self) -> str:
        """64 hex digits over type and assignments: equal for equal plans, in any process."""
        hasher = _plan.copy()
        hasher.update(
            canonical.encode(
                {
                    "type": self.type,
                    "local": list(self.local),
                    "assignments": [[node, list(calls)] for node, calls in self.assignments],
                }
            )
        )
        return hasher.hexdigest()


def plan_experts(
    calls: Sequence[CallSpec],
    manifest: PayloadId,
    local: frozenset[tuple[int, int]],
    snapshot: RegistrySnapshot,
    policy: Policy,
    draw: Callable[[], float],
) -> ExpertPlan:
    """Decide who computes `calls`; what this node has itself (`local`, by layer and expert) it computes itself."""
    here: list[int] = []
    missing: list[int] = []
    contested: list[tuple[int, int]] = []  # (-rows, call): with several nodes to choose from
    choices: list[Choice | None] = []
    shares: dict[int, list[int]] = {}  # node → its calls
    loads = _Loads(snapshot.scores, draw)
    known = snapshot.choices(manifest)
    newcomers = draw() < policy.newcomer_share
    for at, call in enumerate(calls):
        key = call[:2]
        if key in local:
            here.append(at)
            choices.append(None)
            continue
        choice = known.get(key) or snapshot.choice(manifest, call.layer, call.expert)
        choices.append(choice)
        if choice is None:
            missing.append(at)
        elif len(options := choice.admitted if newcomers else choice.settled) == 1:
            shares.setdefault(loads.give(options, call.rows), []).append(at)
        else:
            contested.append((-call.rows, at))
    contested.sort()
    for negative, at in contested:
        choice = choices[at]
        assert choice is not None, "contested calls have a choice"
        node = loads.give(choice.admitted if newcomers else choice.settled, -negative)
        shares.setdefault(node, []).append(at)
    probes = _try_again(choices, shares, policy, draw) if snapshot.probing else ()
    return _made(here, missing, shares, choices, probes, snapshot, policy)


class _Loads:
    """Rows that each node has in this plan, and a fraction by lot so that equals take turns."""

    __slots__ = ("_draw", "_loads", "_scores")

    def __init__(self, scores: Sequence[float], draw: Callable[[], float]) -> None:
        self._scores = scores
        self._draw = draw
        self._loads: dict[int, float] = {}

    def give(self, options: Sequence[int], rows: int) -> int:
        """The node that would be done with these rows first, by all its rows times its score; they are added."""
        loads, scores = self._loads, self._scores
        best, least, most = -1, math.inf, 0.0
        for node in options:
            load = loads.get(node)
            if load is None:
                load = loads[node] = self._draw()
            load += rows
            cost = load * scores[node]
            if cost < least:
                best, least, most = node, cost, load
        loads[best] = most
        return best


def _try_again(
    choices: Sequence[Choice | None], shares: dict[int, list[int]], policy: Policy, draw: Callable[[], float]
) -> tuple[int, ...]:
    """Move one call to each node whose breaker is half-open: somebody else who can do it stands by."""
    waiting = {node: at for at, choice in enumerate(choices) if choice is not None for node in choice.probes}
    probes: list[int] = []
    taken: set[int] = set()
    for node, at in sorted(waiting.items()):
        if at in taken or node in shares or draw() >= policy.probe_share:
            continue  # in `shares`: it is asked anyway, for what nobody else has
        before = next(each for each, calls in shares.items() if at in calls)
        shares[before].remove(at)
        if not shares[before]:
            del shares[before]
        shares[node] = [at]
        probes.append(node)
        taken.add(at)
    return tuple(probes)


def _made(
    here: list[int],
    missing: list[int],
    shares: Mapping[int, list[int]],
    choices: Sequence[Choice | None],
    probes: tuple[int, ...],
    snapshot: RegistrySnapshot,
    policy: Policy,
) -> ExpertPlan:
    fallbacks: list[tuple[PublicKey, ...]] = [()] * len(choices)
    hedges: dict[PublicKey, float] = {}
    assignments: list[Assignment] = []
    for node, mine in shares.items():
        view = snapshot.view(node)
        mine.sort()
        assignments.append(Assignment(view.node, tuple(mine)))
        hedges[view.node] = policy.probe_hedge_s if node in probes else view.hedge_after
        for at in mine:
            choice = choices[at]
            assert choice is not None, "assigned calls have a choice"
            others = choice.fallbacks.get(node)
            fallbacks[at] = choice.after(node) if others is None else others
    assignments.sort()
    return ExpertPlan(
        "dynamic" if assignments or missing else "local",
        tuple(here),
        tuple(assignments),
        tuple(fallbacks),
        hedges,
        tuple(missing),
        tuple(snapshot.view(node).node for node in probes),
    )
