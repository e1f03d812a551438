"""What the layers of a model take: bytes, operations and activations, from its blocks and its configuration. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from blyan.model.config import ModelConfig
from blyan.model.footprint import cache_bytes
from blyan.model.manifest import Manifest
from blyan.model.parts import part_position

_item_bytes: Final = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True)
class LayerCost:
    """What one layer takes. Bytes are as stored, operations are multiplications and additions."""

    always_bytes: int  # read by every step: attention, norms, gate, dense or shared feed-forward
    expert_bytes: int  # of one routed expert
    experts: int
    experts_per_token: int
    operations: int  # for a token
    activation_bytes: int  # of a token's hidden state, which goes on to the next layer
    cache_bytes: int  # of a position's keys and values

    @property
    def held_bytes(self) -> int:
        """What a node that computes it holds."""
        return self.always_bytes + self.experts * self.expert_bytes

    def read_bytes(self, tokens: int) -> float:
        """What a step of so many tokens reads; of the experts those that are chosen, by chance alike."""
        if not self.experts:
            return self.always_bytes
        met = 1 - (1 - self.experts_per_token / self.experts) ** tokens
        return self.always_bytes + met * self.experts * self.expert_bytes


def layer_costs(manifest: Manifest) -> tuple[LayerCost, ...]:
    """What each layer of a model takes, from its blocks and its configuration."""
    config = manifest.config
    always, experts = [0] * config.layers, [0] * config.layers
    for part, block in manifest.parts.items():
        layer, expert = part_position(part)
        if layer is not None:
            (always if expert is None else experts)[layer] += block.length
    routed, cache = frozenset(config.moe_layers), cache_bytes(config, manifest.dtype, 1) // config.layers
    return tuple(
        LayerCost(
            always[layer],
            experts[layer] // config.experts if layer in routed else 0,
            config.experts if layer in routed else 0,
            config.experts_per_token if layer in routed else 0,
            2 * _layer_weights(config, layer in routed),
            config.hidden * _item_bytes[manifest.dtype],
            cache,
        )
        for layer in range(config.layers)
    )


def end_cost(manifest: Manifest) -> LayerCost:
    """What the lead takes beside layers: it embeds, and turns hidden states into scores."""
    config = manifest.config
    embed, head = manifest.parts["embed"].length, manifest.parts["head"].length
    held = embed + head
    read = held if config.tied_embeddings else head
    return LayerCost(read, held - read, 0, 0, 2 * config.vocab_size * config.hidden, 0, 0)


def _layer_weights(config: ModelConfig, routed: bool) -> int:
    """That a token meets in one layer."""
    attention = config.hidden * config.head_dim * 2 * (config.heads + config.kv_heads)
    if not routed:
        return attention + 3 * config.hidden * config.dense_intermediate
    shared = 3 * config.hidden * config.shared_intermediate
    return attention + config.experts * config.hidden + config.experts_per_token * config.expert_parameters + shared
