"""The transformer as a generator: at each MoE layer it yields expert calls and is sent their outputs.

It never fetches a weight of an expert and never calls the network; who computes an expert is the driver's matter
(`generate` drives it with local experts, `inference/executor` will drive it over HTTP). That makes "local equals
remote" one assertion. It is differentiable, so that training drives the same seam.
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


class TrunkWeights(Protocol):
    """Everything of a model that is not a routed expert. Tensor names are those inside the blocks (see `parts`)."""

    def embed(self) -> Tensor:
        """Token embeddings [vocab, hidden]."""
        ...

    def layer(self, layer: int) -> Mapping[str, Tensor]:
        """Attention, norms, and either the dense MLP or the gate (and shared expert) of one layer."""
        ...

    def head(self) -> Mapping[str, Tensor]:
        """`norm.weight`, and `lm_head.weight` unless the embeddings are tied."""
        ...


def forward(
    weights: TrunkWeights,
    config: ModelConfig,
    tokens: Tensor,
    cache: Cache | None = None,
    observe: Observer | None = None,
) -> Forward:
    """Hidden states [B, T, hidden] after the final norm, of token ids [B, T] int64.

    Yields, once per MoE layer, the expert calls of that layer (rising expert number, each expert at most once) and
    expects their outputs in the same order. With a cache, the T tokens follow the cached positions.
    """
    batch, count = tokens.shape
    start = cache.length if cache is not None else 0
    reach = max(start + count, cache.reach if cache is not None else 0)
    hidden = functional.embedding(tokens, weights.embed())
    cosines, sines = rotary_table(config.head_dim, config.rope_theta, config.rope_scaling, start, count, reach)
    rotary = (cosines.to(tokens.device), sines.to(tokens.device))
    moe_layers = frozenset(config.moe_layers)
    for layer in range(config.layers):
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
    return rms_norm(hidden, weights.head()["norm.weight"], config.rms_eps)


def drive(steps: Forward, answer: Callable[[ExpertCall], Tensor]) -> Tensor:
    """Run a forward pass to its end, answering each call alone: the plainest driver, which others are held to."""
    try:
        calls = next(steps)
        while True:
            calls = steps.send([answer(call) for call in calls])
    except StopIteration as end:
        hidden: Tensor = end.value
        return hidden


def logits(weights: TrunkWeights, config: ModelConfig, hidden: Tensor) -> Tensor:
    """Scores over the vocabulary [..., vocab] of final hidden states [..., hidden]."""
    matrix = weights.embed() if config.tied_embeddings else weights.head()["lm_head.weight"]
    return functional.linear(hidden, matrix)


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
