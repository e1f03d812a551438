"""How to choose tokens: penalties, biases, cuts, temperature and seed, as one checked value. No tensor code."""

from __future__ import annotations

import math
from dataclasses import dataclass

from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose. Temperature 0 is greedy. What a default says changes nothing."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    seed: int = 0
    min_p: float = 0.0  # share of the likeliest token's probability that a token must reach
    frequency_penalty: float = 0.0  # off a token's score for each time it was generated
    presence_penalty: float = 0.0  # off its score if it was generated at all
    repetition_penalty: float = 1.0  # divides a positive score, multiplies a negative one, prompt tokens included
    logit_bias: tuple[tuple[int, float], ...] = ()  # token id, what is added to its score

    def __post_init__(self) -> None:
        _want("temperature", self.temperature, 0.0, 2.0)
        if not 0.0 < self.top_p <= 1.0:
            raise InvalidInput(f"top_p: expected above 0 and at most 1, found {self.top_p}")
        if not 0 <= self.top_k <= limits.vocab_max:
            raise InvalidInput(f"top_k: expected 0 (no limit) to {limits.vocab_max}, found {self.top_k}")
        if not -(1 << 63) <= self.seed < 1 << 63:
            raise InvalidInput(f"seed: expected a 64-bit integer, found {self.seed}")
        _want("min_p", self.min_p, 0.0, 1.0)
        _want("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _want("presence_penalty", self.presence_penalty, -2.0, 2.0)
        if not (math.isfinite(self.repetition_penalty) and 0.0 < self.repetition_penalty <= 10.0):
            raise InvalidInput(f"repetition_penalty: expected above 0 and at most 10, found {self.repetition_penalty}")
        if len(self.logit_bias) > limits.logit_bias_max:
            raise InvalidInput(f"logit_bias: expected at most {limits.logit_bias_max} tokens, found more")
        for token, bias in self.logit_bias:
            _want("logit_bias", bias, -100.0, 100.0)
            if not 0 <= token < limits.vocab_max:
                raise InvalidInput(f"logit_bias: expected token ids, found {token}")

    @property
    def reshapes(self) -> bool:
        """Whether scores are changed by what was generated, or by a bias."""
        penalties = (self.frequency_penalty, self.presence_penalty, self.repetition_penalty - 1.0)
        return bool(self.logit_bias) or any(penalties)


def _want(name: str, found: float, least: float, most: float) -> None:
    if not (math.isfinite(found) and least <= found <= most):
        raise InvalidInput(f"{name}: expected {least:g} to {most:g}, found {found}")
