"""Models that this node offers no more: peers are told at once, its own answers end as they began."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from blyan.node.holdings import Holdings
from blyan.primitives.ids import PayloadId


@dataclass(slots=True, eq=False)
class Leaving:
    """From any thread; `began` and `ended` from the compute thread alone."""

    holdings: Holdings
    refuse: Callable[[PayloadId], object]  # calls of peers, from now on
    tell: Callable[[], object]  # peers what is held now
    forget: Callable[[PayloadId], object]  # who holds what: no more plans are made
    _steppers: Counter[PayloadId] = field(default_factory=Counter[PayloadId])  # that ask others, by model

    def withdrawn(self, name: str) -> None:
        """A model was taken away: neither its calls nor its blocks are given to peers any more."""
        for hosted in self.holdings.models():
            if hosted.manifest.name == name:
                self.drop(hosted.manifest_id)

    def drop(self, manifest_id: PayloadId) -> None:
        """One version is offered no more."""
        self.refuse(manifest_id)
        self.holdings.leave(manifest_id)
        self.tell()
        self._forget_unused(manifest_id)

    def began(self, manifest_id: PayloadId) -> None:
        """A stepper of a model asks others."""
        self._steppers[manifest_id] += 1

    def ended(self, manifest_id: PayloadId) -> None:
        """It was closed."""
        self._steppers[manifest_id] -= 1
        self._forget_unused(manifest_id)

    def _forget_unused(self, manifest_id: PayloadId) -> None:
        if self._steppers[manifest_id] == 0 and self.holdings.forget(manifest_id):
            self.forget(manifest_id)
