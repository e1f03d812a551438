"""A matrix of a model times hidden states, however the matrix is stored.

The plain way: a quantised matrix is multiplied out for each product and rounded to the hidden states' type, so that it
is the product with the matrix that an export writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor
from torch.nn import functional

from blyan.model.stored_tensors import dense, scale_suffix


class WatchedTensors(Mapping[str, Tensor]):
    """Tensors of a part that remember the mean square of each input of each matrix, for `quantize`."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self.mean_squares: dict[str, Tensor] = {}  # matrix → [in] fp32

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def saw(self, name: str, hidden: Tensor) -> None:
        """The matrix is multiplied with hidden [..., in]."""
        self.mean_squares[name] = hidden.reshape(-1, hidden.shape[-1]).float().pow(2).mean(0)


def linear(weights: Mapping[str, Tensor], name: str, hidden: Tensor) -> Tensor:
    """hidden [..., in] times `name.weight` [out, in] transposed, plus `name.bias` where there is one."""
    weight = weights[f"{name}.weight"]
    scales = weights.get(f"{name}.weight{scale_suffix}")
    if scales is not None:
        weight = dense(weight, scales, hidden.shape[-1], hidden.dtype)
    if isinstance(weights, WatchedTensors):
        weights.saw(f"{name}.weight", hidden)
    return functional.linear(hidden, weight, weights.get(f"{name}.bias"))
