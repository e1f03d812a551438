"""Nodes that each decide alone what to hold: every part gets its replicas, and then nothing moves any more."""

import random
from dataclasses import dataclass, field

import pytest

from blyan.inference.placement import PlacementRules, Shelf, choose
from blyan.primitives.ids import PublicKey
from swarms import node

SIZE = 10


@dataclass
class Swarm:
    """Nodes that look at each other a round late: what moves in a round is seen in the next."""

    parts: int
    budgets: dict[PublicKey, int]
    seed: int = 1
    rules: PlacementRules = field(default_factory=lambda: PlacementRules(floor=2, moves_max=16))
    holds: dict[PublicKey, set[int]] = field(default_factory=dict)
    fetched: int = 0
    coming: dict[PublicKey, set[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.sizes = dict.fromkeys(range(self.parts), SIZE)

    def rank(self, key: PublicKey, part: int) -> int:
        """By lot, the same for all who ask; cheaper than the product's."""
        return hash((int(key, 16) * 2654435761, part * 40503, self.seed))

    def replicas(self) -> list[int]:
        counts = [0] * self.parts
        for held in self.holds.values():
            for part in held:
                counts[part] += 1
        return counts

    def round(self) -> int:
        """Every node decides by what it saw before the round; how many parts were fetched."""
        holders: dict[int, set[PublicKey]] = {part: set() for part in range(self.parts)}
        for key, held in self.holds.items():
            for part in held:
                holders[part].add(key)
        moved = 0
        for key, held in self.holds.items():
            for part in held:
                holders[part].remove(key)
            shelf = Shelf(key, len(self.holds), self.sizes, holders, self.rank)
            made = choose(shelf, held, self.budgets[key], self.rng.random, self.rules)
            for part in held:
                holders[part].add(key)
            new = (held - set(made.drop)) | set(made.fetch)
            assert len(new) * SIZE <= self.budgets[key], "within the budget"
            assert not set(made.fetch) & held, "nothing is fetched twice"
            moved += len(made.fetch)
            self.coming[key] = new
        self.holds.update(self.coming)
        self.fetched += moved
        return moved

    def settle(self, rounds: int = 400) -> int:
        """Rounds until nothing moved for ten in a row."""
        quiet = 0
        for at in range(rounds):
            quiet = 0 if self.round() else quiet + 1
            if quiet == 10:
                return at
        raise AssertionError(f"something still moves after {rounds} rounds")

    def join(self, key: PublicKey) -> None:
        self.holds[key] = set()

    def leave(self, key: PublicKey) -> None:
        del self.holds[key]
        self.coming.pop(key, None)


def made(nodes: int, parts: int, room: float, seed: int = 1, floor: int = 2) -> Swarm:
    """Nodes of unlike budgets with room for `room` times what the floor takes."""
    rng = random.Random(seed)
    weights = [rng.choice([1, 1, 2, 4]) for _ in range(nodes)]
    whole = room * floor * parts * SIZE
    budgets = {
        node(number): min(parts * SIZE, SIZE * -(-int(whole * weight / sum(weights)) // SIZE))
        for number, weight in enumerate(weights)
    }
    return Swarm(parts, budgets, seed, PlacementRules(floor=floor, moves_max=16))


CASES = [(3, 16, 1.5), (4, 64, 1.25), (10, 64, 1.25), (30, 128, 1.1), (100, 256, 1.25)]


@pytest.mark.parametrize(("nodes", "parts", "room"), CASES)
def test_nodes_that_start_together_cover_every_part_and_come_to_rest(nodes: int, parts: int, room: float) -> None:
    swarm = made(nodes, parts, room)
    for key in swarm.budgets:
        swarm.join(key)
    swarm.settle()
    assert min(swarm.replicas()) >= 2
    held = sum(map(len, swarm.holds.values()))
    assert swarm.fetched <= 1.5 * held, "few parts were fetched to be given up again"


@pytest.mark.parametrize(("nodes", "parts", "room"), CASES)
def test_nodes_that_come_one_by_one_cover_every_part(nodes: int, parts: int, room: float) -> None:
    swarm = made(nodes, parts, room)
    for key in swarm.budgets:
        swarm.join(key)
        for _ in range(4):
            swarm.round()
    swarm.settle()
    assert min(swarm.replicas()) >= 2
    held = sum(map(len, swarm.holds.values()))
    assert swarm.fetched <= 3 * held


@pytest.mark.parametrize("seed", range(3))
def test_when_one_of_many_comes_or_goes_little_moves(seed: int) -> None:
    swarm = made(30, 128, 1.25, seed)
    for key in swarm.budgets:
        swarm.join(key)
    swarm.settle()
    leaver = node(seed)
    lost = len(swarm.holds[leaver])
    before = swarm.fetched
    swarm.leave(leaver)
    swarm.settle()
    assert min(swarm.replicas()) >= 2
    assert swarm.fetched - before <= lost, "no more is fetched than was lost"
    before = swarm.fetched
    swarm.join(leaver)
    swarm.settle()
    assert swarm.fetched - before <= swarm.budgets[leaver] / SIZE, "only who came fetches"


def test_nothing_moves_in_a_swarm_at_rest() -> None:
    swarm = made(10, 64, 1.25)
    for key in swarm.budgets:
        swarm.join(key)
    swarm.settle()
    before = swarm.fetched
    for _ in range(50):
        swarm.round()
    assert swarm.fetched == before


@pytest.mark.parametrize("seed", range(3))
def test_where_the_memory_is_too_small_the_rarest_are_held_and_it_comes_to_rest(seed: int) -> None:
    swarm = made(10, 64, 0.8, seed)
    for key in swarm.budgets:
        swarm.join(key)
    swarm.settle()
    assert min(swarm.replicas()) >= 1


@pytest.mark.parametrize(
    ("nodes", "together"),
    [
        (200, True),
        pytest.param(1_000, True, marks=pytest.mark.long),
        pytest.param(1_000, False, marks=pytest.mark.long),
    ],
)
def test_many_nodes_cover_as_many_parts(nodes: int, together: bool) -> None:
    swarm = made(nodes, nodes, 1.25, floor=3)
    for number, key in enumerate(swarm.budgets):
        swarm.join(key)
        if not together and number % 10 == 9:
            swarm.round()
    swarm.settle()
    assert min(swarm.replicas()) >= 3
    assert swarm.fetched <= 3 * sum(map(len, swarm.holds.values()))
