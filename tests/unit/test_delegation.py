"""Answers that are gone on with, who is asked for one, and which experts it is expected to use."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from blyan.inference.call_times import CallTimes
from blyan.inference.decoding import Steps, decode
from blyan.inference.delegating import DelegationOptions
from blyan.inference.delegation import Candidate, Elsewhere, again, choose
from blyan.inference.drafting import Drafter
from blyan.inference.expert_set import ExpertSet, predict
from blyan.inference.expert_use import ExpertUse, half_life_s
from blyan.inference.needs import Answer, Need
from blyan.inference.snapshot import ExpertGrid, Rank
from blyan.model.choosing import Choice, Step
from blyan.model.sampling import Sampling
from blyan.primitives import limits
from blyan.wire.peer import Holding, bits_of, numbers_of
from swarms import node

VOCABULARY, LAYERS = 23, (0, 2)
SAMPLINGS = {
    "greedy": Sampling(temperature=0.0),
    "seeded": Sampling(temperature=1.3, top_p=0.9, seed=5),
    "with penalties": Sampling(
        temperature=0.9, seed=-3, frequency_penalty=0.8, presence_penalty=0.3, repetition_penalty=1.4
    ),
}


def scores_of(tokens: Sequence[int]) -> list[float]:
    """Of the position after these, by all of them."""
    digest = hashlib.shake_128(bytes(tokens)).digest(VOCABULARY)
    return [byte / 32 for byte in digest]


def driven(steps: Steps, drafts_max: int = 0) -> list[Step]:
    """All steps, computed by a model of the tokens alone."""
    known: list[int] = []
    found: list[Step] = []
    answer: Answer | None = None
    while True:
        try:
            item = steps.send(answer)
        except StopIteration:
            return found
        answer = None
        if isinstance(item, Need):
            known[item.start :] = item.tokens
            ends = range(item.end - item.scored + 1, item.end + 1)
            scores = np.asarray([scores_of(known[:end]) for end in ends], np.float32).reshape(-1, VOCABULARY)
            chosen = [[[token % 4], [(token + 1) % 4]] for token in item.tokens]
            answer = Answer(scores, np.asarray(chosen, np.int16), LAYERS, drafts_max=drafts_max)
        else:
            found.append(item)


@pytest.mark.parametrize("drafts", [0, 3])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_an_answer_that_is_gone_on_with_has_the_same_steps(sampling: str, drafts: int) -> None:
    """From every place of it: tokens, log-probabilities, and the experts of each position once."""
    prompt = (3, 1, 4, 1, 5, 9, 2, 6)
    choice = Choice(SAMPLINGS[sampling], 20, frozenset({22}), top=2)

    def steps(chosen: tuple[int, ...]) -> list[Step]:
        drafter = Drafter(prompt, drafts) if drafts else None
        return driven(decode(prompt, choice, drafter=drafter, chosen=chosen), drafts)

    whole = steps(())
    assert len(whole) >= 3
    for at in range(1, len(whole)):
        assert steps(tuple(step.token for step in whole[:at])) == whole[at:]


GRID = ExpertGrid((1, 4), 4)
EVENLY = ExpertSet(np.full((2, 4), 0.25, np.float32), tuple(range(8)))


def candidate(number: int, holds: set[int] | None = None, **more: Any) -> Candidate:
    rank = more.pop("rank", Rank.proven)
    return Candidate(node(number), rank, Holding(True, bits_of(set(range(8)) if holds is None else holds)), **more)


def others(call_s: float) -> Elsewhere:
    """Another node has all, and answers a call in so long."""
    return Elsewhere((CallTimes(node(9), call_s, 0.0, call_s),), np.zeros(8, np.int32))


def order_of(*candidates: Candidate, predicted: ExpertSet = EVENLY, **more: Any) -> list[int]:
    more = {"elsewhere": others(0.02)} | more
    return [int(each.node, 16) for each in choose(candidates, predicted, lambda _number: 10, **more)]


def test_who_holds_all_goes_before_who_lacks_few_before_who_lacks_many() -> None:
    assert order_of(candidate(1, {0}), candidate(2, {*range(7)}), candidate(3)) == [3, 2, 1]


def test_only_what_is_expected_to_be_used_counts() -> None:
    predicted = ExpertSet(np.array([[0.5, 0.5, 0, 0], [1, 0, 0, 0]], np.float32), (0, 1, 4))
    (first, second) = choose(
        [candidate(1, {0, 1, 5, 6, 7}), candidate(2, {0, 1, 4})], predicted, lambda number: number * 100, others(0.02)
    )
    assert (first.node, first.lacking, first.bytes_lacking) == (node(2), (), 0)
    assert (second.lacking, second.bytes_lacking) == ((4,), 400)


@pytest.mark.parametrize(
    ("slower", "faster"),
    [
        ({"step_s": 0.05}, {"step_s": 0.01}),
        ({"rtt_s": 0.9}, {"rtt_s": 0.001}),
        ({"under_way": 3}, {}),
        ({"queue": 3}, {}),
        ({"rank": Rank.draining}, {"step_s": 1.0}),
        ({"rank": Rank.broken}, {"rank": Rank.doubtful}),
    ],
)
def test_who_is_expected_to_end_sooner_is_asked_first(slower: dict[str, Any], faster: dict[str, Any]) -> None:
    """Within a rank; newcomers are asked as the proven are."""
    assert order_of(candidate(1, **slower), candidate(2, **faster)) == [2, 1]
    assert order_of(candidate(1, rank=Rank.proven, rtt_s=0.1), candidate(2, rank=Rank.newcomer, rtt_s=0.01)) == [2, 1]


def test_a_fast_node_that_lacks_little_is_asked_before_a_slow_one_with_all() -> None:
    lacking = candidate(1, {*range(7)}, step_s=0.01, rtt_s=0.005)
    assert order_of(lacking, candidate(2, step_s=0.1)) == [1, 2]


def test_calls_for_what_is_lacking_count_by_what_they_take() -> None:
    """A node that computes faster and would ask others in every layer goes after one that has all."""
    lacking, whole = candidate(1, set(), step_s=0.01), candidate(2, step_s=0.03)
    assert order_of(lacking, whole, elsewhere=others(0.05)) == [2, 1]
    assert order_of(lacking, whole, elsewhere=others(0.0)) == [2, 1], "its own way is as long as usual"
    near = replace(lacking, rtt_s=0.001)
    assert order_of(near, replace(whole, rtt_s=0.001), elsewhere=others(0.001)) == [1, 2]


def test_who_is_near_and_lacks_what_is_far_goes_after_who_is_far_and_has_all() -> None:
    """What it lacks is as far from it as from here: a call in each layer of each token, for one in all."""
    near, far = candidate(1, {0, 1, 4, 5}, rtt_s=0.001, step_s=0.01), candidate(2, rtt_s=0.1, step_s=0.01)
    assert order_of(near, far, elsewhere=others(0.1)) == [2, 1]
    assert order_of(near, far, elsewhere=others(0.0001)) == [1, 2], "where it is near, the other way round"


def test_a_lead_calls_over_the_longer_way_for_the_share_that_it_lacks() -> None:
    """Half of each layer, one expert a token: calls in half of the steps' layers, and in nearly all of a prompt's."""
    half = candidate(1, {0, 1, 4, 5}, rtt_s=0.03, step_s=0.01)
    (found,) = choose([half], EVENLY, lambda _number: 10, others(0.002))
    assert found.calls.seconds(1) == pytest.approx(2 * 0.5 * 0.03)
    assert found.calls.seconds(64) == pytest.approx(2 * 0.03)
    assert found.step_s == pytest.approx(0.01 + 0.03)
    (whole,) = choose([candidate(1, rtt_s=0.03)], EVENLY, lambda _number: 10, others(0.002))
    assert (whole.calls.callees, whole.calls.seconds(64)) == ((), 0)


def test_calls_take_a_lead_as_long_as_they_took_it_lately() -> None:
    """The way between two others is not known here; how long it waited is."""
    half = candidate(1, {0, 1, 4, 5}, rtt_s=0.03, step_s=0.01, stretch=0.1)
    (found,) = choose([half], EVENLY, lambda _number: 10, others(0.002))
    assert found.calls.seconds(1) == pytest.approx(0.003)


def test_a_lead_that_may_have_become_quicker_is_asked_again_at_little_cost() -> None:
    """The less often the slower it was; nobody by a lower rank, and nobody of whom the times are new."""
    quick = candidate(1, step_s=0.01, rtt_s=0.0)

    def asked(draw: float, **more: Any) -> int:
        other = candidate(2, rtt_s=0.0, **{"step_s": 0.03} | more)
        ranked = choose([quick, other], EVENLY, lambda _number: 10, others(0.02))
        return int(again(ranked, lambda: draw)[0].node, 16)

    assert [asked(draw, doubt="cold") for draw in (0.0, 0.024, 0.026)] == [2, 2, 1]
    assert [asked(draw, doubt="stale") for draw in (0.0, 0.009, 0.011)] == [2, 2, 1]
    assert [asked(draw, doubt="cold", step_s=0.0101) for draw in (0.24, 0.26)] == [2, 1]
    assert asked(0.0) == 1
    assert asked(0.0, doubt="cold", rank=Rank.doubtful) == 1


def test_who_is_unreachable_or_was_tried_is_not_asked() -> None:
    assert order_of(candidate(1, rank=Rank.unreachable), candidate(2), candidate(3), without={node(2)}) == [3]
    assert order_of() == []


def test_where_nothing_was_seen_every_expert_may_be_used() -> None:
    predicted = predict(ExpertUse(GRID, 2), (1, 2, 3), 0.0)
    assert predicted.weights == pytest.approx(np.full((2, 4), 0.5), abs=1e-6)
    assert predicted.numbers == tuple(range(8))


def used(*experts: tuple[int, int], positions: int = 1) -> tuple[tuple[int, int, int], ...]:
    """The first layer's experts and the second's, in pairs."""
    return tuple((layer, pair[place], positions) for place, layer in enumerate(GRID.layers) for pair in experts)


def test_a_prompt_predicts_the_experts_that_its_tokens_used_and_those_that_follow_them() -> None:
    """Token 7 goes by expert 0 and then 3, token 8 by 1 and then 2."""
    usage = ExpertUse(GRID, 1)
    for _ in range(200):
        usage.saw_token(7, used((0, 3)), 0.0)
        usage.saw_token(8, used((1, 2)), 0.0)
    assert predict(usage, (7, 7, 7), 0.0).numbers == (0, 4 + 3)
    assert predict(usage, (8,), 0.0).numbers == (1, 4 + 2)
    assert set(predict(usage, (7, 8), 0.0).numbers) == {0, 1, 4 + 2, 4 + 3}


def test_each_token_of_a_prompt_counts_as_often_as_it_stands_there_known_or_not() -> None:
    usage = ExpertUse(GRID, 1)
    for number in range(60):
        usage.saw_token(7 + number % 2, used((number % 3, 3)), 0.0)
    alone = {token: predict(usage, (token,), 0.0).weights[0] for token in (7, 8, 9)}
    together = predict(usage, (7, 9, 7, 8), 0.0).weights[0]
    assert together == pytest.approx((2 * alone[7] + alone[8] + alone[9]) / 4, rel=1e-5)


def test_a_lead_is_waited_for_the_longer_the_more_it_has_to_read() -> None:
    """A prompt of four thousand tokens takes minutes where twenty a second are read; later steps do not."""
    options = DelegationOptions()
    assert options.patience(4_000, first=True) > 200
    assert options.patience(10, first=True) == pytest.approx(61)
    assert options.patience(4_000, first=False) == options.step_seconds


def test_what_was_used_lately_counts_more_than_what_was_once() -> None:
    usage = ExpertUse(GRID, 1)
    usage.saw_prompt(used((0, 0), positions=1000), 1000, 0.0)
    usage.saw_prompt(used((2, 1), positions=1000), 1000, 8 * half_life_s)
    assert predict(usage, (), 8 * half_life_s).numbers == (2, 4 + 1)


def test_what_an_answer_itself_used_counts_most() -> None:
    usage = ExpertUse(GRID, 1)
    usage.saw_prompt(used((0, 0), positions=500), 500, 0.0)
    predicted = predict(usage, (), 0.0, seen=used((3, 2), positions=9))
    assert predicted.weight(3) > predicted.weight(0)
    assert predicted.weights.sum(axis=1) == pytest.approx([1.0, 1.0])


def test_usage_is_bounded_and_takes_nothing_that_the_model_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "usage_tokens_max", 3)
    monkeypatch.setattr(limits, "use_pairs_max", 10)
    usage = ExpertUse(GRID, 1)
    for token in range(10):
        usage.saw_token(token, (*used((token % 4, 1)), (1, 9, 1), (1, -1, 1), (2, 0, 1)), 0.0)
    assert list(usage._firsts) == [7, 8, 9]
    assert not usage._followers.size
    assert predict(usage, (9,), 0.0).weights.sum(axis=1) == pytest.approx([1.0, 1.0])


def test_bitmaps_are_read_as_they_are_written() -> None:
    for numbers in (set[int](), {0}, {7, 8, 300}):
        assert set(numbers_of(bits_of(numbers))) == numbers
