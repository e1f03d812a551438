"""How to choose tokens: temperature, top-p, top-k and seed, as one checked value. No tensor code."""

from __future__ import annotations

import math
from dataclasses import dataclass

from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose. Temperature 0 is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and 0.0 <= self.temperature <= 2.0):
            raise InvalidInput(f"temperature: expected 0 to 2, found {self.temperature}")
        if not 0.0 < self.top_p <= 1.0:
            raise InvalidInput(f"top_p: expected above 0 and at most 1, found {self.top_p}")
        if not 0 <= self.top_k <= limits.vocab_max:
            raise InvalidInput(f"top_k: expected 0 (no limit) to {limits.vocab_max}, found {self.top_k}")
        if not -(1 << 63) <= self.seed < 1 << 63:
            raise InvalidInput(f"seed: expected a 64-bit integer, found {self.seed}")
