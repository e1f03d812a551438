"""From scores to one token: penalties and biases, then greedy, or temperature with top-k, top-p and min-p.

The uniform number that is handed in is PRF(seed, position) (`primitives/digest.uniform`), so a replay draws the same
tokens. Penalties as the OpenAI API reference has them (frequency, presence: of generated tokens), and Keskar et al.
2019, arXiv:1909.05858, section 4.1 (repetition: of prompt tokens too).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from blyan.model.sampling import Sampling
from blyan.primitives.errors import InvalidInput


class History:
    """Which tokens stand in the prompt, and how often each was generated: what penalties look at."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self._prompt = frozenset(prompt)
        self._generated: Counter[int] = Counter()

    def take(self, token: int) -> None:
        """A token was generated."""
        self._generated[token] += 1

    def reshaped(self, scores: Tensor, sampling: Sampling) -> Tensor:
        """Scores [vocab] with penalties and biases; the ones given where there are none."""
        if not sampling.reshapes:
            return scores
        scores = scores.clone()
        if sampling.repetition_penalty != 1.0:
            seen = torch.tensor(sorted(self._prompt | self._generated.keys()))
            found = scores[seen]
            penalty = sampling.repetition_penalty
            scores[seen] = torch.where(found > 0, found / penalty, found * penalty)
        if self._generated and (sampling.frequency_penalty or sampling.presence_penalty):
            tokens, counts = zip(*sorted(self._generated.items()), strict=True)
            taken = sampling.frequency_penalty * torch.tensor(counts) + sampling.presence_penalty
            scores[torch.tensor(tokens)] -= taken
        for token, bias in sampling.logit_bias:
            if token >= len(scores):
                raise InvalidInput(f"logit_bias: expected token ids below {len(scores)}, found {token}")
            scores[token] += bias
        return scores


def sample(scores: Tensor, sampling: Sampling, uniform: float) -> int:
    """Choose a token id from scores [vocab]; `uniform` in [0, 1) is ignored when greedy."""
    if sampling.temperature == 0.0:
        return int(scores.argmax())
    ordered, tokens = torch.sort(scores.double(), descending=True, stable=True)
    if sampling.top_k:
        ordered = ordered[: sampling.top_k]
    # minus the best score first, or a tiny temperature would divide into infinities
    probabilities = torch.softmax((ordered - ordered[0]) / sampling.temperature, dim=-1)
    cumulative = probabilities.cumsum(-1)
    # top-p keeps the smallest head whose mass reaches p; drawing within that mass is drawing from it renormalised
    kept = min(int(torch.searchsorted(cumulative, torch.tensor(sampling.top_p).double())) + 1, len(cumulative))
    if sampling.min_p:
        kept = min(kept, int((probabilities >= sampling.min_p * probabilities[0]).sum()))
    drawn = torch.searchsorted(cumulative[:kept], uniform * cumulative[kept - 1], right=True)
    return int(tokens[min(int(drawn), kept - 1)])
