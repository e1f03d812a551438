"""Who scores hidden states of a model: the plain way at once, a better one from the moment it is offered.

The thread's alone that computes, but for `offer`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from blyan.model.stage_step import EagerHead, Head, StagedModel
from blyan.model.stepping import KVPages

OfferHead: TypeAlias = Callable[[Callable[[], Head]], None]
MakeHead: TypeAlias = Callable[[StagedModel, KVPages, OfferHead], Head]  # one now; perhaps a better one later


def plain_head(model: StagedModel, _kv: KVPages, _offer: OfferHead) -> Head:
    """The plain one, which scores for every model."""
    return EagerHead(model.weights, model.config)


class HeadInTurn:
    """A model's head; `make` is told where to offer a better one. `kv` says for how long it is wanted."""

    def __init__(self, make: MakeHead, model: StagedModel, kv: KVPages) -> None:
        self._offered: Callable[[], Head] | None = None
        self._head = make(model, kv, self.offer)

    def offer(self, make: Callable[[], Head]) -> None:
        """Score with another head from the next time on. From any thread."""
        self._offered = make

    def current(self) -> Head:
        """Who scores now."""
        if self._offered is not None:
            make, self._offered = self._offered, None
            self._head.close()
            self._head = make()
        return self._head

    def close(self) -> None:
        """Nobody scores any more."""
        self._offered = None
        self._head.close()
