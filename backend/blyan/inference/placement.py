"""Which experts a node should hold: all a few times, hot ones more often, used together kept together; few moves. Pure.

Every node decides alone from what it has heard. Below the floor the rarest come first. Beyond it an expert is worth to
a node what it would save the swarm there (`spread`), more where those are that are used with it, as one message carries
them all, and more the fewer others hold it, as several nodes may be lost at once. Rendezvous hashing (Thaler and
Ravishankar 1998), weighted by worth (Efraimidis and Spirakis 2006), makes nodes that start together differ in what they
fetch, and agree on who of many holders may let go: the best ranked ones keep it, so that all of them can act at once.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Final, Generic

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from blyan.inference.demand import Demand, Part, Tier, rate_heat
from blyan.inference.moves import Why
from blyan.primitives.ids import PublicKey

_rendezvous = blake3(derive_key_context="blyan v1 placement")
_kept_min: Final = 2  # others that must hold what is given up
_rarer: Final = 8.0  # times as likely is what one node less holds: those that fill up at once do not take the same


def rendezvous(node: PublicKey, part: int | str) -> int:
    """How well a node suits a part, by lot alone, the lowest best: the same for all who ask."""
    hasher = _rendezvous.copy()
    hasher.update(f"{node}/{part}".encode())
    return int.from_bytes(hasher.digest(8), "big")


@dataclass(frozen=True, slots=True)
class PlacementRules:
    """What placement aims at."""

    floor: int = 2  # replicas of each part, this node's own included
    moves_max: int = 64  # fetched in one round; what has been fetched is told before the next
    gain_min: float = 0.1  # of what a part's rows cost on average, that an exchange must gain
    gain_times: float = 1.5  # what is given up
    takers: float = 2.0  # nodes that take a part at once, of all for which that gains enough
    message_rows: float = 0.5  # rows that cost as much as one message does beside its rows
    lost_at_once: float = 0.1  # of the nodes, that may be
    lost_rows: float = 10.0  # rows that cost as much as one that nobody can compute

    def __post_init__(self) -> None:
        assert self.floor > 0 and self.moves_max > 0, "something is held and moved"
        assert self.gain_min > 0 and self.gain_times > 1, "an exchange back is never worth it"


@dataclass(frozen=True, slots=True)
class MoveBudget:
    """How many parts may still be exchanged for worth; fills up with time. What keeps parts from being lost is free."""

    per_hour: float
    left: float = 0.0
    at: float = 0.0

    def now(self, now: float) -> MoveBudget:
        """As of later: at most a quarter of an hour's moves are saved up, and one."""
        left = self.left + max(0.0, now - self.at) * self.per_hour / 3_600
        return MoveBudget(self.per_hour, min(left, max(1.0, self.per_hour / 4)), max(now, self.at))

    def spent(self, moves: int) -> MoveBudget:
        """So many were made."""
        return MoveBudget(self.per_hour, self.left - moves, self.at)


@dataclass(frozen=True, slots=True)
class Shelf(Generic[Part]):
    """The parts that there are, and where, as one node sees it."""

    me: PublicKey
    live: int  # nodes, this one included
    sizes: Mapping[Part, int]  # bytes
    holders: Mapping[Part, Collection[PublicKey]]  # other live nodes
    rank: Callable[[PublicKey, Part], int] = rendezvous
    demand: Demand[Part] | None = None
    tiers: Sequence[Tier] = ()  # of this node, the fastest first; empty: of one kind
    kept: Collection[object] = ()  # parts that are never given up

    def others(self, part: Part) -> int:
        """How many other nodes hold it."""
        return len(self.holders.get(part, ()))

    def by_rarity(self, parts: Iterable[Part]) -> Iterator[Part]:
        """The rarest first, among equals those that suit this node."""
        groups: dict[int, list[Part]] = {}
        for part in parts:
            groups.setdefault(self.others(part), []).append(part)
        for count in sorted(groups):
            yield from sorted(groups[count], key=lambda part: self.rank(self.me, part))


