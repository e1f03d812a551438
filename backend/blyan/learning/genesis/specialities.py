"""Whether experts have specialities: how much the choice of experts tells of the skill that is asked for.

For each layer the mutual information of skill and chosen expert, in bits, over the tokens of answers; each skill weighs
the same. Nought where every skill uses the experts alike; at most the logarithm of the number of experts.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def information(counts: Mapping[str, Tensor]) -> list[float]:
    """Bits by layer, of counts [layers, experts] by skill."""
    shares = torch.stack([count.double() / count.sum(dim=1, keepdim=True) for count in counts.values()])
    overall = shares.mean(dim=0)  # [layers, experts]
    ratio = torch.where(shares > 0, shares / overall, 1.0)
    bits = (shares * ratio.log2()).sum(dim=2).mean(dim=0)
    return [float(each) for each in bits]


def heat_map(counts: Mapping[str, Tensor], layer: int) -> list[str]:
    """Rows of a Markdown table: of all choices in a layer, the percentage that fell on each expert, by skill."""
    rows = [f"| layer {layer} | " + " | ".join(map(str, range(next(iter(counts.values())).shape[1]))) + " |"]
    rows.append("|---" * (rows[0].count("|") - 1) + "|")
    for skill, count in counts.items():
        shares = (100 * count[layer] / count[layer].sum()).round().int().tolist()
        rows.append(f"| {skill} | " + " | ".join(f"**{each}**" if each >= 25 else str(each) for each in shares) + " |")
    return rows
