"""Which experts a node should hold: all a few times, hot ones more often, used together kept together; few moves. Pure.

Every node decides alone from what it has heard. Below the floor the rarest come first. Beyond it an expert is worth to
a node the traffic that its replica would take over for each byte (so replicas follow traffic, as d'Hondt shares seats),
and more where those are that are used with it, as one message carries them all. Rendezvous hashing (Thaler and
Ravishankar 1998), weighted by worth (Efraimidis and Spirakis 2006), makes nodes that start together differ in what they
fetch, and agree on who of many holders may let go: the best ranked ones keep it, so that all of them can act at once.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Generic, TypeVar

from blake3 import blake3

from blyan.primitives.ids import PublicKey

Part = TypeVar("Part", int, str)

_rendezvous = blake3(derive_key_context="blyan v1 placement")
_kept_min: Final = 2  # others that must hold what is given up


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
    gain_min: float = 0.25  # of a part's mean traffic, that an exchange must gain
    message_rows: float = 0.5  # rows that cost as much as one message does beside its rows

    def __post_init__(self) -> None:
        assert self.floor > 0 and self.moves_max > 0, "something is held and moved"
        assert self.gain_min > 0, "an exchange back is never worth it"


@dataclass(frozen=True, slots=True)
class Tier:
    """Room of one kind of memory of a node."""

    name: str  # GPU, memory, disk
    bytes: int
    speed: float  # rows computed a second with experts from there, in any one unit


@dataclass(frozen=True, slots=True)
class Demand(Generic[Part]):
    """What parts are used for, as far as is known, and what there is for that."""

    traffic: Mapping[Part, float]  # rows a second
    together: Mapping[Part, Mapping[Part, float]]  # part → others → how often a token uses these too, 0 to 1
    capacity: Mapping[Part, float]  # of all holders, this node included, as `capacities` says


nothing_known: Final[Demand[Any]] = Demand({}, {}, {})


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
    demand: Demand[Part] = nothing_known
    tiers: Sequence[Tier] = ()  # of this node, the fastest first; empty: of one kind

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
    floor, up to `exchanges` parts are given up for others that are worth much more.
    """
    rules = rules or PlacementRules()
    sizes = shelf.sizes
    held = {part for part in mine if part in sizes}
    free = budget - sum(sizes[part] for part in held)
    drop = _shed(shelf, held, -free) if free < 0 else []
    free += sum(sizes[part] for part in drop)
    wanted = sizes.keys() - held - set(drop)
    least = min((sizes[part] for part in wanted), default=0)
    fetch: list[Part] = []
    for part in _by_need(shelf, wanted, held, rules) if wanted and least <= free else ():
        if sizes[part] <= free:
            fetch.append(part)
            free -= sizes[part]
        if len(fetch) == rules.moves_max or free < least:
            break
    rare = [part for part in wanted - set(fetch) if shelf.others(part) < rules.floor]
    expected = sum(rules.floor - shelf.others(part) for part in rare) / max(1, shelf.live)
    moves = min(int(expected) + (draw() < expected % 1.0), rules.moves_max - len(fetch))
    if moves > 0:
        given, taken = _exchange(shelf, held, rare, moves, free, rules)
        drop += given
        fetch += taken
    if exchanges > 0 and not rare and not fetch and not drop and shelf.demand.traffic:
        return _improved(shelf, held, free, exchanges, rules)
    return Placement(tuple(drop), tuple(fetch))


def in_tiers(tiers: Sequence[Tier], sizes: Mapping[Part, int], traffic: Mapping[Part, float]) -> dict[Part, Tier]:
    """Where each of a node's parts belongs: those most used for each byte in the fastest tier that has room.

    Parts for which there is no room are left out.
    """
    left = [tier.bytes for tier in tiers]
    found: dict[Part, Tier] = {}
    for part in sorted(sizes, key=lambda part: -traffic.get(part, 0.0) / sizes[part]):
        for place, tier in enumerate(tiers):
            if sizes[part] <= left[place]:
                left[place] -= sizes[part]
                found[part] = tier
                break
    return found