@dataclass(frozen=True, slots=True)
class Placement(Generic[Part]):
    """What a node does next: give up, then fetch, in this order. Both empty: it holds what it should."""

    drop: tuple[Part, ...]
    fetch: tuple[Part, ...]
    why: Mapping[Part, Why]  # of each of both
    exchanges: int = 0  # of what is fetched: for its worth alone


def choose(
    shelf: Shelf[Part],
    mine: Collection[Part],
    budget: int,
    draw: Callable[[], float],
    rules: PlacementRules | None = None,
    exchanges: int = 0,
) -> Placement[Part]:
    """What to give up and fetch so that what this node holds fits `budget` bytes and helps most.

    Room that is free is filled. A full node makes room for what is below the floor, by giving up what enough others
    have, and only with the probability that makes about so many nodes move as are needed. Where nothing is below the
    floor and `exchanges` are left, one part is given up for another that is worth much more: what comes of that is to
    be seen before the next.
    """
    rules = rules or PlacementRules()
    sizes = shelf.sizes
    held = {part for part in mine if part in sizes}
    free = budget - sum(sizes[part] for part in held)
    drop = _shed(shelf, held, -free) if free < 0 else []
    free += sum(sizes[part] for part in drop)
    wanted = sizes.keys() - held - set(drop)
    least = min(sizes.values(), default=0)
    fetch: list[Part] = []
    for part in _by_need(shelf, wanted, held, rules, draw()) if wanted and least <= free else ():
        if sizes[part] <= free:
            fetch.append(part)
            free -= sizes[part]
        if len(fetch) == rules.moves_max or free < least:
            break
    lacking = _below(shelf, rules.floor)
    why: dict[Part, Why] = dict.fromkeys(drop, "memory")
    why.update({part: "rare" if part in lacking else "room" for part in fetch})
    rare = list(wanted & lacking - set(fetch))
    expected = sum(rules.floor - shelf.others(part) for part in rare) / max(1, shelf.live)
    moves = min(int(expected) + (draw() < expected % 1.0), rules.moves_max - len(fetch))
    if moves > 0:
        given, taken = _exchange(shelf, held, rare, moves, free, rules)
        why.update(dict.fromkeys([*given, *taken], "rare"))
        drop += given
        fetch += taken
    if exchanges > 0 and not rare and not fetch and not drop and shelf.demand is not None:
        return _improved(shelf, shelf.demand, held, free, rules, draw())
    return Placement(tuple(drop), tuple(fetch), why)


def settled(
    made: Placement[Part], sizes: Mapping[Part, int], free: int, shown: Collection[Part]
) -> tuple[list[Part], list[Part]]:
    """What is given up and what is fetched, where only these parts may be given up, and so many bytes were free.

    Fetched is the first of it, as far as there is room; what would be given up for the rest of it stays. What is held
    beyond the room for all goes in any case.
    """
    drop = [part for part in made.drop if part in shown]
    free += sum(sizes[part] for part in drop)
    fetch: list[Part] = []
    for part in made.fetch:
        if sizes[part] > free:
            break
        free -= sizes[part]
        fetch.append(part)
    for part in reversed(drop.copy()):
        if made.why[part] != "memory" and sizes[part] <= free:
            free -= sizes[part]
            drop.remove(part)
    return drop, fetch


