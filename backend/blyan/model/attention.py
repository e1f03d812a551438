"""Grouped-query attention with rotary positions and per-head q/k norm, as Qwen3 computes it.

Norms and rotations run in fp32 where the reference does, so that bf16 weights give the reference's numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from blyan.model.config import ModelConfig
from blyan.model.kv_cache import KVCache


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last dimension, in fp32 (Zhang and Sennrich 2019, arXiv:1910.07467)."""
    wide = hidden.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * normed.to(hidden.dtype)


def rotary_table(config: ModelConfig, start: int, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [count, head_dim] in fp32 of positions start … start+count (Su et al., arXiv:2104.09864)."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64, device=device).float() / config.head_dim
    frequencies = 1.0 / (config.rope_theta**exponents)
    positions = torch.arange(start, start + count, dtype=torch.float32, device=device)
    angles = torch.outer(positions, frequencies)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(vectors: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate [B, H, T, head_dim] by the table's angles; halves, not pairs, as Hugging Face checkpoints store them."""
    first, second = vectors.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return vectors * cosines.to(vectors.dtype) + turned * sines.to(vectors.dtype)


def attend(
    weights: Mapping[str, Tensor],
    config: ModelConfig,
    layer: int,
    hidden: Tensor,
    rotary: tuple[Tensor, Tensor],
    cache: KVCache | None,
) -> Tensor:
    """Causal self-attention of one layer: hidden [B, T, hidden] to the same shape.

    With a cache, the T positions follow the cached ones and are appended to it.
    """
    batch, count, _ = hidden.shape

    def project(name: str, heads: int) -> Tensor:
        out = functional.linear(hidden, weights[f"{name}.weight"], weights.get(f"{name}.bias"))
        return out.view(batch, count, heads, config.head_dim)

    queries = rms_norm(project("self_attn.q_proj", config.heads), weights["self_attn.q_norm.weight"], config.rms_eps)
    keys = rms_norm(project("self_attn.k_proj", config.kv_heads), weights["self_attn.k_norm.weight"], config.rms_eps)
    values = project("self_attn.v_proj", config.kv_heads).transpose(1, 2)
    queries = rotate(queries.transpose(1, 2), *rotary)
    keys = rotate(keys.transpose(1, 2), *rotary)
    past = 0
    if cache is not None:
        past = cache.length
        keys, values = cache.append(layer, keys, values)
    mask = None
    if past and count > 1:  # new rows see all cached positions and themselves; is_causal would align top-left
        mask = torch.ones(count, past + count, dtype=torch.bool, device=hidden.device).tril(diagonal=past)
    out = functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, is_causal=past == 0 and count > 1, enable_gqa=True
    )
    out = out.transpose(1, 2).reshape(batch, count, config.heads * config.head_dim)
    return functional.linear(out, weights["self_attn.o_proj.weight"], weights.get("self_attn.o_proj.bias"))