def capacities(tiers: Sequence[Tier], sizes: Mapping[Part, int], traffic: Mapping[Part, float]) -> dict[Part, float]:
    """What a node that holds these parts can do with each: the speed of its tier, by its share of the tier's bytes."""
    return {part: _capacity(tier, sizes[part]) for part, tier in in_tiers(tiers, sizes, traffic).items()}


def _capacity(tier: Tier, size: int) -> float:
    return tier.speed * size / max(tier.bytes, size)


class _Worth(Generic[Part]):
    """What parts are worth to the swarm at this node: traffic × logarithm of capacity, summed over parts, is maximal.

    That shares capacity as traffic is (Kelly, Maulloo and Tan 1998), so hot parts get replicas and fast tiers; every
    exchange that raises the sum brings all nodes nearer to rest. Where partners of a part are it is worth a bit more.
    """

    def __init__(self, shelf: Shelf[Part], held: Collection[Part], rules: PlacementRules) -> None:
        self._shelf, self._rules, self._demand = shelf, rules, shelf.demand
        self._tiers = shelf.tiers or (Tier("memory", sum(map(shelf.sizes.__getitem__, held)) or 1, 1.0),)
        self._mean = sum(shelf.demand.traffic.values()) / max(1, len(shelf.demand.traffic))
        self.held = set(held)
        self._place()

    def of_new(self, part: Part) -> float:
        """Of one that is not here, less what it displaces in its tier."""
        traffic = self._demand.traffic.get(part, 0.0)
        heat = self._heat(part)
        place = next((at for at, bound in enumerate(self._bounds) if heat >= bound), len(self._tiers) - 1)
        own, there = _capacity(self._tiers[place], self._shelf.sizes[part]), self._demand.capacity.get(part, 0.0)
        gain = traffic * math.log1p(own / there) if there else traffic
        return gain + self._company(part, traffic * own / (there + own)) - self._entry[place]

    def of_held(self, part: Part) -> float:
        """Of one that is here, as if it lay in the last tier: of what is displaced, that is told of what comes."""
        traffic, there = self._demand.traffic.get(part, 0.0), self._demand.capacity.get(part, 0.0)
        own = self._own.get(part, 0.0)
        if own >= there * (1 - 1e-9):
            return math.inf if traffic else 0.0
        last = min(own, _capacity(self._tiers[-1], self._shelf.sizes[part]))
        return traffic * math.log(there / (there - last)) + self._company(part, traffic * own / there)

    def exchange(self, given: Part, taken: Part) -> None:
        """From now on as if that were done."""
        self.held.discard(given)
        self.held.add(taken)
        self._place()

    def is_enough(self, gain: float) -> bool:
        """Whether a difference of worths is worth a move."""
        return gain > self._rules.gain_min * self._mean

    def _place(self) -> None:
        sizes, traffic = self._shelf.sizes, self._demand.traffic
        placed = in_tiers(self._tiers, {part: sizes[part] for part in self.held}, traffic)
        self._own = {part: _capacity(tier, sizes[part]) for part, tier in placed.items()}
        # heat (traffic a byte) from which a part would lie in each tier, and what is lost as others make room there
        count = len(self._tiers)
        self._bounds, self._entry = [0.0] * count, [0.0] * count
        for place in reversed(range(count - 1)):
            tier, below = self._tiers[place], self._tiers[place + 1]
            inside = [part for part, of in placed.items() if of is tier]
            if not inside or tier.bytes - sum(sizes[part] for part in inside) >= max(sizes[part] for part in inside):
                continue
            coldest = min(inside, key=self._heat)
            self._bounds[place] = self._heat(coldest)
            there, fall = self._demand.capacity.get(coldest, 0.0), _capacity(tier, sizes[coldest])
            fall -= _capacity(below, sizes[coldest])
            lost = traffic.get(coldest, 0.0) * math.log(there / (there - fall)) if there > fall > 0 else 0.0
            self._entry[place] = self._entry[place + 1] + lost

    def _company(self, part: Part, traffic: float) -> float:
        partners = self._demand.together.get(part)
        company = sum(share for other, share in partners.items() if other in self.held) if partners else 0.0
        return self._rules.message_rows * traffic * company / (1 + company)

    def _heat(self, part: Part) -> float:
        return self._demand.traffic.get(part, 0.0) / self._shelf.sizes[part]


