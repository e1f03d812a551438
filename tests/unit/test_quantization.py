"""Quantised matrices: what codes and scales stand for, how far from the truth, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blyan.model.parts import Part
from blyan.model.quantization import Quantization
from blyan.model.quantize import QuantizedPart, quantize_matrix
from blyan.model.stored_tensors import dense, dense_tensors, pack, stored_layout
from blyan.primitives.errors import UnsupportedModel

INT4 = Quantization("int4", 64)
SEARCH = Quantization("int4", 64, "search")


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.05


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 5), columns=st.integers(1, 70), seed=st.integers(0, 99))
def test_packed_values_come_back(rows: int, columns: int, seed: int) -> None:
    """Odd widths too: the even column lies in the low half of its byte."""
    values = torch.randint(-8, 8, (rows, columns), generator=torch.Generator().manual_seed(seed), dtype=torch.int16)
    packed = pack(values)
    assert packed.shape == (rows, -(-columns // 2))
    groups = -(-columns // 16)
    assert torch.equal(dense(packed, torch.ones(rows, groups), columns), values.float())


def test_the_low_half_is_the_even_column() -> None:
    """As docs/spec/manifest.md says: value plus 8."""
    assert pack(torch.tensor([[-8, 7, 1]], dtype=torch.int16)).tolist() == [[0xF0, 0x89]]


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 63), (5, 64), (7, 65), (16, 200)])
@pytest.mark.parametrize("group", [16, 64, 256])
def test_each_int4_weight_is_within_half_a_step_of_the_truth(rows: int, columns: int, group: int) -> None:
    """Round to nearest; a short last group has a scale of its own."""
    weights = matrix(rows, columns)
    codes, scales = quantize_matrix(weights, Quantization("int4", group))
    assert scales.shape == (rows, -(-columns // group))
    steps = scales.repeat_interleave(group, dim=1)[:, :columns]
    assert ((dense(codes, scales, columns) - weights).abs() <= steps * 0.5001).all()


@pytest.mark.parametrize(("scheme", "worst"), [("int8", 0.5 / 127), ("fp8", 1 / 16)])
def test_each_weight_of_a_channel_is_near_the_truth(scheme: str, worst: float) -> None:
    """int8 within half a step of the channel's largest; E4M3 has three bits of mantissa."""
    weights = matrix(33, 129)
    weights[5] = 0.0
    codes, scales = quantize_matrix(weights, Quantization(scheme))
    found = dense(codes, scales, 129)
    largest = weights.abs().amax(1, keepdim=True)
    assert ((found - weights).abs() <= 1.001 * worst * largest).all()
    assert torch.equal(found[5], torch.zeros(129))


def test_the_search_leaves_less_error_where_inputs_are_large() -> None:
    """Than rounding, on the products that count, and than itself without knowing the inputs."""
    weights = matrix(96, 256)
    chance = torch.Generator().manual_seed(1)
    sizes = torch.logspace(-1.5, 1.5, 256)[torch.randperm(256, generator=chance)]
    inputs = torch.randn(400, 256, generator=chance) * sizes
    truth = inputs @ weights.T

    def error(quantization: Quantization, mean_squares: torch.Tensor | None) -> float:
        found = dense(*quantize_matrix(weights, quantization, mean_squares), 256)
        return float((inputs @ found.T - truth).norm() / truth.norm())

    weighed = error(SEARCH, inputs.pow(2).mean(0))
    assert weighed < 0.8 * error(SEARCH, None)
    assert error(SEARCH, None) < error(INT4, None)


@pytest.mark.parametrize("weights", [torch.zeros(3, 40), torch.full((2, 64), 1e-38), torch.eye(64) * 3e38])
def test_matrices_at_the_ends_of_what_fp32_holds(weights: torch.Tensor) -> None:
    """No division by nothing, nothing that is not a number."""
    for quantization in (INT4, SEARCH, Quantization("int8"), Quantization("fp8")):
        found = dense(*quantize_matrix(weights, quantization, torch.zeros(weights.shape[1])), weights.shape[1])
        assert torch.isfinite(found).all()
        assert (found == 0).all() or not (weights == 0).all()


@pytest.mark.parametrize("scheme", ["int8", "int4", "fp8", "bf16"])
def test_a_part_is_stored_as_its_layout_says(scheme: str) -> None:
    """Matrices quantised, gate, norms and biases as they came; and back to the shapes of before."""
    shapes = {"q_proj.weight": (24, 70), "q_proj.bias": (24,), "norm.weight": (70,), "mlp.gate.weight": (5, 70)}
    part = Part("layer.0", "model.layers.0.", shapes, 0)
    given = {name: torch.randn(shape).to(torch.float16) for name, shape in shapes.items()}
    plan = Quantization(scheme, 32 if scheme == "int4" else 0)
    made = QuantizedPart(part, given.__getitem__, plan, {})
    stored = {name: made.tensor(name) for name in stored_layout(part, torch.float16, plan)}
    dtype = torch.bfloat16 if scheme == "bf16" else torch.float16
    assert {name: (t.dtype, tuple(t.shape)) for name, t in stored.items()} == stored_layout(part, dtype, plan)
    again = dense_tensors(part, stored, dtype)
    assert {name: tuple(tensor.shape) for name, tensor in again.items()} == shapes
    assert all(tensor.dtype == dtype for tensor in again.values())
    assert torch.equal(again["mlp.gate.weight"], given["mlp.gate.weight"].to(dtype))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"scheme": "int3"}, "scheme"),
        ({"scheme": "int8", "group": 64}, "group"),
        ({"scheme": "int4"}, "group"),
        ({"scheme": "int4", "group": 48}, "group"),
        ({"scheme": "int8", "method": "search"}, "method"),
        ({"scheme": "int4", "group": 64, "method": "guess"}, "method"),
        ({"scheme": "int8", "text": "../etc"}, "text"),
        ({"scheme": "int8", "tokens": -1}, "tokens"),
    ],
)
def test_what_no_reader_knows_is_refused(fields: dict[str, Any], named: str) -> None:
    """By field and value."""
    with pytest.raises(UnsupportedModel, match=f"quantization {named}: expected"):
        Quantization(**fields)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(bad: float) -> None:
    """Matrix or not, whatever the scheme."""
    part = Part("layer.0", "model.layers.0.", {"q_proj.weight": (4, 8), "norm.weight": (8,)}, 0)
    for name in part.shapes:
        given = {each: torch.ones(shape) for each, shape in part.shapes.items()}
        given[name].view(-1)[3] = bad
        for plan in (INT4, Quantization("int8"), Quantization("bf16")):
            made = QuantizedPart(part, given.__getitem__, plan, {})
            with pytest.raises(UnsupportedModel, match=rf"tensor model\.layers\.0\.{name}: expected finite"):
                made.tensor(name)


def test_the_search_never_leaves_the_range_of_the_models_dtype() -> None:
    """fp16 ends at 65504, and eight times a scale may not."""
    weights = (matrix(200, 64) * 600_000).clamp(-65_504, 65_504).half()
    codes, scales = quantize_matrix(weights, SEARCH)
    assert torch.isfinite(dense(codes, scales, 64).half()).all()
