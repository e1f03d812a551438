"""The fast sampler draws the very tokens of the plain one, whatever the scores, cuts and numbers are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from blyan.model.choosing import told
from blyan.model.likeliest import are_finite, best_first
from blyan.model.sampler import History, sample, weights_of
from blyan.model.sampling import Sampling
from plain_sampler import probabilities_in_double, reshape_plainly, sample_plainly

UNIFORMS = st.one_of(
    st.sampled_from([0.0, 0.25, 0.5, 1 - 2**-53]), st.floats(0, 1, exclude_max=True, allow_subnormal=False)
)
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.one_of(st.sampled_from([1.0, 0.7, 2.0, 5e-324, 1e-40, 1e-12]), st.floats(0, 2)),
    top_p=st.one_of(st.just(1.0), st.sampled_from([1e-9, 0.25, 0.5, 0.95]), st.floats(0, 1, exclude_min=True)),
    top_k=st.one_of(st.just(0), st.sampled_from([1, 2, 40, 300, 3_000]), st.integers(0, 2**21)),
    min_p=st.one_of(st.just(0.0), st.sampled_from([0.05, 0.5, 1.0]), st.floats(0, 1)),
)
VOCABS = st.one_of(st.integers(1, 300), st.sampled_from([64, 65, 4_097, 9_000]))


@st.composite
def drawn_scores(draw: st.DrawFn) -> Tensor:
    """Peaked, flat, rounded until many are equal, partly forbidden, and far apart."""
    vocab, seed = draw(VOCABS), draw(st.integers(0, 2**32 - 1))
    chance = np.random.default_rng(seed)
    shape = draw(st.sampled_from(["peaked", "flat", "equal", "steps", "far", "huge"]))
    spread = {"peaked": 4.0, "flat": 0.3, "equal": 0.0, "steps": 2.0, "far": 1e4, "huge": 1e38}[shape]
    scores = (chance.standard_normal(vocab) * spread).clip(-3e38, 3e38).astype(np.float32)
    if shape == "steps":
        scores = np.round(scores)
    allowed = draw(st.sampled_from([1.0, 1.0, 0.5, 0.01]))
    scores[chance.random(vocab) > allowed] = -np.inf
    if draw(st.booleans()):
        scores[chance.integers(vocab)] = draw(st.sampled_from([-0.0, 9.0, 1e30, np.inf]))
    return torch.from_numpy(scores)


@settings(max_examples=400, deadline=None)
@given(scores=drawn_scores(), sampling=SAMPLINGS, uniform=UNIFORMS)
@example(torch.zeros(9_000), Sampling(), 0.5)
@example(torch.cat((torch.zeros(100), torch.full((8_900,), -1e-9))), Sampling(top_p=0.5), 1 - 2**-53)
@example(torch.zeros(9_000), Sampling(top_p=0.5, min_p=1.0), 1 - 2**-53)
@example(torch.full((70,), -torch.inf), Sampling(), 0.5)
def test_the_fast_sampler_draws_what_the_plain_one_draws(scores: Tensor, sampling: Sampling, uniform: float) -> None:
    """Token for token, at the edges of every cut and of the interval too."""
    assert sample_plainly(scores, sampling, uniform) == sample(scores.numpy(), sampling, uniform)


@pytest.mark.parametrize("vocab", [32_000, 151_936, 200_000])
@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0])
def test_large_vocabularies_too(vocab: int, spread: float) -> None:
    """Draws all over the interval, with and without each cut."""
    scores = torch.randn(vocab, generator=torch.Generator().manual_seed(vocab)) * spread
    for sampling in (
        Sampling(temperature=0),
        Sampling(),
        Sampling(temperature=0.8, top_p=0.95),
        Sampling(top_k=40, top_p=0.9),
        Sampling(min_p=0.05),
    ):
        for uniform in (0.0, 0.3, 0.97):
            assert sample_plainly(scores, sampling, uniform) == sample(scores.numpy(), sampling, uniform)


@settings(max_examples=60, deadline=None)
@given(scores=drawn_scores(), sampling=SAMPLINGS)
def test_weights_are_the_softmax_of_the_scores(scores: Tensor, sampling: Sampling) -> None:
    """Against float64 all the way, within what fp32 scores can say."""
    peak = float(scores.max())
    if not np.isfinite(peak) or sampling.temperature < 1e-6 or abs(peak) > 1e6:
        return
    with np.errstate(over="ignore"):
        found = weights_of(scores.numpy(), np.float32(peak), sampling.temperature, len(scores))
    wanted = ((scores.double() - peak) / sampling.temperature).exp().numpy()
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-9)


def test_sums_of_weights_are_exact_in_any_order() -> None:
    """So parts of the vocabulary add up to the whole to the last bit."""
    chance = np.random.default_rng(4)
    scores = (chance.standard_normal(32_000) * 4).astype(np.float32)
    weights = weights_of(scores, scores.max(), 0.9, len(scores))
    total = math.fsum(weights)
    for _ in range(3):
        shuffled = chance.permutation(32_000)
        assert weights_of(scores[shuffled], scores.max(), 0.9, 32_000).tolist() == weights[shuffled].tolist()
        assert weights[shuffled].sum() == weights[shuffled].cumsum()[-1] == total


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(top_p=0.7), Sampling(top_k=7, temperature=1.5), Sampling(min_p=0.2)]
)
def test_draws_over_the_interval_have_the_shares_of_the_softmax(sampling: Sampling) -> None:
    """Each token's part of the interval is as long as its probability."""
    scores = torch.randn(90, generator=torch.Generator().manual_seed(5)) * 2
    count = 8_000
    tokens = [sample(scores.numpy(), sampling, (n + 0.5) / count) for n in range(count)]
    found = torch.bincount(torch.tensor(tokens), minlength=90) / count
    assert float((found - probabilities_in_double(scores, sampling)).abs().max()) < 2 / count


