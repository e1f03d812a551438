"""Which experts a node takes because answers that it generates for others use them, and what it gives up. Pure.

What these answers use is counted as they are computed; half of it is forgotten in an hour. A share of what the node may
hold is for such experts, the most used for each byte first. Free room is taken as it is. What must be given up for one
is used half as often at most for each byte (of what is used alike here, what the swarm uses least goes), is held by
enough better ranked others (as in `placement`), and is paid for from the same moves. So whoever asks for many things
makes a node fetch its share, and then few an hour.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic

from blyan.inference.demand import Part
from blyan.inference.placement import Placement, PlacementRules, Shelf, spare_parts

share: Final = 8  # a part in so many of what a node may hold, or of a model, is few
_half_life_seconds: Final = 3_600.0
_decay_seconds: Final = 10.0  # between two times that all is made less
_least: Final = 1e-3  # positions: as good as none
_times: Final = 2.0  # as often for each byte must be used what comes


class LedUse:
    """How many positions of answers for others used each expert, lately. Not thread-safe."""

    def __init__(self) -> None:
        self._positions: dict[str, float] = {}
        self._at = 0.0

    def add(self, used: Iterable[tuple[str, float]], now: float) -> None:
        """So many positions more used each of these."""
        self._decay(now)
        for part, positions in used:
            self._positions[part] = self._positions.get(part, 0.0) + positions

    def positions(self, now: float) -> dict[str, float]:
        """Of each expert that was used at all."""
        self._decay(now)
        return dict(self._positions)

    def _decay(self, now: float) -> None:
        if now - self._at < _decay_seconds:
            return
        left = 0.5 ** ((now - self._at) / _half_life_seconds)
        self._positions = {part: left * each for part, each in self._positions.items() if left * each >= _least}
        self._at = now


@dataclass(frozen=True, slots=True)
class WishRoom(Generic[Part]):
    """Bytes for experts, and what of them came by wishes."""

    total: int  # of all that are here
    share: int  # of those that came by wishes
    came: frozenset[Part]  # these


def choose_wished(
    shelf: Shelf[Part],
    mine: Collection[Part],
    uses: Mapping[Part, float],
    room: WishRoom[Part],
    exchanges: int,
    rules: PlacementRules | None = None,
) -> Placement[Part]:
    """What to give up and fetch of what answers for others use, `exchanges` given up at most."""
    rules = rules or PlacementRules()
    sizes = shelf.sizes

    def worth(part: Part) -> float:
        return uses.get(part, 0.0) / sizes[part]

    def value(part: Part) -> tuple[float, float]:
        return worth(part), 0.0 if shelf.demand is None else shelf.demand.heat(shelf.me, part) / sizes[part]

    held = {part for part in mine if part in sizes}
    spare: list[Part] = sorted(spare_parts(shelf, held, rules), key=value)
    free = room.total - sum(sizes[part] for part in held)
    left = room.share - sum(sizes[part] for part in held.intersection(room.came))
    wanted = [part for part in uses if part in sizes and part not in held]
    drop: list[Part] = []
    fetch: list[Part] = []
    for part in sorted(wanted, key=lambda part: (-worth(part), shelf.rank(shelf.me, part))):
        less = [each for each in spare if _times * worth(each) <= worth(part)]
        came = _enough(shelf, [each for each in less if each in room.came], sizes[part] - left)
        if came is None:
            continue
        lacking = sizes[part] - free - sum(sizes[each] for each in came)
        others = _enough(shelf, [each for each in less if each not in came], lacking)
        if others is None or len(drop) + len(came) + len(others) > exchanges:
            continue
        given = [*came, *others]
        spare = [each for each in spare if each not in given]
        free += sum(sizes[each] for each in given) - sizes[part]
        left += sum(sizes[each] for each in given if each in room.came) - sizes[part]
        drop += given
        fetch.append(part)
        if len(fetch) == rules.moves_max:
            break
    return Placement(tuple(drop), tuple(fetch), dict.fromkeys([*drop, *fetch], "wished"), len(drop))


def _enough(shelf: Shelf[Part], parts: Sequence[Part], lacking: int) -> list[Part] | None:
    """The first of these that take so many bytes together; None where all of them do not."""
    found: list[Part] = []
    for part in parts:
        if lacking <= 0:
            break
        found.append(part)
        lacking -= shelf.sizes[part]
    return found if lacking <= 0 else None
