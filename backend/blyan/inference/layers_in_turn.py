"""Who computes some layers of a model: the plain way at once, a better one from the moment it is offered.

The thread's alone that computes, but for `offer`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from blyan.model.stage_step import OfferLayers, StagedModel
from blyan.model.stepping import KVPages, LayerStepper

MakeLayers: TypeAlias = Callable[[StagedModel, KVPages, range, OfferLayers], LayerStepper]


class LayersInTurn:
    """Layers over pages; `make` is told where to offer a better stepper."""

    def __init__(self, make: MakeLayers, model: StagedModel, kv: KVPages, layers: range) -> None:
        self.layers = layers
        self._offered: Callable[[], LayerStepper] | None = None
        self._stepper = make(model, kv, layers, self.offer)

    def offer(self, make: Callable[[], LayerStepper]) -> None:
        """Compute with another stepper from the next call on. From any thread."""
        self._offered = make

    @property
    def settled(self) -> bool:
        """Whether the next call is computed without making a stepper first."""
        return self._offered is None

    def current(self) -> LayerStepper:
        """Who computes now."""
        if self._offered is not None:
            make, self._offered = self._offered, None
            self._stepper.close()
            self._stepper = make()
        return self._stepper

    def close(self) -> None:
        """Nobody computes any more."""
        self._offered = None
        self._stepper.close()
