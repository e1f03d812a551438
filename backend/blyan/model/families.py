"""What a family of models fixes, whatever its configuration says: one table of facts, one transformer.

A new family is a row here (and a row of field names in `hf_config`). The facts are those of the Hugging Face
`transformers` implementations, which tests hold this engine to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

_swiglu: Final[Mapping[str, str]] = {name: name for name in ("gate_proj", "up_proj", "down_proj")}


@dataclass(frozen=True, slots=True)
class Family:
    """Facts that the arithmetic or the names of a checkpoint depend on."""

    qk_norm: Literal["none", "head", "projection"] = "none"  # RMS norm of queries and keys: over a head, or all heads
    output_bias: bool = False  # with attention bias, the output projection has one too
    shared_expert: bool = False  # a dense expert beside the routed ones, with a sigmoid gate of its own
    wide_routing_weights: bool = False  # routing weights stay fp32 when the hidden states are not
    moe_block: str = "mlp"  # of gate and experts in checkpoint names
    expert_tensors: Mapping[str, str] = field(default_factory=lambda: dict(_swiglu))  # ours → the checkpoint's


families: Final[Mapping[str, Family]] = {
    # Jiang et al. 2024, arXiv:2401.04088
    "mixtral": Family(
        wide_routing_weights=True,
        moe_block="block_sparse_moe",
        expert_tensors={"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"},
    ),
    # Qwen team 2024, arXiv:2407.10671
    "qwen2_moe": Family(shared_expert=True),
    # Yang et al. 2025, arXiv:2505.09388
    "qwen3_moe": Family(qk_norm="head", output_bias=True),
    # Muennighoff et al. 2024, arXiv:2409.02060
    "olmoe": Family(qk_norm="projection", output_bias=True),
}