@settings(max_examples=100, deadline=None)
@given(
    vocab=st.sampled_from([5, 300, 3_000]),
    prompt=st.lists(st.integers(0, 4), max_size=6),
    generated=st.lists(st.integers(0, 4), max_size=200),
    penalties=st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.sampled_from([1.0, 1.3, 0.7])),
    bias=st.lists(st.tuples(st.integers(0, 4), st.floats(-100, 100)), max_size=5),
)
def test_penalties_and_biases_are_those_of_the_plain_way(
    vocab: int, prompt: list[int], generated: list[int], penalties: tuple[float, float, float], bias: list
) -> None:
    """Bit for bit, asked for after every few tokens; the scores given stay as they are."""
    frequency, presence, repetition = penalties
    sampling = Sampling(
        frequency_penalty=frequency, presence_penalty=presence, repetition_penalty=repetition, logit_bias=tuple(bias)
    )
    scores = torch.randn(vocab, generator=torch.Generator().manual_seed(3)) * 3
    kept = scores.clone()
    # the same ids, spread over the vocabulary
    stretch = vocab // 5
    history = History([token * stretch for token in prompt])
    for at, token in enumerate(generated):
        history.take(token * stretch)
        if at % 50 == 0:
            history.reshaped(scores.numpy(), sampling)
    spread = Sampling(
        frequency_penalty=frequency,
        presence_penalty=presence,
        repetition_penalty=repetition,
        logit_bias=tuple((token * stretch, value) for token, value in bias),
    )
    wanted = reshape_plainly(
        scores, spread, [token * stretch for token in prompt], [token * stretch for token in generated]
    )
    assert torch.equal(torch.from_numpy(history.reshaped(scores.numpy(), spread)), wanted)
    assert torch.equal(scores, kept)


@settings(max_examples=150, deadline=None)
@given(scores=drawn_scores(), count=st.integers(1, 400))
def test_the_best_come_first_and_none_is_left_out(scores: Tensor, count: int) -> None:
    """At least as many as asked for, in the order of a stable sort, to the last of equal ones."""
    array = scores.numpy()
    found = best_first(array, count)
    whole = np.argsort(-array, kind="stable")
    assert len(found) >= min(count, len(array))
    assert found.tolist() == whole[: len(found)].tolist()
    assert len(found) == len(array) or array[whole[len(found)]] < array[found[-1]]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 9_999), vocab=st.sampled_from([1, 7, 900, 32_000]), top=st.integers(0, 20))
def test_what_is_told_of_a_token_is_its_log_probability(seed: int, vocab: int, top: int) -> None:
    """As log-softmax has it; the likeliest in order."""
    scores = torch.randn(vocab, generator=torch.Generator().manual_seed(seed)) * 5
    token = seed % vocab
    logprob, listed = told(scores.numpy(), token, top)
    wanted = torch.log_softmax(scores.double(), 0)
    assert logprob == pytest.approx(float(wanted[token]), abs=1e-5)
    assert [other for other, _ in listed] == torch.sort(scores, descending=True, stable=True)[1][:top].tolist()
    assert [value for _, value in listed] == pytest.approx([float(wanted[other]) for other, _ in listed], abs=1e-5)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_no_number_is_found(bad: float) -> None:
    """Wherever it stands."""
    scores = torch.randn(1_000).numpy()
    assert are_finite(scores)
    scores[998] = bad
    assert not are_finite(scores)
