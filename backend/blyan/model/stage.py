"""A range of a model's layers as a generator: hidden states in, hidden states out.

The whole model is all of its layers between embeddings and final norm (`transformer`); a stage of a pipeline computes
some of them. At each MoE layer it yields expert calls and is sent their outputs. Hidden states between two layers are
whole: whoever goes on elsewhere needs nothing else but the keys and values of its own layers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from blyan.model.attention import attend, rms_norm
from blyan.model.config import ModelConfig
from blyan.model.experts import ExpertCall, swiglu
from blyan.model.gate import Routing, route
from blyan.model.kv_cache import Cache
from blyan.model.rotary import rotary_table

Observer: TypeAlias = Callable[[int, Routing], None]  # layer, decision
Forward: TypeAlias = Generator[list[ExpertCall], list[Tensor], Tensor]


class LayerWeights(Protocol):
    """What a range of layers needs beside the routed experts. Names are those inside the blocks (see `parts`)."""

    def layer(self, layer: int) -> Mapping[str, Tensor]:
        """Attention, norms, and either the dense MLP or the gate (and shared expert) of one layer."""
        ...


def through(
    weights: LayerWeights,
    config: ModelConfig,
    layers: range,
    hidden: Tensor,
    cache: Cache | None = None,
    observe: Observer | None = None,
) -> Forward:
    """Hidden states [B, T, hidden] after these layers, of those before them.

    Yields, once per MoE layer, the expert calls of that layer (rising expert number, each expert at most once) and
    expects their outputs in the same order. With a cache, the T positions follow the cached ones.
    """
    batch, count, _ = hidden.shape
    start = cache.length if cache is not None else 0
    reach = max(start + count, cache.reach if cache is not None else 0)
    cosines, sines = rotary_table(config.head_dim, config.rope_theta, config.rope_scaling, start, count, reach)
    rotary = (cosines.to(hidden.device), sines.to(hidden.device))
    moe_layers = frozenset(config.moe_layers)
    for layer in layers:
        names = weights.layer(layer)
        normed = rms_norm(hidden, names["input_layernorm.weight"], config.rms_eps)
        hidden = hidden + attend(names, config, layer, normed, rotary, cache)
        normed = rms_norm(hidden, names["post_attention_layernorm.weight"], config.rms_eps)
        if layer in moe_layers:
            flat = normed.reshape(batch * count, config.hidden)
            routing = route(names["mlp.gate.weight"], config, flat)
            if observe is not None:
                observe(layer, routing)
            mixed = yield from _mixture(layer, flat, routing)
            if config.facts.shared_expert:
                mixed = mixed + _shared_expert(names, flat)
            hidden = hidden + mixed.view(batch, count, config.hidden)
        else:
            hidden = hidden + swiglu(names, "mlp.", normed)
    if cache is not None:
        cache.advance(count)
    return hidden


def _shared_expert(names: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
    """What every token passes through beside its routed experts: hidden [N, hidden] to the same shape."""
    share = functional.linear(hidden, names["mlp.shared_expert_gate.weight"]).sigmoid()
    return share * swiglu(names, "mlp.shared_expert.", hidden)


def _mixture(layer: int, hidden: Tensor, routing: Routing) -> Forward:
    """Yield one call per expert that a token chose; return the weighted sum [N, hidden] of what comes back."""
    order = torch.argsort(routing.chosen.flatten(), stable=True)  # pairs (token, rank) grouped by expert
    counts = torch.bincount(routing.chosen.flatten(), minlength=routing.probabilities.shape[1]).tolist()
    rows = order // routing.chosen.shape[1]  # [N * top_k] token of each pair
    gathered = hidden[rows]
    shares = routing.weights.flatten()[order].unsqueeze(-1)
    calls: list[ExpertCall] = []
    begin = 0
    for expert, count in enumerate(counts):
        if count:
            calls.append(ExpertCall(layer, expert, gathered[begin : begin + count]))
            begin += count
    outputs = yield calls
    assert len(outputs) == len(calls), "one output per call"
    mixed = torch.cat(outputs) * shares  # summed in the shares' dtype, which may be wider
    return torch.zeros_like(hidden, dtype=mixed.dtype).index_add(0, rows, mixed).to(hidden.dtype)
