"""Random models as blocks in a store, made without a checkpoint: any size, any way of storing matrices, at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blyan.model.config import ModelConfig
from blyan.model.manifest import BlockReference, GenerationDefaults, Manifest
from blyan.model.parts import Part, parts_of
from blyan.model.quantization import Quantization
from blyan.model.quantize import quantize_matrix
from blyan.model.stored_tensors import is_matrix, scale_suffix
from blyan.storage import tensor_block
from blyan.storage.blob_store import BlobStore

SMALL = ModelConfig(
    family="qwen3_moe",
    vocab_size=300,
    hidden=72,
    layers=3,
    heads=6,
    kv_heads=3,
    head_dim=20,
    dense_intermediate=100,
    expert_intermediate=52,
    experts=7,
    experts_per_token=3,
    normalise_top_k=True,
    moe_layers=(1, 2),
    attention_bias=False,
    tied_embeddings=False,
    rms_eps=1e-6,
    rope_theta=10000.0,
    context_length=512,
)


def random_part(part: Part, dtype: torch.dtype, quantization: Quantization | None, seed: int) -> dict[str, Tensor]:
    """The tensors of a part's block: matrices small enough that activations stay near one, norms near one."""
    chance = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, shape in part.shapes.items():
        values = torch.randn(shape, generator=chance)
        values = 1 + values * 0.1 if "norm" in name else values / shape[-1] ** 0.5 * 1.5
        if quantization is not None and is_matrix(name):
            tensors[name], tensors[name + scale_suffix] = quantize_matrix(values, quantization)
        else:
            tensors[name] = values.to(dtype)
    return tensors


def store_random_model(
    store: BlobStore,
    config: ModelConfig = SMALL,
    *,
    dtype: str = "F32",
    quantization: Quantization | None = None,
    seed: int = 0,
    **changes: Any,
) -> Manifest:
    """Put every part into the store and return the manifest, which is in no chain."""
    parts: dict[str, BlockReference] = {}
    for number, part in enumerate(parts_of(config)):
        tensors = random_part(part, tensor_block.dtypes[dtype], quantization, seed + number)
        stored = store.put(tensor_block.encode(tensors))
        parts[part.name] = BlockReference(stored.payload, stored.length)
    values: dict[str, Any] = {
        "name": "random",
        "version": "1.0.0",
        "config": config,
        "dtype": dtype,
        "parts": parts,
        "tokenizer": None,
        "generation": GenerationDefaults(),
        "license": "Apache-2.0",
        "source": "test",
        "quantization": quantization,
    }
    return Manifest(**(values | changes))


def flip(path: Path, at: int) -> None:
    """Change one bit of a stored file, as a disk might."""
    path.chmod(0o644)
    with path.open("r+b") as file:  # in place: whoever reads it meanwhile finds no end where there is none
        file.seek(at)
        [byte] = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))
