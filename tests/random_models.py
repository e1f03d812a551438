"""Small models with random weights in memory: what steppers compute with when no blocks are needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from blyan.model.config import ModelConfig
from blyan.model.parts import Part, expert_part, parts_of
from blyan.model.quantization import Quantization
from blyan.model.quantize import QuantizedPart
from blyan.model.stored_tensors import stored_layout

# Awkward on purpose: no size is a power of two, and the first layer has no experts.
SMALL: dict[str, Any] = {
    "family": "qwen3_moe",
    "vocab_size": 211,
    "hidden": 36,
    "layers": 3,
    "heads": 6,
    "kv_heads": 3,
    "head_dim": 10,
    "dense_intermediate": 50,
    "expert_intermediate": 26,
    "experts": 7,
    "experts_per_token": 3,
    "normalise_top_k": True,
    "moe_layers": (1, 2),
    "attention_bias": False,
    "tied_embeddings": False,
    "rms_eps": 1e-6,
    "rope_theta": 1e4,
    "context_length": 512,
}


def small_config(**changes: Any) -> ModelConfig:
    said = SMALL | changes
    if said["family"] == "qwen2_moe":
        said.setdefault("shared_intermediate", 22)
    return ModelConfig(**said)


class RandomWeights:
    """Weights of a configuration, drawn from a seed; the same surface as `ModelWeights`."""

    def __init__(
        self, config: ModelConfig, *, seed: int = 0, dtype: torch.dtype = torch.float32, scheme: str | None = None
    ) -> None:
        self._draws = torch.Generator().manual_seed(seed)
        self.dtype = dtype
        self._parts = {part.name: self._drawn(part, scheme) for part in parts_of(config)}

    def part(self, name: str) -> dict[str, Tensor]:
        return self._parts[name]

    def embed(self) -> Tensor:
        return self._parts["embed"]["embed_tokens.weight"]

    def layer(self, layer: int) -> Mapping[str, Tensor]:
        return self._parts[f"layer.{layer}"]

    def head(self) -> Mapping[str, Tensor]:
        return self._parts["head"]

    def expert(self, layer: int, expert: int) -> Mapping[str, Tensor]:
        return self._parts[expert_part(layer, expert)]

    def _drawn(self, part: Part, scheme: str | None) -> dict[str, Tensor]:
        tensors = {name: self._tensor(name, shape) for name, shape in part.shapes.items()}
        if scheme is None:
            return tensors
        quantization = Quantization(scheme, 32 if scheme == "int4" else 0)
        quantized = QuantizedPart(part, tensors.__getitem__, quantization, {})
        return {name: quantized.tensor(name) for name in stored_layout(part, self.dtype, quantization)}

    def _tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        drawn = torch.randn(shape, generator=self._draws)
        if "norm" in name:
            drawn = 1 + 0.2 * drawn
        elif len(shape) > 1 and "embed" not in name:
            drawn = drawn * (1.5 / shape[1] ** 0.5)  # loud enough that every layer changes what comes out
        return drawn.to(self.dtype)
