"""What answers that this node generates for others use of its models, and how much of it may come here.

For the network's loop. What is decided of it stands in `inference/wishes`, what is done in `placing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Final

from blyan.inference import wishes
from blyan.inference.wishes import LedUse, WishRoom
from blyan.node.holdings import Holdings, Hosted
from blyan.node.network_config import NetworkConfig
from blyan.primitives.clock import Monotonic
from blyan.primitives.ids import PayloadId
from blyan.wire.peer import numbers_of

everything: Final = 1 << 62  # bytes: no budget


@dataclass(slots=True, eq=False)
class Wishing:
    """Implements `delegate_host.Wanted`. Parts are named MANIFEST/NUMBER."""

    holdings: Holdings
    network: NetworkConfig
    monotonic: Monotonic
    came: set[str] = field(default_factory=set[str])  # by wishes, since the start
    _use: LedUse = field(default_factory=LedUse)

    @property
    def counts(self) -> bool:
        """Whether it is to be told what is used: some expert of some model is not here."""
        return not all(hosted.complete for hosted in self.holdings.models())

    def expected(self, model: PayloadId, experts: bytes) -> None:
        """Who asks for an answer thinks that it will use these, a bitmap: a hint that counts where few are not here."""
        hosted = self.holdings.find(model)
        if hosted is None:
            return
        lacked = [each for each in numbers_of(experts) if each < hosted.grid.count and each not in hosted.here]
        if wishes.share * len(lacked) <= hosted.grid.count:
            self._use.add(((part_key(model, number), 1.0) for number in lacked), self.monotonic())

    def used(self, model: PayloadId, experts: Iterable[tuple[int, int, int]]) -> None:
        """Layer, expert and positions that were computed."""
        hosted = self.holdings.find(model)
        if hosted is not None:
            numbers = ((hosted.number(layer, expert), positions) for layer, expert, positions in experts)
            known = [(part_key(model, number), float(many)) for number, many in numbers if number is not None]
            self._use.add(known, self.monotonic())

    def now(self, mine: Set[str]) -> dict[str, float]:
        """Positions that used each expert lately; nothing as long as all of them are here."""
        found = self._use.positions(self.monotonic())
        return found if found.keys() - mine else {}

    def room(self, models: Mapping[PayloadId, Hosted], mine: Set[str], own: Set[str]) -> WishRoom[str]:
        """A share of `network.memory`: all of it where nothing else fills it; of the models, where none is set.

        `own`: experts here that are not the swarm's, or are held for stages.
        """
        network, fills = self.network, not self.network.waits_for_wishes
        total = everything if network.memory_bytes is None else network.memory_bytes
        part = total // wishes.share if fills else total
        if network.memory_bytes is None and not fills:
            part = sum(hosted.block(number).length for hosted in models.values() for number, _ in hosted.experts())
            part //= wishes.share
        self.came &= mine
        return WishRoom(total, part, frozenset(self.came - own if fills else mine - own))


def part_key(manifest_id: PayloadId, number: int) -> str:
    """The name of a routed expert among those of all models."""
    return f"{manifest_id}/{number}"
