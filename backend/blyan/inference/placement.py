"""Which experts a node should hold: the rarest that fit, few moves, and never one that is needed given up. Pure.

Every node decides alone from what it has heard. Rendezvous hashing (Thaler and Ravishankar 1998) makes nodes that start
together differ in what they fetch, and agree on who of many holders may let go: the best ranked ones keep it, so that
all of them can act at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Generic, TypeVar

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

    def __post_init__(self) -> None:
        assert self.floor > 0 and self.moves_max > 0, "something is held and moved"


@dataclass(frozen=True, slots=True)
class Shelf(Generic[Part]):
    """The parts that there are, and where, as one node sees it."""

    me: PublicKey
    live: int  # nodes, this one included
    sizes: Mapping[Part, int]  # bytes
    holders: Mapping[Part, Collection[PublicKey]]  # other live nodes
    rank: Callable[[PublicKey, Part], int] = rendezvous

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


def choose(
    shelf: Shelf[Part],
    mine: Collection[Part],
    budget: int,
    draw: Callable[[], float],
    rules: PlacementRules | None = None,
) -> Placement[Part]:
    """What to give up and fetch so that what this node holds fits `budget` bytes and helps most.

    Room that is free is filled. A full node makes room only for what is below the floor, by giving up what enough
    others have, and only with the probability that makes about so many nodes move as are needed.
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
    for part in shelf.by_rarity(wanted) if wanted and least <= free else ():
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
    return Placement(tuple(drop), tuple(fetch))


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
