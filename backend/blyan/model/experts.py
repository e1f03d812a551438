"""Experts: the SwiGLU feed-forward that one expert computes, and the call that asks for it.

An `ExpertCall` is the seam between the model and whoever computes: this process, another node, a test.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from blyan.model.linear import linear


@dataclass(frozen=True, slots=True)
class ExpertCall:
    """One batch of hidden states to be put through one expert; the answer has the same shape."""

    layer: int
    expert: int
    hidden: Tensor  # [n, hidden]


def by_expert(calls: Sequence[ExpertCall], places: Iterable[int] | None = None) -> list[list[int]]:
    """The places of calls of one layer, of all or of some, each expert's together: rising number, then as they came."""
    groups: dict[int, list[int]] = {}
    for place in range(len(calls)) if places is None else places:
        groups.setdefault(calls[place].expert, []).append(place)
    return [groups[expert] for expert in sorted(groups)]


def swiglu(weights: Mapping[str, Tensor], prefix: str, hidden: Tensor) -> Tensor:
    """down(silu(gate(x)) · up(x)) for hidden [n, hidden] (Shazeer 2020, arXiv:2002.05202)."""
    gate = linear(weights, f"{prefix}gate_proj", hidden)
    up = linear(weights, f"{prefix}up_proj", hidden)
    return linear(weights, f"{prefix}down_proj", functional.silu(gate) * up)
