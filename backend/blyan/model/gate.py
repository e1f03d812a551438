"""The gate: which experts a token goes to, and with what weight."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, float32, topk
from torch.nn import functional

from blyan.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Routing:
    """One layer's decision for N tokens."""

    probabilities: Tensor  # [N, experts] fp32, softmax over all experts
    chosen: Tensor  # [N, top_k] int64
    weights: Tensor  # [N, top_k] in the hidden states' dtype, or fp32 (`Family.wide_routing_weights`)


def route(gate_weight: Tensor, config: ModelConfig, hidden: Tensor) -> Routing:
    """Softmax over all experts, then top-k, then (if configured) renormalise: hidden [N, hidden] to a `Routing`."""
    logits = functional.linear(hidden, gate_weight)
    probabilities = functional.softmax(logits, dim=-1, dtype=float32)
    weights, chosen = topk(probabilities, config.experts_per_token, dim=-1)
    if config.normalise_top_k:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return Routing(probabilities, chosen, weights if config.facts.wide_routing_weights else weights.to(hidden.dtype))
