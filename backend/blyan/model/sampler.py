"""From scores to one token: greedy, or temperature with top-k and top-p, by a uniform number that is handed in.

The uniform number is PRF(seed, position) (`primitives/digest.uniform`), so a replay draws the same tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blyan.model.sampling import Sampling


def sample(scores: Tensor, sampling: Sampling, uniform: float) -> int:
    """Choose a token id from scores [vocab]; `uniform` in [0, 1) is ignored when greedy."""
    if sampling.temperature == 0.0:
        return int(scores.argmax())
    ordered, tokens = torch.sort(scores.double(), descending=True, stable=True)
    if sampling.top_k:
        ordered = ordered[: sampling.top_k]
    # minus the best score first, or a tiny temperature would divide into infinities
    cumulative = torch.softmax((ordered - ordered[0]) / sampling.temperature, dim=-1).cumsum(-1)
    # top-p keeps the smallest head whose mass reaches p; drawing within that mass is drawing from it renormalised
    kept = min(int(torch.searchsorted(cumulative, torch.tensor(sampling.top_p).double())) + 1, len(cumulative))
    drawn = torch.searchsorted(cumulative[:kept], uniform * cumulative[kept - 1], right=True)
    return int(tokens[min(int(drawn), kept - 1)])
