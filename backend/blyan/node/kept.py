"""Which models were asked lately, and until when they count as loaded: Ollama's keep-alive.

Weights lie in files that the kernel maps, and it takes memory back as others need it: nothing is unloaded here. This is
what `/api/ps` tells, so that a client that asks to keep a model or to let it go sees that it was heard.
"""

from __future__ import annotations

import math

from blyan.primitives.clock import UnixSeconds


class KeptModels:
    """For one thread: the event loop's."""

    def __init__(self, now: UnixSeconds) -> None:
        self._now = now
        self._until: dict[str, float] = {}  # model → Unix seconds, infinity for ever

    def asked(self, name: str, seconds: float) -> None:
        """A model is asked and counts as loaded for so long from now; 0 lets it go."""
        if seconds > 0:
            self._until[name] = self._now() + seconds
        else:
            self._until.pop(name, None)

    def until(self, name: str) -> float | None:
        """Unix seconds until which a model counts as loaded, infinity for ever, None if it does not."""
        end = self._until.get(name, -math.inf)
        return end if end > self._now() else None
