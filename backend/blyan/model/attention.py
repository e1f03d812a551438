"""Grouped-query attention with rotary positions, q/k norm, clipping and windows, as far as the family has them.

Norms and rotations run in fp32 where the reference does, so that bf16 weights give the reference's numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional

from blyan.model.config import ModelConfig
from blyan.model.kv_cache import Cache
from blyan.model.linear import linear


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last dimension, in fp32 (Zhang and Sennrich 2019, arXiv:1910.07467)."""
    wide = hidden.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * normed.to(hidden.dtype)


def rotate(vectors: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate [B, H, T, head_dim] by the table's angles; halves, not pairs, as Hugging Face checkpoints store them."""
    first, second = vectors.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return vectors * cosines.to(vectors.dtype) + turned * sines.to(vectors.dtype)


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Attention of a training in mixed precision stays in fp32: on a CPU its gradient is twice as fast so."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def attend(
    weights: Mapping[str, Tensor],
    config: ModelConfig,
    layer: int,
    hidden: Tensor,
    rotary: tuple[Tensor, Tensor],
    cache: Cache | None,
) -> Tensor:
    """Causal self-attention of one layer: hidden [B, T, hidden] to the same shape.

    With a cache, the T positions follow the cached ones and are appended to it.
    """
    batch, count, _ = hidden.shape
    eps, norm = config.rms_eps, config.facts.qk_norm

    def project(name: str, heads: int, norm_weight: Tensor | None) -> Tensor:
        """[B, heads, T, head_dim]"""
        flat = linear(weights, name, hidden)
        if norm_weight is not None and norm == "projection":
            flat = rms_norm(flat, norm_weight, eps)
        if config.clip_qkv:
            flat = flat.clamp(-config.clip_qkv, config.clip_qkv)
        split = flat.view(batch, count, heads, config.head_dim)
        if norm_weight is not None and norm == "head":
            split = rms_norm(split, norm_weight, eps)
        return split.transpose(1, 2)

    queries = project("self_attn.q_proj", config.heads, weights.get("self_attn.q_norm.weight"))
    keys = project("self_attn.k_proj", config.kv_heads, weights.get("self_attn.k_norm.weight"))
    values = project("self_attn.v_proj", config.kv_heads, None)
    queries, keys = rotate(queries, *rotary), rotate(keys, *rotary)
    past = 0
    if cache is not None:
        past = cache.length
        keys, values = cache.append(layer, keys, values)
    window = config.window if layer in config.window_layers else 0
    if window and count == 1:  # one row needs no mask: it sees the last positions, all of them
        keys, values = keys[:, :, -window:], values[:, :, -window:]
    mask = None
    if count > 1 and (past or 0 < window < count):
        # new rows see all cached positions and themselves; is_causal would align top-left
        mask = torch.ones(count, past + count, dtype=torch.bool, device=hidden.device).tril(diagonal=past)
        if window:
            mask = mask.triu(diagonal=past - window + 1)
    with without_autocast(queries):
        out = functional.scaled_dot_product_attention(
            queries,
            keys,
            values.to(queries.dtype),
            attn_mask=mask,
            is_causal=mask is None and count > 1,
            enable_gqa=True,
        )
    out = out.transpose(1, 2).reshape(batch, count, config.heads * config.head_dim)
    return linear(weights, "self_attn.o_proj", out)
