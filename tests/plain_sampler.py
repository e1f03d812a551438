"""Sampling the plain way: everything sorted. What `blyan.model.sampler` is held to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from blyan.model.sampler import weights_of
from blyan.model.sampling import Sampling


def sample_plainly(scores: Tensor, sampling: Sampling, uniform: float) -> int:
    """The whole vocabulary in order, its weights summed up, the draw looked up."""
    array = scores.numpy()
    order = np.argsort(-array, kind="stable")
    peak = array[order[0]]
    if sampling.temperature == 0.0 or peak == -np.inf:
        return int(order[0])
    if sampling.top_k:
        order = order[: sampling.top_k]
    with np.errstate(over="ignore"):
        weights = weights_of(array[order], peak, sampling.temperature, len(array))
    cumulative = weights.cumsum()
    kept = int(np.searchsorted(cumulative, sampling.top_p * cumulative[-1])) + 1
    if sampling.min_p:
        kept = min(kept, int((weights >= sampling.min_p).sum()))
    return int(order[np.searchsorted(cumulative, uniform * cumulative[kept - 1], side="right")])


def reshape_plainly(scores: Tensor, sampling: Sampling, prompt: Sequence[int], generated: Sequence[int]) -> Tensor:
    """Penalties and biases token by token."""
    scores = scores.clone()
    if sampling.repetition_penalty != 1.0:
        for token in {*prompt, *generated}:
            found = scores[token]
            penalty = sampling.repetition_penalty
            scores[token] = found / penalty if found > 0 else found * penalty
    for token, count in Counter(generated).items():
        scores[token] -= sampling.frequency_penalty * torch.tensor(count) + sampling.presence_penalty
    for token, bias in sampling.logit_bias:
        scores[token] += bias
    return scores


def probabilities_in_double(scores: Tensor, sampling: Sampling) -> Tensor:
    """How likely each token should be, by softmax in float64; ties at a cut are broken by id."""
    ordered, tokens = torch.sort(scores.double(), descending=True, stable=True)
    if sampling.top_k:
        ordered, tokens = ordered[: sampling.top_k], tokens[: sampling.top_k]
    shares = torch.softmax((ordered - ordered[0]) / sampling.temperature, dim=-1)
    kept = min(int(torch.searchsorted(shares.cumsum(0), torch.tensor(sampling.top_p).double())) + 1, len(shares))
    if sampling.min_p:
        kept = min(kept, int((shares >= sampling.min_p * shares[0]).sum()))
    found = torch.zeros(len(scores), dtype=torch.float64)
    found[tokens[:kept]] = shares[:kept] / shares[:kept].sum()
    return found
