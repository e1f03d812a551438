"""What nodes tell each other of the experts that they use: a message, and what those who hold experts make of many.

A gateway tells of what was computed for its own answers alone. It is a request, no evidence: whoever claims more than
four times what the others do counts for four times, and neither the floor of replicas nor the moves of an hour depend
on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray

from blyan.inference.expert_use import ExpertUse, half_life_s
from blyan.inference.snapshot import ExpertGrid
from blyan.primitives import limits
from blyan.primitives.errors import MalformedMessage
from blyan.wire.framing import Message, WireTensor

kind: Final = "use"  # of a request, with `manifest`
_loud_max: Final = 4.0  # times the median that one may claim
_positions_min: Final = 64.0  # below which nothing is told of a model


@dataclass(frozen=True, slots=True)
class ExpertDemand:
    """Of one model."""

    rate: float  # positions a second
    shares: NDArray[np.float64]  # [experts of the model] uses of each for a position
    partners: NDArray[np.int64]  # [experts of the model, few] numbers in the model of those used with it most
    company: NDArray[np.float64]  # the same: how often, 0 to 1


def demand_of(use: ExpertUse, now: float) -> ExpertDemand | None:
    """What this node's own answers use; None as long as that is too little to go by."""
    positions = use.computed(now)  # what others computed for this node they tell of themselves
    if positions < _positions_min:
        return None
    grid, few = use.grid, min(limits.use_partners_max, use.grid.experts - 1)
    partners = np.zeros((grid.count, few), np.int64)
    company = np.zeros((grid.count, few))
    for place, layer in enumerate(grid.layers):
        pairs = use.pairs(layer, now)
        rows = slice(place * grid.experts, (place + 1) * grid.experts)
        best = np.argsort(-pairs, axis=1, kind="stable")[:, :few]
        partners[rows] = best + place * grid.experts
        company[rows] = np.take_along_axis(pairs, best, axis=1)
    return ExpertDemand(positions * math.log(2) / half_life_s, use.shares(now), partners, company)


def message_of(demand: ExpertDemand | None) -> Message:
    """The answer to a request of this kind."""
    if demand is None:
        return Message({"rate": 0.0}, ())
    shares = demand.shares.astype("<f4")
    partners, company = demand.partners.astype("<i4"), np.round(demand.company.clip(0, 1) * 255).astype("<u1")
    return Message(
        {"rate": float(demand.rate)},
        (
            WireTensor("shares", "F32", shares.shape, shares.tobytes()),
            WireTensor("partners", "I32", partners.shape, partners.tobytes()),
            WireTensor("company", "U8", company.shape, company.tobytes()),
        ),
    )


def parse_demand(message: Message, grid: ExpertGrid) -> ExpertDemand | None:
    """Read `message_of`; `MalformedMessage` for what is none of a model with these experts."""
    rate = message.fields.get("rate")
    if not isinstance(rate, int | float) or not 0 <= rate <= limits.use_rate_max:
        raise MalformedMessage(f"use: expected a rate from 0 to {limits.use_rate_max:g}, found something else")
    if not message.tensors:
        return None
    found = {tensor.name: tensor for tensor in message.tensors}
    few = min(limits.use_partners_max, grid.experts - 1)
    shares, partners, company = (
        _array(found.get(name), dtype, said, shape)
        for name, dtype, said, shape in (
            ("shares", "<f4", "F32", (grid.count,)),
            ("partners", "<i4", "I32", (grid.count, few)),
            ("company", "<u1", "U8", (grid.count, few)),
        )
    )
    if not bool(((shares >= 0) & (shares <= 1)).all()):
        raise MalformedMessage("use: expected shares from 0 to 1, found others")
    if partners.size and not 0 <= int(partners.min()) <= int(partners.max()) < grid.count:
        raise MalformedMessage(f"use: expected partners below {grid.count}, found others")
    return ExpertDemand(float(rate), shares, partners.astype(np.int64), company / 255)


def together(demands: Sequence[ExpertDemand]) -> ExpertDemand | None:
    """Of all that were told; None without any."""
    told = [each for each in demands if each.rate > 0]
    if not told:
        return None
    most = _loud_max * median(each.rate for each in told)
    rates = [min(each.rate, most) for each in told]
    loudest = told[max(range(len(told)), key=rates.__getitem__)]
    shares = sum((rate * each.shares for rate, each in zip(rates, told, strict=True)), np.zeros_like(told[0].shares))
    return ExpertDemand(sum(rates), shares / sum(rates), loudest.partners, loudest.company)


def _array(tensor: WireTensor | None, dtype: str, said: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    if tensor is None or tensor.dtype != said or tuple(tensor.shape) != shape:
        raise MalformedMessage(f"use: expected {said} of {shape}, found something else")
    return np.frombuffer(bytes(tensor.data), dtype).reshape(shape).astype(np.float64)
