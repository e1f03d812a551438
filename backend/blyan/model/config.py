"""What one architecture is: the numbers that the transformer computes from.

Read from a Hugging Face `config.json` by `hf_config` and from a model manifest by `manifest`; both end in this one
frozen value. A value that exists is one that `transformer.forward` computes correctly. What a family fixes whatever
its configuration says stands in `families`.
"""

from __future__ import annotations

from dataclasses import dataclass

from blyan.model.families import Family, families
from blyan.model.rope_scaling import RopeScaling, check_rotary, sensible, sensible_range
from blyan.primitives import limits
from blyan.primitives.errors import UnsupportedModel


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A decoder-only Mixture-of-Experts transformer. Fields with a default are written only where they differ."""

    family: str
    vocab_size: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    dense_intermediate: int  # width of the MLP in layers without experts
    expert_intermediate: int
    experts: int
    experts_per_token: int
    normalise_top_k: bool  # routing weights of the chosen experts sum to one
    moe_layers: tuple[int, ...]  # layers that route to experts; all others have a dense MLP
    attention_bias: bool
    tied_embeddings: bool
    rms_eps: float
    rope_theta: float
    context_length: int  # positions
    rope_scaling: RopeScaling | None = None
    shared_intermediate: int = 0  # width of the shared expert, 0 where the family has none
    clip_qkv: float = 0.0  # bound of queries, keys and values, 0 for none
    window: int = 0  # positions that a windowed layer sees, itself included
    window_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _require(self.family in families, "family", self.family, f"one of {sorted(families)}")
        for name, top in (
            ("vocab_size", limits.vocab_max),
            ("hidden", limits.dimension_max),
            ("layers", limits.layers_max),
            ("heads", limits.dimension_max),
            ("kv_heads", limits.dimension_max),
            ("head_dim", limits.dimension_max),
            ("dense_intermediate", limits.dimension_max),
            ("expert_intermediate", limits.dimension_max),
            ("experts", limits.experts_max),
            ("experts_per_token", limits.experts_max),
            ("context_length", limits.canonical_integer_max),
        ):
            value = getattr(self, name)
            _require(type(value) is int and 1 <= value <= top, name, value, f"an integer from 1 to {top}")
        _require(self.heads % self.kv_heads == 0, "kv_heads", self.kv_heads, f"a divisor of the {self.heads} heads")
        _require(self.head_dim % 2 == 0, "head_dim", self.head_dim, "an even number (rotary halves)")
        _require(
            self.experts_per_token <= self.experts,
            "experts_per_token",
            self.experts_per_token,
            f"at most the {self.experts} experts",
        )
        for name in ("moe_layers", "window_layers"):
            listed = getattr(self, name)
            _require(
                all(0 <= layer < self.layers for layer in listed) and list(listed) == sorted(set(listed)),
                name,
                list(listed),
                f"rising layer numbers below {self.layers}",
            )
        parts = self.layers + len(self.moe_layers) * self.experts + 2
        _require(
            parts <= limits.manifest_parts_max,
            "experts",
            self.experts,
            f"at most {limits.manifest_parts_max} parts in all",
        )
        _require(0.0 < self.rms_eps < 1.0, "rms_eps", self.rms_eps, "between 0 and 1")
        _require(1.0 < self.rope_theta < 1e12, "rope_theta", self.rope_theta, "between 1 and 1e12")
        check_rotary(self.head_dim, self.rope_scaling)
        self._check_options()

    def _check_options(self) -> None:
        top = limits.dimension_max if self.facts.shared_expert else 0
        least = min(top, 1)
        shared = self.shared_intermediate
        _require(least <= shared <= top, "shared_intermediate", shared, f"{least} to {top} for {self.family}")
        bound = self.clip_qkv
        _require(bound == 0.0 or sensible(bound), "clip_qkv", bound, f"0 (none) or {sensible_range}")
        _require(0 <= self.window <= limits.canonical_integer_max, "window", self.window, "a number of positions")
        _require((self.window > 0) == bool(self.window_layers), "window", self.window, "one with windowed layers")

    @property
    def facts(self) -> Family:
        """What the family fixes."""
        return families[self.family]

    @property
    def expert_parameters(self) -> int:
        """Weights of one expert."""
        return 3 * self.hidden * self.expert_intermediate

    @property
    def parameters(self) -> int:
        """Weights of the whole model; tied embeddings count once."""
        return self._trunk_parameters() + len(self.moe_layers) * self.experts * self.expert_parameters

    @property
    def active_parameters(self) -> int:
        """Weights that one token passes through."""
        return self._trunk_parameters() + len(self.moe_layers) * self.experts_per_token * self.expert_parameters

    def _trunk_parameters(self) -> int:
        width_q, width_kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden * (2 * width_q + 2 * width_kv)
        attention += {"none": 0, "head": 2 * self.head_dim, "projection": width_q + width_kv}[self.facts.qk_norm]
        if self.attention_bias:
            attention += width_q + 2 * width_kv + (self.hidden if self.facts.output_bias else 0)
        shared = 3 * self.hidden * self.shared_intermediate + (self.hidden if self.facts.shared_expert else 0)
        dense_layers = self.layers - len(self.moe_layers)
        return (
            self.vocab_size * self.hidden * (1 if self.tied_embeddings else 2)
            + self.hidden
            + self.layers * (attention + 2 * self.hidden)
            + dense_layers * 3 * self.hidden * self.dense_intermediate
            + len(self.moe_layers) * (self.experts * self.hidden + shared)
        )


def _require(holds: bool, field: str, found: object, expected: str) -> None:
    if not holds:
        raise UnsupportedModel(
            f"{field}: expected {expected}, found {found!r}",
            detail={"field": field, "expected": expected, "found": repr(found)[:200]},
        )
