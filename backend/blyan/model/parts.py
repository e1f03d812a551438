"""How a model is cut into blocks: each routed expert its own, the trunk by layer.

`embed`, `layer.N`, `layer.N.expert.M`, `head`. Tensor names inside a block are those that most Hugging Face checkpoints
use, without the part's prefix, so that any safetensors tool shows familiar names and one transformer reads every
family; `checkpoint_name` gives the name that the family's own checkpoints have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from blyan.model.config import ModelConfig
from blyan.primitives.errors import UnsupportedModel

Shape: TypeAlias = tuple[int, ...]

_expert_part = re.compile(r"layer\.(0|[1-9]\d*)\.expert\.(0|[1-9]\d*)")
_layer_part = re.compile(r"layer\.(0|[1-9]\d*)")


@dataclass(frozen=True, slots=True)
class Part:
    """One block's worth of a model."""

    name: str
    prefix: str  # of its tensors in a Hugging Face checkpoint
    shapes: Mapping[str, Shape]  # tensor name inside the block → shape
    layer: int | None = None
    expert: int | None = None
    renamed: Mapping[str, str] = field(default_factory=dict[str, str])  # tensors whose checkpoint name differs

    def checkpoint_name(self, tensor: str) -> str:
        """The Hugging Face name of one of this part's tensors."""
        return "lm_head.weight" if tensor == "lm_head.weight" else self.prefix + self.renamed.get(tensor, tensor)


def parts_of(config: ModelConfig) -> Iterator[Part]:
    """All parts of a model, in the order in which they are computed."""
    yield Part("embed", "model.", {"embed_tokens.weight": (config.vocab_size, config.hidden)})
    moe_layers, block = frozenset(config.moe_layers), config.facts.moe_block
    gate = {"mlp.gate.weight": f"{block}.gate.weight"}
    names = {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in config.facts.expert_tensors.items()}
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}."
        yield Part(f"layer.{layer}", prefix, _layer_shapes(config, layer in moe_layers), layer, renamed=gate)
        if layer in moe_layers:
            shapes = _swiglu_shapes("", config.hidden, config.expert_intermediate)
            for expert in range(config.experts):
                inner = f"{prefix}{block}.experts.{expert}."
                yield Part(expert_part(layer, expert), inner, shapes, layer, expert, names)
    head: dict[str, Shape] = {"norm.weight": (config.hidden,)}
    if not config.tied_embeddings:
        head["lm_head.weight"] = (config.vocab_size, config.hidden)
    yield Part("head", "model.", head)


def layer_part(layer: int) -> str:
    """The trunk's part of a layer."""
    return f"layer.{layer}"


def expert_part(layer: int, expert: int) -> str:
    """The part name of one routed expert."""
    return f"layer.{layer}.expert.{expert}"


def part_position(name: str) -> tuple[int | None, int | None]:
    """Layer and expert of a part name, None where it has none."""
    if match := _expert_part.fullmatch(name):
        return int(match[1]), int(match[2])
    if match := _layer_part.fullmatch(name):
        return int(match[1]), None
    if name in ("embed", "head"):
        return None, None
    raise UnsupportedModel(f"part name: expected embed, layer.N, layer.N.expert.M or head, found {name[:80]!r}")


def _layer_shapes(config: ModelConfig, routed: bool) -> dict[str, Shape]:
    width_q, width_kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    shapes: dict[str, Shape] = {
        "input_layernorm.weight": (config.hidden,),
        "post_attention_layernorm.weight": (config.hidden,),
        "self_attn.q_proj.weight": (width_q, config.hidden),
        "self_attn.k_proj.weight": (width_kv, config.hidden),
        "self_attn.v_proj.weight": (width_kv, config.hidden),
        "self_attn.o_proj.weight": (config.hidden, width_q),
    }
    if config.facts.qk_norm != "none":
        whole = config.facts.qk_norm == "projection"
        shapes["self_attn.q_norm.weight"] = (width_q if whole else config.head_dim,)
        shapes["self_attn.k_norm.weight"] = (width_kv if whole else config.head_dim,)
    if config.attention_bias:
        shapes |= {
            "self_attn.q_proj.bias": (width_q,),
            "self_attn.k_proj.bias": (width_kv,),
            "self_attn.v_proj.bias": (width_kv,),
        }
        if config.facts.output_bias:
            shapes["self_attn.o_proj.bias"] = (config.hidden,)
    if routed:
        shapes["mlp.gate.weight"] = (config.experts, config.hidden)
        if config.facts.shared_expert:
            shapes |= _swiglu_shapes("mlp.shared_expert.", config.hidden, config.shared_intermediate)
            shapes["mlp.shared_expert_gate.weight"] = (1, config.hidden)
        return shapes
    return shapes | _swiglu_shapes("mlp.", config.hidden, config.dense_intermediate)


def _swiglu_shapes(prefix: str, hidden: int, intermediate: int) -> dict[str, Shape]:
    return {
        f"{prefix}gate_proj.weight": (intermediate, hidden),
        f"{prefix}up_proj.weight": (intermediate, hidden),
        f"{prefix}down_proj.weight": (hidden, intermediate),
    }
