"""Sampling: reproducible, and with the frequencies it promises."""

from collections import Counter

import pytest
import torch

from blyan.model.sampler import sample
from blyan.model.sampling import Sampling
from blyan.primitives.digest import uniform
from blyan.primitives.errors import InvalidInput

SCORES = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))


def frequencies(sampling: Sampling, draws: int = 20_000) -> list[float]:
    counts = Counter(sample(SCORES, sampling, uniform(3, position)) for position in range(draws))
    return [counts[token] / draws for token in range(4)]


def test_the_uniform_numbers_never_change() -> None:
    """Frozen vector: a replay elsewhere draws the same."""
    assert [round(uniform(7, position), 6) for position in range(3)] == [0.021625, 0.17527, 0.145611]
    assert uniform(-1, 0) != uniform(1, 0)


def test_greedy_takes_the_best_whatever_the_number() -> None:
    """Temperature 0 ignores chance."""
    assert {sample(SCORES, Sampling(temperature=0), number / 10) for number in range(10)} == {0}


def test_frequencies_follow_the_probabilities() -> None:
    """At temperature 1 nothing is reshaped."""
    assert frequencies(Sampling()) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.015)


def test_temperature_sharpens() -> None:
    """At temperature 0.5 probabilities are squared and renormalised."""
    squared = torch.tensor([0.5, 0.3, 0.15, 0.05]) ** 2
    assert frequencies(Sampling(temperature=0.5)) == pytest.approx((squared / squared.sum()).tolist(), abs=0.015)


def test_top_p_keeps_the_smallest_head_that_reaches_it() -> None:
    """0.6 needs two tokens, which keep their ratio."""
    assert frequencies(Sampling(top_p=0.6)) == pytest.approx([0.625, 0.375, 0, 0], abs=0.015)


def test_top_k_keeps_the_k_best() -> None:
    """Three stay, renormalised."""
    assert frequencies(Sampling(top_k=3)) == pytest.approx([0.526, 0.316, 0.158, 0], abs=0.015)


def test_the_ends_of_the_interval_are_safe() -> None:
    """Numbers next to 0 and 1 choose the first and the last kept token."""
    assert sample(SCORES, Sampling(), 0.0) == 0
    assert sample(SCORES, Sampling(), 1 - 2**-53) == 3
    assert sample(SCORES, Sampling(top_p=1e-9), 1 - 2**-53) == 0


def test_a_tiny_temperature_is_greedy_and_nothing_worse() -> None:
    """Dividing by it must not overflow into choosing the last."""
    scores = torch.tensor([-2.0, 5.0, 3.0, -9.0])
    assert {sample(scores, Sampling(temperature=t), 0.999) for t in (1e-3, 1e-308, 5e-324)} == {1}


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"seed": 1 << 63},
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, float]) -> None:
    """Each with the range in the message."""
    with pytest.raises(InvalidInput, match="expected"):
        Sampling(**changes)  # pyright: ignore[reportArgumentType]