class _Worth(Generic[Part]):
    """What parts are worth to the swarm at this node, in what a row costs.

    What comes pushes others to slower tiers; that is left out, for what is given up makes room there.
    """

    def __init__(self, shelf: Shelf[Part], demand: Demand[Part], held: Collection[Part], rules: PlacementRules) -> None:
        self._shelf, self._demand, self._rules = shelf, demand, rules
        self._me = demand.nodes[shelf.me]
        known = [part for part in held if part in demand.index]
        self._here = np.zeros(len(demand.traffic), np.bool_)
        self._here[[demand.index[part] for part in known]] = True
        total = float(demand.traffic.sum())
        self._row = float((demand.traffic * demand.spread.costs).sum()) / total  # what one costs on average
        self.enough = rules.gain_min * self._row * total / len(demand.traffic)
        # from which heat (traffic for each byte) on a part would lie in each tier
        sizes = shelf.sizes
        heat = sorted(((demand.heat(shelf.me, part) / sizes[part], sizes[part]) for part in known), reverse=True)
        filled = list(accumulate(size for _, size in heat))
        places = [bisect_left(filled, end) for end in accumulate(tier.bytes for tier in shelf.tiers)]
        self._bounds = [heat[at][0] if at < len(heat) else 0.0 for at in places]

    def of_new(self, parts: Sequence[Part]) -> NDArray[np.float64]:
        """Of parts that are not here."""
        demand = self._demand
        at, others = self._numbers(parts)
        sizes = np.fromiter(map(self._shelf.sizes.__getitem__, parts), np.int64, len(parts))
        heat = (1 + rate_heat) * demand.traffic[at] / sizes
        speed = np.full(len(at), self._shelf.tiers[-1].speed if self._shelf.tiers else 1.0)
        for tier, bound in zip(reversed(self._shelf.tiers), reversed(self._bounds), strict=True):
            speed[heat >= bound] = tier.speed
        every = np.ones(len(demand.traffic))
        every[at] = speed
        gain = demand.spread.gain(self._me, demand.traffic, every)[at]
        return gain * self._in_company(at) + self._safety(at, others)

    def of_held(self, parts: Sequence[Part]) -> NDArray[np.float64]:
        """Of parts that are here and at others."""
        at, others = self._numbers(parts)
        lost = np.array([self._demand.spread.loss(self._me, each) for each in at.tolist()])
        return lost * self._in_company(at) + self._safety(at, others)

    def _numbers(self, parts: Sequence[Part]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places in the arrays of the demand, and how many others hold each."""
        holders = self._shelf.holders
        counts = [len(holders.get(part, ())) for part in parts]
        at = np.fromiter(map(self._demand.index.__getitem__, parts), np.int64, len(parts))
        return at, np.array(counts, np.int64)

    def take(self, part: Part) -> None:
        """From now on as if it were here, for the company of others."""
        self._here[self._demand.index[part]] = True

    def company(self, part: Part) -> float:
        """How much more a part is worth for what is here with it."""
        return float(self._in_company(np.array([self._demand.index[part]]))[0])

    def _in_company(self, at: NDArray[np.int64]) -> NDArray[np.float64]:
        company = (self._here[self._demand.partners[at]] * self._demand.company[at]).sum(axis=1)
        return 1 + self._rules.message_rows * company / (1 + company)

    def _safety(self, at: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.float64]:
        """What is expected to be lost less, if many nodes are lost at once."""
        rules = self._rules
        return self._demand.traffic[at] * (self._row * rules.lost_rows * rules.lost_at_once**others)


def _by_need(
    shelf: Shelf[Part], wanted: Collection[Part], held: Collection[Part], rules: PlacementRules, lot: float
) -> Iterator[Part]:
    """What to fill free room with. Below the floor first, as far as not all who have room would take the same.

    Then by lot, the more likely the fewer hold it, below the floor most, and those in whose company it is used.
    """
    if shelf.demand is None:
        yield from shelf.by_rarity(wanted)
        return
    rare = list(_below(shelf, rules.floor).intersection(wanted))
    few = 4 * sum(rules.floor - shelf.others(part) for part in rare) / max(1, shelf.live)
    first = list(islice(shelf.by_rarity(rare), int(few) + (lot < few % 1.0)))
    yield from first
    demand = shelf.demand
    worth = _Worth(shelf, demand, {*held, *first}, rules)
    least = min(map(shelf.others, wanted), default=0)
    queue: list[tuple[float, int, Part]] = []  # lot, rank, part
    parts = {at: part for part, at in demand.index.items()}

    def put(part: Part) -> None:
        others, rank = shelf.others(part), shelf.rank(shelf.me, part)
        weight = _rarer ** (least - others)
        weight *= worth.company(part) if part in demand.index else 1.0
        heapq.heappush(queue, (_lot(rank, weight), rank, part))

    done: set[Part] = set(first)
    for part in wanted:
        if part not in done:
            put(part)
    while queue:
        part = heapq.heappop(queue)[-1]
        if part in done:
            continue
        done.add(part)
        yield part
        if part not in demand.index:
            continue
        worth.take(part)
        for at in demand.partners[demand.index[part]].tolist():  # which are worth more now
            if parts[at] in wanted and parts[at] not in done:
                put(parts[at])


def _below(shelf: Shelf[Part], floor: int) -> set[Part]:
    """What fewer others hold."""
    return {part for part in shelf.sizes if len(shelf.holders.get(part, ())) < floor}


def _lot(rank: int, weight: float) -> float:
    """The lowest wins, as often as its weight is of all weights."""
    return -math.log(((rank & 0xFFFFFFFF) + 1) / 0x100000001) / weight


def _improved(
    shelf: Shelf[Part], demand: Demand[Part], held: Collection[Part], free: int, rules: PlacementRules, lot: float
) -> Placement[Part]:
    """One exchange that gains enough, by lot among all that would: so that nodes differ.

    All nodes see the same, so each moves with the probability that makes as many of them move as there are such parts.
    """
    spare = [part for part in spare_parts(shelf, held, rules) if part in demand.index]
    others = [part for part in shelf.sizes if part not in held and part in demand.index]
    if not spare or not others:
        return Placement((), (), {})
    worth = _Worth(shelf, demand, held, rules)
    losses, gains = worth.of_held(spare), worth.of_new(others)
    least = int(losses.argmin())
    given, room = spare[least], free + shelf.sizes[spare[least]]
    much = rules.gain_times * float(losses[least]) + worth.enough
    near = [at for at in np.flatnonzero(gains > much).tolist() if shelf.sizes[others[at]] <= room]
    if not near or lot * shelf.live >= rules.takers * len(near):
        return Placement((), (), {})
    taken = others[min(near, key=lambda at: _lot(shelf.rank(shelf.me, others[at]), float(gains[at])))]
    return Placement((given,), (taken,), {given: "worth", taken: "worth"}, 1)


def _shed(shelf: Shelf[Part], held: set[Part], lacking: int) -> list[Part]:
    """The budget shrank: what most others have is taken out of `held`, until so many bytes are free."""
    drop: list[Part] = []
    for part in sorted(
        held.difference(shelf.kept), key=lambda part: (-shelf.others(part), -shelf.rank(shelf.me, part))
    ):
        if lacking <= 0:
            break
        drop.append(part)
        lacking -= shelf.sizes[part]
    held.difference_update(drop)
    return drop


def _exchange(
    shelf: Shelf[Part], held: Collection[Part], rare: Sequence[Part], moves: int, free: int, rules: PlacementRules
) -> tuple[list[Part], list[Part]]:
    """What is given up for the rarest of what is below the floor, so many at most; and these."""
    spare = spare_parts(shelf, held, rules)
    drop: list[Part] = []
    fetch: list[Part] = []
    for part in islice(shelf.by_rarity(rare), moves):
        given: list[Part] = []
        while free < shelf.sizes[part] and spare:
            given.append(spare.pop())
            free += shelf.sizes[given[-1]]
        if free < shelf.sizes[part]:
            break
        free -= shelf.sizes[part]
        drop += given
        fetch.append(part)
    return drop, fetch


def spare_parts(shelf: Shelf[Part], held: Collection[Part], rules: PlacementRules) -> list[Part]:
    """What this node may give up, the most common last: enough others have it who may not, as they rank better."""
    enough = max(_kept_min, rules.floor)
    found: list[Part] = []
    for part in set(held).difference(shelf.kept):
        if shelf.others(part) >= enough:  # else there is nothing to rank
            own = shelf.rank(shelf.me, part)
            if sum(shelf.rank(node, part) < own for node in shelf.holders[part]) >= enough:
                found.append(part)
    found.sort(key=lambda part: (shelf.others(part), shelf.rank(shelf.me, part)))
    return found
