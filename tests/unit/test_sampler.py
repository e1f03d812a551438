"""Sampling: reproducible, and with the frequencies it promises."""

from collections import Counter

import numpy as np
import pytest
import torch

from blyan.model.sampler import History, sample
from blyan.model.sampling import Sampling
from blyan.primitives.digest import uniform
from blyan.primitives.errors import InvalidInput

SCORES = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))


def frequencies(sampling: Sampling, draws: int = 20_000) -> list[float]:
    counts = Counter(sample(SCORES.numpy(), sampling, uniform(3, position)) for position in range(draws))
    return [counts[token] / draws for token in range(4)]


def test_the_uniform_numbers_never_change() -> None:
    """Frozen vector: a replay elsewhere draws the same."""
    assert [round(uniform(7, position), 6) for position in range(3)] == [0.021625, 0.17527, 0.145611]
    assert uniform(-1, 0) != uniform(1, 0)


def test_greedy_takes_the_best_whatever_the_number() -> None:
    """Temperature 0 ignores chance."""
    assert {sample(SCORES.numpy(), Sampling(temperature=0), number / 10) for number in range(10)} == {0}


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
    assert sample(SCORES.numpy(), Sampling(), 0.0) == 0
    assert sample(SCORES.numpy(), Sampling(), 1 - 2**-53) == 3
    assert sample(SCORES.numpy(), Sampling(top_p=1e-9), 1 - 2**-53) == 0


def test_a_tiny_temperature_is_greedy_and_nothing_worse() -> None:
    """Dividing by it must not overflow into choosing the last."""
    scores = torch.tensor([-2.0, 5.0, 3.0, -9.0])
    assert {sample(scores.numpy(), Sampling(temperature=t), 0.999) for t in (1e-3, 1e-308, 5e-324)} == {1}


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
        {"min_p": 1.1},
        {"frequency_penalty": 2.1},
        {"presence_penalty": -2.1},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": float("inf")},
        {"logit_bias": ((5, 101.0),)},
        {"logit_bias": ((-1, 1.0),)},
        {"logit_bias": tuple((n, 1.0) for n in range(1_025))},
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, float]) -> None:
    """Each with the range in the message."""
    with pytest.raises(InvalidInput, match="expected"):
        Sampling(**changes)  # pyright: ignore[reportArgumentType]


def test_min_p_keeps_what_reaches_a_share_of_the_likeliest() -> None:
    """0.15 is not 0.4 of 0.5, 0.3 is."""
    assert frequencies(Sampling(min_p=0.4)) == pytest.approx([0.625, 0.375, 0, 0], abs=0.015)


def reshaped(sampling: Sampling, *, prompt: tuple[int, ...] = (), generated: tuple[int, ...] = ()) -> list[float]:
    history = History(prompt)
    for token in generated:
        history.take(token)
    return history.reshaped(np.array([2.0, -2.0, 1.0, 0.0], np.float32), sampling).tolist()


def test_penalties_are_those_of_the_reference() -> None:
    """Frequency for each time, presence once, of generated tokens; repetition of prompt tokens too, by sign."""
    assert reshaped(Sampling(frequency_penalty=0.5), prompt=(2,), generated=(0, 0, 1)) == [1.0, -2.5, 1.0, 0.0]
    assert reshaped(Sampling(presence_penalty=0.5), prompt=(2,), generated=(0, 0, 1)) == [1.5, -2.5, 1.0, 0.0]
    assert reshaped(Sampling(repetition_penalty=2.0), prompt=(1,), generated=(0,)) == [1.0, -4.0, 1.0, 0.0]
    assert reshaped(Sampling(logit_bias=((3, 5.0), (0, -100.0)))) == [-98.0, -2.0, 1.0, 5.0]


def test_repetition_penalty_equals_that_of_transformers() -> None:
    """Its logits processor, on the same tokens."""
    from transformers import RepetitionPenaltyLogitsProcessor

    scores = torch.randn(1, 50, generator=torch.Generator().manual_seed(3))
    tokens = torch.tensor([[4, 9, 4, 30]])
    expected = RepetitionPenaltyLogitsProcessor(1.3)(tokens, scores.clone())[0]
    history = History((4, 9))
    history.take(4)
    history.take(30)
    assert torch.allclose(
        torch.from_numpy(history.reshaped(scores[0].numpy(), Sampling(repetition_penalty=1.3))), expected
    )


@pytest.mark.filterwarnings("error")
def test_a_repetition_penalty_too_small_for_fp32_makes_what_came_before_certain() -> None:
    """Nothing is warned of, and every score is a number or infinite."""
    scores = np.array([0, 1, 0, -3], np.float32)
    for penalty in (1e-46, 1e-40, 1e-30):
        sampling = Sampling(repetition_penalty=penalty)
        reshaped = History([0, 1, 3]).reshaped(scores, sampling)
        assert not np.isnan(reshaped).any()
        assert sample(reshaped, sampling, 0.99) == 1


def test_without_penalties_scores_are_left_as_they_are() -> None:
    """Not even copied."""
    scores = np.zeros(4, np.float32)
    assert History((1,)).reshaped(scores, Sampling()) is scores


def test_a_bias_of_a_token_that_the_model_has_not_is_refused() -> None:
    """By its id."""
    with pytest.raises(InvalidInput, match="below 4, found 4"):
        reshaped(Sampling(logit_bias=((4, 1.0),)))
