"""Which experts this node asks others to show, to give up its own copies: for all holders that do so at the same time.

Meanwhile it shows its copy of such an expert only to nodes that rank below it (`inference/placement.rendezvous`), and
keeps it once it has shown it. So whoever gives a copy up has been shown others by nodes that either kept theirs or had
not begun to ask: of all that give up one expert the last to begin leaves two copies.
"""

from __future__ import annotations

from collections.abc import Collection, Generator
from contextlib import contextmanager
from typing import TypeAlias

from blyan.inference.placement import rendezvous
from blyan.node.wishing import part_key
from blyan.primitives.ids import PayloadId, PublicKey

Place: TypeAlias = tuple[PayloadId, int]  # a model, and the number of a routed expert of it


class GivingUp:
    """One node's. For the network's loop."""

    def __init__(self, me: PublicKey) -> None:
        self.me = me
        self._asked: frozenset[Place] = frozenset()
        self._shown = set[Place]()  # meanwhile

    @contextmanager
    def of(self, places: Collection[Place]) -> Generator[None]:
        """Others are asked for these until it ends; by then what goes has been taken out of what is said to be here."""
        assert not self._asked, "one round at a time"
        self._asked = frozenset(places)
        try:
            yield
        finally:
            self._asked = frozenset()
            self._shown.clear()

    def shows(self, place: Place, asker: PublicKey) -> bool:
        """Whether `asker` may be shown it; if so it is kept."""
        if place not in self._asked:
            return True
        if _rank(asker, place) < _rank(self.me, place):
            return False
        self._shown.add(place)
        return True

    def goes(self, place: Place) -> bool:
        """Whether it may be given up now, for all that it was shown to."""
        return place in self._asked and place not in self._shown


def _rank(node: PublicKey, place: Place) -> int:
    return rendezvous(node, part_key(*place))