def _by_need(
    shelf: Shelf[Part], wanted: Collection[Part], held: Collection[Part], rules: PlacementRules
) -> Iterator[Part]:
    """What to fill free room with, the most needed first: below the floor the rarest, then by lot and worth."""
    if not shelf.demand.traffic:
        yield from shelf.by_rarity(wanted)
        return
    worth = _Worth(shelf, held, rules)
    least = max((worth.of_new(part) for part in wanted), default=0.0) / 100  # a weight of nothing would be no lot
    queue: list[tuple[int, float, int, Part]] = []  # class, lot, rank, part

    def put(part: Part) -> None:
        others, rank = shelf.others(part), shelf.rank(shelf.me, part)
        weight = max(worth.of_new(part), least) or 1.0
        heapq.heappush(queue, (min(others, rules.floor), _lot(rank, weight), rank, part))

    for part in wanted:
        put(part)
    done: set[Part] = set()
    while queue:
        part = heapq.heappop(queue)[-1]
        if part in done:
            continue
        done.add(part)
        yield part
        worth.held.add(part)
        for other in shelf.demand.together.get(part, ()):  # which are worth more now
            if other in wanted and other not in done:
                put(other)


def _lot(rank: int, weight: float) -> float:
    """The lowest wins, as often as its weight is of all weights."""
    return -math.log(((rank & 0xFFFFFFFF) + 1) / 0x100000001) / weight


def _improved(
    shelf: Shelf[Part], held: Collection[Part], free: int, exchanges: int, rules: PlacementRules
) -> Placement[Part]:
    """The exchanges that gain most; what is taken is drawn by lot among what gains much, so that nodes differ."""
    worth = _Worth(shelf, held, rules)
    spare = sorted(_spare(shelf, held, rules), key=worth.of_held, reverse=True)  # the least worth last
    values: dict[Part, float] = {part: worth.of_new(part) for part in shelf.sizes.keys() - set(held)}
    drop: list[Part] = []
    fetch: list[Part] = []
    while spare and values and len(fetch) < exchanges:
        given = spare.pop()
        room, least = free + shelf.sizes[given], worth.of_held(given)
        much = max(values.values()) / 2
        near = [
            part
            for part, value in values.items()
            if value > much and shelf.sizes[part] <= room and worth.is_enough(value - least)
        ]
        if not near:
            break
        taken = min(near, key=lambda part: _lot(shelf.rank(shelf.me, part), values[part]))
        drop.append(given)
        fetch.append(taken)
        free = room - shelf.sizes[taken]
        worth.exchange(given, taken)
        values = {part: worth.of_new(part) for part in values if part != taken}
    return Placement(tuple(drop), tuple(fetch), len(fetch))


def _shed(shelf: Shelf[Part], held: set[Part], lacking: int) -> list[Part]:
    """The budget shrank: what most others have is taken out of `held`, until so many bytes are free."""
    drop: list[Part] = []
    for part in sorted(held, key=lambda part: (-shelf.others(part), -shelf.rank(shelf.me, part))):
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
    spare = _spare(shelf, held, rules)
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


def _spare(shelf: Shelf[Part], held: Collection[Part], rules: PlacementRules) -> list[Part]:
    """What this node may give up, the most common last: enough others have it who may not, as they rank better."""
    enough = max(_kept_min, rules.floor)
    found: list[Part] = []
    for part in held:
        if shelf.others(part) >= enough:  # else there is nothing to rank
            own = shelf.rank(shelf.me, part)
            if sum(shelf.rank(node, part) < own for node in shelf.holders[part]) >= enough:
                found.append(part)
    found.sort(key=lambda part: (shelf.others(part), shelf.rank(shelf.me, part)))
    return found
