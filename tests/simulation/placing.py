"""Nodes of unlike memory that each decide what to hold, by one of several rules, and what a swarm so placed can carry.

Nodes look at each other a round late. What is real: `placement`, `expert_use`, `expert_demand`. Calls of a sample of
tokens go to the holder that would be done first; a node's seconds are those of the tier in which its expert lies.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from blyan.inference.demand import Demand, Tier, demand_for, speeds
from blyan.inference.expert_demand import ExpertDemand, demand_of
from blyan.inference.expert_use import ExpertUse
from blyan.inference.placement import MoveBudget, Placement, PlacementRules, Shelf, choose
from blyan.inference.snapshot import ExpertGrid
from blyan.primitives.ids import PublicKey
from simulation.demand import Traffic
from swarms import node

Rule = Literal["worth", "rarest", "greedy", "random"]
SIZE = 10
ROUND_MINUTES, SLOTS = 5.0, 20  # what moves in a slot is seen in the next
SLOTS_A_MINUTE = 4  # nodes tell each other of use so often
KINDS = {  # parts in each tier, before they are scaled to the room that there is
    "laptop": (("memory", 6, 1.0), ("disk", 6, 0.2)),
    "desktop": (("memory", 16, 2.0), ("disk", 16, 0.3)),
    "GPU": (("GPU", 16, 16.0), ("memory", 32, 2.0), ("disk", 32, 0.3)),
}
_word = (1 << 64) - 1
SHARES = (0.6, 0.3, 0.1)


@dataclass(eq=False)
class Machine:
    """One node."""

    key: PublicKey
    tiers: tuple[Tier, ...]
    holds: set[int] = field(default_factory=set)
    moves: MoveBudget = field(default_factory=lambda: MoveBudget(0.0))
    alive: bool = True

    @property
    def budget(self) -> int:
        return sum(tier.bytes for tier in self.tiers)


@dataclass(frozen=True)
class Carried:
    """What a placement comes to for a sample of tokens."""

    tokens_s: float  # when the busiest node has no rest
    peak: float  # the busiest node's work, over what it would be if all were as busy
    nodes: float  # that together hold what a token uses in a layer, the fewest
    lost: float  # share of tokens that use an expert nobody holds
    risk: float  # of tokens that would be lost if a tenth of the nodes died at once, on average


class Swarm:
    """All nodes, by one rule."""

    def __init__(
        self, rule: Rule, nodes: int, grid: ExpertGrid, traffic: Traffic, room: float, seed: int, per_hour: float = 12.0
    ) -> None:
        self.rule, self.grid, self.traffic = rule, grid, traffic
        self.rng = random.Random(seed)
        self.rules = PlacementRules(floor=2, moves_max=32)
        self.sizes = dict.fromkeys(range(grid.count), SIZE)
        self.use = ExpertUse(grid, traffic.per_token)
        self.minutes, self.fetched, self.exchanged = 0.0, 0, 0
        self.told: ExpertDemand | None = None  # what is used, as of this round
        self.shares: dict[int, float] = {}
        self.known: Demand[int] | None = None
        kinds = self.rng.choices(tuple(KINDS), SHARES, k=nodes)
        scale = room * self.rules.floor * grid.count / sum(parts for kind in kinds for _, parts, _ in KINDS[kind])
        self.machines = [
            Machine(node(number), _tiers(kind, scale, grid.count), moves=MoveBudget(per_hour))
            for number, kind in enumerate(kinds)
        ]
        self.by_key = {each.key: each for each in self.machines}
        self.holders: dict[int, set[PublicKey]] = {part: set() for part in range(grid.count)}

    @property
    def alive(self) -> list[Machine]:
        return [each for each in self.machines if each.alive]

    def rank(self, key: PublicKey, part: int) -> int:
        """By lot, the same for all who ask; cheaper than the product's."""
        mixed = (int(key, 16) * 0x9E3779B97F4A7C15 + part * 0xD1B54A32D192ED03 + 7) & _word
        mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & _word
        mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & _word
        return mixed ^ mixed >> 31

    def kill(self, share: float) -> int:
        """That many die, with what they hold."""
        gone = self.rng.sample(self.alive, int(share * len(self.alive)))
        for each in gone:
            self._hold(each, set())
            each.alive = False
        return len(gone)

    def serve(self, tokens: int = 256) -> None:
        """Tokens are computed, and their experts counted."""
        self.use.note(self.traffic.tokens(tokens), self.minutes * 60)

    def round(self) -> int:
        """All decide, a few at a time, by what they saw before; how many parts were fetched."""
        before = self.fetched
        turns = self.alive
        self.rng.shuffle(turns)
        self._hear()
        for slot in range(SLOTS):
            if self.rule == "worth" and slot % SLOTS_A_MINUTE == 0:
                self._demand()
            known = self.known if self.rule == "worth" else None
            self.minutes += ROUND_MINUTES / SLOTS
            made = {each: self._chosen(each, known) for each in turns[slot::SLOTS]}
            for each, placed in made.items():
                new = (each.holds - set(placed.drop)) | set(placed.fetch)
                assert len(new) * SIZE <= each.budget, "within the budget"
                self.fetched += len(placed.fetch)
                if new != each.holds:
                    self._hold(each, new)
        return self.fetched - before

    def replicas(self) -> list[int]:
        return [len(held) for held in self.holders.values()]

    def carried(self, tokens: int = 256) -> Carried:
        """See `Carried`; the tokens are not counted."""
        chosen = self.traffic.tokens(tokens)
        self._hear()
        speed = self._speeds()
        places = {each.key: at for at, each in enumerate(self.alive)}
        where = [np.array([places[key] for key in held], np.int64) for held in self.holders.values()]
        fast = [np.array([speed[key][part] for key in held]) for part, held in self.holders.items()]
        seconds = [1 / each for each in fast]
        work, lost, nodes = np.zeros(len(places)), np.zeros(tokens, bool), 0
        for token in range(tokens):
            for place in range(len(self.grid.layers)):
                parts = [place * self.grid.experts + expert for expert in chosen[place, token].tolist()]
                held = [part for part in parts if self.holders[part]]
                lost[token] |= len(held) < len(parts)
                for part in held:
                    done = work[where[part]] + seconds[part]
                    best = int(done.argmin())
                    work[where[part][best]] = done[best]
                nodes += _fewest([self.holders[part] for part in held]) if token < 64 else 0
        peak = float(work.max() * len(work) / work.sum())
        fewest = nodes / min(64, tokens) / len(self.grid.layers)
        return Carried(tokens / float(work.max()), peak, fewest, float(lost.mean()), self._risk(chosen))

    def _risk(self, chosen: NDArray[np.int32], share: float = 0.1, times: int = 20) -> float:
        """Tokens that would be lost if so many died at once, of what is held by somebody now; over so many draws."""
        rng, keys = random.Random(7), [each.key for each in self.alive]
        found: list[float] = []
        for _ in range(times):
            gone = set(rng.sample(keys, int(share * len(keys))))
            without = np.array([bool(held) and held <= gone for held in self.holders.values()])
            layers = without.reshape(len(self.grid.layers), -1)
            found.append(float(np.mean(np.take_along_axis(layers[:, None], chosen, 2).any(axis=(0, 2)))))
        return float(np.mean(found))

    def _chosen(self, each: Machine, known: Demand[int] | None) -> Placement[int]:
        if self.rule == "random":
            return self._any(each)
        for part in each.holds:
            self.holders[part].remove(each.key)
        try:
            shelf = Shelf(each.key, len(self.machines), self.sizes, self.holders, self.rank, known, each.tiers)
            if self.rule == "greedy":
                return self._hottest(each, shelf)
            each.moves = each.moves.now(self.minutes * 60)
            exchanges = int(each.moves.left) if self.rule == "worth" else 0
            made = choose(shelf, each.holds, each.budget, self.rng.random, self.rules, exchanges)
            each.moves = each.moves.spent(made.exchanges)
            self.exchanged += made.exchanges
            return made
        finally:
            for part in each.holds:
                self.holders[part].add(each.key)

    def _hottest(self, each: Machine, shelf: Shelf[int]) -> Placement[int]:
        """The floor as ever, and then the most used for each byte: each node by itself, as if it were alone."""
        made = choose(
            Shelf(shelf.me, shelf.live, shelf.sizes, shelf.holders, self.rank),
            each.holds,
            each.budget,
            self.rng.random,
            self.rules,
        )
        rare = [part for part in made.fetch if shelf.others(part) < self.rules.floor]
        if rare or made.drop:
            return Placement(made.drop, tuple(rare), {})
        free = each.budget // SIZE - len(each.holds)
        traffic = self.shares
        hot = sorted(self.sizes.keys() - each.holds, key=lambda part: (-traffic.get(part, 0.0), part))
        if free > 0:
            return Placement((), tuple(hot[: min(free, self.rules.moves_max)]), {})
        each.moves = each.moves.now(self.minutes * 60)
        cold = sorted(each.holds, key=lambda part: (traffic.get(part, 0.0), part))
        cold = [part for part in cold if shelf.others(part) >= self.rules.floor]
        pairs = [
            (give, take)
            for give, take in zip(cold, hot, strict=False)
            if traffic.get(take, 0.0) > 1.5 * traffic.get(give, 0.0)
        ][: int(each.moves.left)]
        each.moves = each.moves.spent(len(pairs))
        self.exchanged += len(pairs)
        return Placement(tuple(give for give, _ in pairs), tuple(take for _, take in pairs), {})

    def _any(self, each: Machine) -> Placement[int]:
        free = each.budget // SIZE - len(each.holds)
        return Placement((), tuple(self.rng.sample(sorted(self.sizes.keys() - each.holds), max(0, free))), {})

    def _hear(self) -> None:
        """What all nodes know of the use of experts until the next round."""
        self.told = demand_of(self.use, self.minutes * 60)
        self.shares = dict(enumerate(self.use.shares(self.minutes * 60).tolist()))
        self.known = self._demand()

    def _demand(self) -> Demand[int] | None:
        """What holds beyond the rules: calls go where they are done soonest, and a node keeps near what is called."""
        if self.told is None:
            return None
        held = {each.key: (each.tiers, dict.fromkeys(each.holds, SIZE)) for each in self.alive}
        together = (self.told.partners, self.told.company)
        self.known = demand_for({part: part for part in self.sizes}, self.told.shares, together, held, self.known)
        return self.known

    def _speeds(self) -> dict[PublicKey, dict[int, float]]:
        """Of each node's parts, each in the tier in which its calls put it."""
        for _ in range(3):
            known = self._demand()
        assert known is not None
        return {
            each.key: speeds(
                each.tiers, dict.fromkeys(each.holds, SIZE), {part: known.heat(each.key, part) for part in each.holds}
            )
            for each in self.alive
        }

    def _hold(self, each: Machine, new: set[int]) -> None:
        for part in each.holds - new:
            self.holders[part].discard(each.key)
        for part in new - each.holds:
            self.holders[part].add(each.key)
        each.holds = new


def _tiers(kind: str, scale: float, most: int) -> tuple[Tier, ...]:
    found: list[Tier] = []
    left = most
    for name, parts, speed in KINDS[kind]:
        room = min(left, max(1, round(parts * scale)))
        left -= room
        found.append(Tier(name, SIZE * room, speed))
    return tuple(found)


def _fewest(holders: list[set[PublicKey]]) -> int:
    """Nodes that together hold all of these, found greedily."""
    left, count = list(holders), 0
    while left:
        counts: dict[PublicKey, int] = {}
        for each in left:
            for key in each:
                counts[key] = counts.get(key, 0) + 1
        best = max(counts, key=lambda key: (counts[key], key))
        left = [each for each in left if best not in each]
        count += 1
    return count


Watch = Callable[[Swarm, float], None]
