"""Small models with random weights in memory: what `ModelWeights` is to a stepper, without blocks or a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from blyan.model.config import ModelConfig
from blyan.model.experts import ExpertCall, swiglu
from blyan.model.parts import expert_part, parts_of
from blyan.model.quantization import Quantization
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
# As awkward as the jitted step's vectors, which are of eight and sixteen numbers, let them be.
FOR_VECTORS: dict[str, Any] = {
    "vocab_size": 131,
    "hidden": 40,
    "head_dim": 16,
    "dense_intermediate": 56,
    "expert_intermediate": 24,
    "context_length": 256,
}


def small_config(**changes: Any) -> ModelConfig:
    """A small model; fields that are said replace its own."""
    said = SMALL | changes
    if said["family"] == "qwen2_moe":
        said.setdefault("shared_intermediate", 22)
    return ModelConfig(**said)


def vector_config(**changes: Any) -> ModelConfig:
    """A small model that the jitted step can compute."""
    return small_config(**FOR_VECTORS | changes)


class RandomWeights:
    """Weights whose products neither vanish nor explode, drawn from a seed."""

    def __init__(
        self,
        config: ModelConfig,
        dtype: torch.dtype = torch.float32,
        *,
        scheme: Quantization | None = None,
        seed: int = 0,
    ) -> None:
        source = torch.Generator().manual_seed(seed)
        self.config = config
        self.parts: dict[str, dict[str, Tensor]] = {}
        for part in parts_of(config):
            tensors = self.parts[part.name] = {}
            layout = stored_layout(part, dtype, scheme)
            for name, (stored, shape) in layout.items():
                codes = layout[name.removesuffix(".scale")][0]
                tensors[name] = _drawn(name, stored, shape, part.shapes, codes, source)

    experts_all_resident = True

    def part(self, name: str) -> Mapping[str, Tensor]:
        return self.parts[name]

    def watch(self, name: str) -> Watch:
        return Watch(self, name)

    def embed(self) -> Tensor:
        return self.parts["embed"]["embed_tokens.weight"]

    def head(self) -> Mapping[str, Tensor]:
        return self.parts["head"]

    def layer(self, layer: int) -> Mapping[str, Tensor]:
        return self.parts[f"layer.{layer}"]

    def expert(self, layer: int, expert: int) -> Mapping[str, Tensor]:
        return self.parts[expert_part(layer, expert)]

    def answer(self, call: ExpertCall) -> Tensor:
        return swiglu(self.expert(call.layer, call.expert), "", call.hidden)

    def answer_together(self, calls: Sequence[ExpertCall]) -> list[Tensor]:
        return [self.answer(call) for call in calls]


class Watch:
    """Whether a part is still what it was."""

    def __init__(self, weights: RandomWeights, name: str) -> None:
        self._weights, self._name, self._held = weights, name, weights.part(name)

    @property
    def unchanged(self) -> bool:
        return self._weights.part(self._name) is self._held


def _drawn(
    name: str,
    stored: torch.dtype,
    shape: Any,
    plain: Mapping[str, Any],
    codes: torch.dtype,
    source: torch.Generator,
) -> Tensor:
    if stored == torch.int8:
        return torch.randint(-127, 128, shape, dtype=stored, generator=source)
    if stored == torch.uint8:
        return torch.randint(0, 256, shape, dtype=stored, generator=source)
    if stored == torch.float8_e4m3fn:
        return (torch.randn(shape, generator=source) * 4).to(stored)
    if name.endswith(".scale"):
        inputs = plain[name.removesuffix(".scale")][1]
        deviation = 4.6 if len(shape) == 2 else {torch.int8: 73.0}.get(codes, 4.0)
        return (0.5 + torch.rand(shape, generator=source)) * (2.0 / (deviation * inputs**0.5))
    drawn = torch.randn(shape, generator=source)
    if "norm" in name:
        return (1 + 0.2 * drawn).to(stored)
    return (drawn * (1.5 / shape[-1] ** 0.5 if len(shape) == 2 and "embed" not in name else 1.0)).to(stored)
