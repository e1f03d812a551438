"""Which models count as loaded, and until when: Ollama's keep-alive, for every door.

A model is in use while somebody asks it, and is kept for its time after the last one has ended; then what it took is
given back (`EngineTable.unload`) until somebody asks again. A request that says no time leaves what was said before.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from blyan.model.loading import LoadedModel
from blyan.primitives.clock import UnixSeconds

_seconds_unsaid: Final = 300.0


@dataclass(slots=True, eq=False)
class _Kept:
    model: LoadedModel
    seconds: float = _seconds_unsaid  # after the last use; infinity for ever
    uses: int = 0
    until: float = -math.inf  # Unix seconds, once nobody uses it
    timer: asyncio.TimerHandle | None = None

    def stay(self) -> None:
        """Whatever was to end it does not."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class KeptModels:
    """For one thread: the event loop's. `unload` is called when a model's time is over."""

    def __init__(self, now: UnixSeconds, unload: Callable[[LoadedModel], None]) -> None:
        self._now = now
        self._unload = unload
        self._kept: dict[str, _Kept] = {}

    @contextmanager
    def using(self, model: LoadedModel, seconds: float | None) -> Generator[None]:
        """A model is asked within this context, and kept for so long after it; 0 lets it go at once."""
        kept = self._kept.get(model.name)
        if kept is None or kept.model is not model:
            self.forget(model.name)
            kept = self._kept[model.name] = _Kept(model)
        kept.stay()
        kept.seconds = kept.seconds if seconds is None else seconds
        kept.uses += 1
        try:
            yield
        finally:
            kept.uses -= 1
            if not kept.uses:
                self._rest(kept)

    def until(self, name: str) -> float | None:
        """Unix seconds until which a model counts as loaded, infinity for ever, None if it does not."""
        kept = self._kept.get(name)
        if kept is None:
            return None
        return self._now() + kept.seconds if kept.uses else kept.until

    def forget(self, name: str) -> None:
        """A model is no more what this name means."""
        kept = self._kept.pop(name, None)
        if kept is not None:
            kept.stay()
            if not kept.uses:  # else the last use does it
                self._unload(kept.model)

    def _rest(self, kept: _Kept) -> None:
        name = kept.model.name
        if self._kept.get(name) is not kept:
            self._unload(kept.model)
        elif kept.seconds <= 0:
            self.forget(name)
        elif kept.seconds < math.inf:
            kept.until = self._now() + kept.seconds
            kept.timer = asyncio.get_running_loop().call_later(kept.seconds, self.forget, name)
        else:
            kept.until = math.inf
