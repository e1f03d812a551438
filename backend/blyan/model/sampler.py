"""From scores to one token: greedy, or temperature with top-k and top-p, by a uniform number that is handed in.

The uniform number is PRF(seed, position) (`primitives/digest.uniform`), so a replay draws the same tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

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
        if self.top_k < 0:
            raise InvalidInput(f"top_k: expected 0 (no limit) or more, found {self.top_k}")
        if not -(1 << 63) <= self.seed < 1 << 63:
            raise InvalidInput(f"seed: expected a 64-bit integer, found {self.seed}")


def sample(scores: Tensor, sampling: Sampling, uniform: float) -> int:
    """Choose a token id from scores [vocab]; `uniform` in [0, 1) is ignored when greedy."""
    if sampling.temperature == 0.0:
        return int(scores.argmax())
    ordered, tokens = torch.sort(scores.double(), descending=True, stable=True)
    if sampling.top_k:
        ordered = ordered[: sampling.top_k]
    cumulative = torch.softmax(ordered / sampling.temperature, dim=-1).cumsum(-1)
    # top-p keeps the smallest head whose mass reaches p; drawing within that mass is drawing from it renormalised
    kept = min(int(torch.searchsorted(cumulative, torch.tensor(sampling.top_p).double())) + 1, len(cumulative))
    drawn = torch.searchsorted(cumulative[:kept], uniform * cumulative[kept - 1], right=True)
    return int(tokens[min(int(drawn), kept - 1)])
