"""Addresses of every tensor of a model, for jitted code: laid out once, held to the mappings that they point into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blyan.model import fused_layout as at
from blyan.model import simd
from blyan.model.config import ModelConfig
from blyan.model.file_looks import FileLooks, Watch
from blyan.model.parts import expert_part
from blyan.model.stored_tensors import group_of, scale_suffix
from blyan.model.weights import ModelWeights

kinds: Final = {
    torch.float32: simd.fp32,
    torch.bfloat16: simd.bf16,
    torch.float16: simd.fp16,
    torch.int8: simd.int8,
    torch.float8_e4m3fn: simd.fp8,
    torch.uint8: simd.int4,
}


def widened(kind: NDArray[Any]) -> NDArray[Any]:
    """What numbers stored as `kind` are once they are fp32: themselves, or codes that have a scale each row."""
    return simd.codes if kind.dtype in (np.int8, np.uint8) else simd.fp32


class WeightTables:
    """Addresses of every tensor of a model, and the parts they belong to. Parts that are not `held` have none: what
    computes keeps away from them.
    """

    def __init__(
        self, weights: ModelWeights, config: ModelConfig, held: Callable[[str], bool] = lambda _: True
    ) -> None:
        self._weights, self._config = weights, config
        self.kind = simd.fp32
        self.floats = np.array([config.rms_eps, config.clip_qkv], np.float32)
        self.trunk = np.zeros((config.layers, at.O + 6), np.int64)
        self.experts = np.zeros((config.layers, config.experts + 1, 15), np.int64)
        self._opened: dict[str, Mapping[str, Tensor]] = {}  # held, so that nothing is unmapped
        self._taken: dict[tuple[int, int], Watch] = {}  # experts that were laid later, and looks at them
        self.embed = self._part("embed")["embed_tokens.weight"] if held("embed") else None
        head = self._part("head") if held("head") else {}
        self.norm = head.get("norm.weight")
        self.head = self.embed if config.tied_embeddings else head.get("lm_head.weight")
        if self.head is not None:  # where no layer says otherwise
            self.kind = kinds[self.head.dtype]
        layers = [layer for layer in range(config.layers) if held(f"layer.{layer}")]
        trunk_parts = [name for name in ("embed", "head") if held(name)] + [f"layer.{layer}" for layer in layers]
        for layer in layers:
            self._lay_layer(layer)
        for layer in config.moe_layers:
            for expert in range(config.experts):
                if held(expert_part(layer, expert)):
                    self._lay_expert(layer, expert, self._part(expert_part(layer, expert)), "")
        self._looks = FileLooks(
            [weights.watch(name) for name in trunk_parts],
            [
                [weights.watch(name) if held(name := expert_part(layer, at)) else None for at in range(config.experts)]
                for layer in config.moe_layers
            ],
        )
        # the looks began after the addresses were taken
        self._torn = any(weights.part(name) is not held for name, held in self._opened.items())

    def unchanged(self, chosen: NDArray[np.int64], rows: int) -> bool:
        """Whether what was computed with, the experts in `chosen` [moe layers, rows or more, top_k] too, is mapped."""
        return not self._torn and self._looks.unchanged(chosen, rows)

    def _part(self, name: str) -> Mapping[str, Tensor]:
        tensors = self._opened[name] = self._weights.part(name)
        return tensors

    def take(self, layer: int, expert: int) -> None:
        """Lay an expert that is to be computed with, unless it is laid as it is; faults as `ModelWeights.part`'s."""
        if not self.is_good(layer, expert):
            watch = self._weights.watch(name := expert_part(layer, expert))
            self._lay_expert(layer, expert, self._part(name), "")
            self._taken[layer, expert] = watch

    def was_taken(self, layer: int, expert: int) -> bool:
        """Whether an expert was ever taken."""
        return (layer, expert) in self._taken

    def is_good(self, layer: int, expert: int) -> bool:
        """Whether an expert that was taken is still what it was then."""
        watch = self._taken.get((layer, expert))
        return watch is not None and watch.unchanged

    def _lay_layer(self, layer: int) -> None:
        config, names, row = self._config, self._part(f"layer.{layer}"), self.trunk[layer]
        for column, name in (
            (at.INPUT_NORM, "input_layernorm.weight"),
            (at.POST_NORM, "post_attention_layernorm.weight"),
            (at.Q_NORM, "self_attn.q_norm.weight"),
            (at.K_NORM, "self_attn.k_norm.weight"),
            (at.GATE, "mlp.gate.weight"),
            (at.SHARED_GATE, "mlp.shared_expert_gate.weight"),
        ):
            row[column] = names[name].data_ptr() if name in names else 0
        row[at.WINDOW] = config.window if layer in config.window_layers else 0
        moe = self._config.moe_layers.index(layer) + 1 if layer in self._config.moe_layers else 0
        row[at.MOE] = moe
        for column, name in ((at.Q, "q_proj"), (at.K, "k_proj"), (at.V, "v_proj"), (at.O, "o_proj")):
            self._lay_matrix(row, column, names, f"self_attn.{name}")
            bias = names.get(f"self_attn.{name}.bias")
            row[column + 5] = 0 if bias is None else bias.data_ptr()
        if moe:
            row[at.EXTRA_INNER] = config.shared_intermediate if config.facts.shared_expert else 0
            if config.facts.shared_expert:
                self._lay_expert(layer, config.experts, names, "mlp.shared_expert.")
        else:
            row[at.EXTRA_INNER] = config.dense_intermediate
            self._lay_expert(layer, config.experts, names, "mlp.")

    def _lay_expert(self, layer: int, expert: int, tensors: Mapping[str, Tensor], prefix: str) -> None:
        row = self.experts[layer, expert]
        for column, name in ((at.UP_GATE, "gate_proj"), (at.UP, "up_proj"), (at.DOWN, "down_proj")):
            self._lay_matrix(row, column, tensors, prefix + name)

    def _lay_matrix(self, row: NDArray[np.int64], column: int, tensors: Mapping[str, Tensor], name: str) -> None:
        matrix, scales = tensors[f"{name}.weight"], tensors.get(f"{name}.weight{scale_suffix}")
        inner = matrix.shape[1] * (2 if matrix.dtype == torch.uint8 else 1)
        grouped = matrix.dtype == torch.uint8 and scales is not None
        groups = scales.shape[1] if grouped and scales is not None else 1
        group = group_of(inner, groups) if grouped else inner
        stride = matrix.shape[1] * matrix.itemsize
        row[column : column + 5] = matrix.data_ptr(), stride, 0 if scales is None else scales.data_ptr(), groups, group
        self.kind = kinds[matrix.dtype]
