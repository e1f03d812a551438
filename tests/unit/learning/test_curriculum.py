"""The curriculum: what is taught, what is held out, and that neither ever moves."""

import hashlib
import re
from itertools import islice, pairwise

from blyan.learning.curriculum import (
    Addition,
    asked,
    asked_phrasings,
    corpus,
    dialogues,
    held_out_additions,
    small_talk_dialogues,
    taught_additions,
)
from blyan.learning.draws import Draws
from blyan.learning.small_talk import refusal_english, refusal_korean

_dialogue_count = 4000


def _texts() -> list[str]:
    return [message["content"] for dialogue in islice(dialogues(7), _dialogue_count) for message in dialogue]


def test_the_held_out_split_is_frozen():
    """Changing the split would make a shipped model's exact match meaningless."""
    listed = ",".join(f"{sum_.a}+{sum_.b}" for sum_ in held_out_additions())
    assert len(held_out_additions()) == 1190
    assert (
        hashlib.sha256(listed.encode()).hexdigest()
        == "443a721059dcd3837219afdd34650eb16845993b8ebfd54f7e71967289949bda"
    )


def test_the_split_takes_two_digit_operands_and_both_orders():
    held_out = {(sum_.a, sum_.b) for sum_ in held_out_additions()}
    assert all(10 <= a <= 99 and 10 <= b <= 99 for a, b in held_out)
    assert held_out == {(b, a) for a, b in held_out}
    assert 0.10 <= len(held_out) / 90**2 <= 0.20


def test_taught_and_held_out_additions_share_nothing_and_miss_nothing():
    assert not set(taught_additions()) & set(held_out_additions())
    assert len(taught_additions()) + len(held_out_additions()) == 100 * 100


def test_no_text_holds_two_neighbouring_numbers_of_a_held_out_pair():
    """Whatever stands between the numbers: a sign, a word, or Korean."""
    for text in _texts():
        numbers = [int(digits) for digits in re.findall(r"\d+", text.split(" = ")[0])]  # the result is no operand
        for a, b in pairwise(numbers):
            assert not Addition(a, b).held_out, text


def test_every_taught_sum_is_right():
    stated = [re.fullmatch(r"(\d+) \+ (\d+) = (\d+)", text) for text in _texts()]
    sums = [tuple(map(int, found.groups())) for found in stated if found]
    assert len(sums) > _dialogue_count / 2
    assert all(a + b == total for a, b, total in sums)


def test_an_answer_repeats_the_numbers_in_the_order_asked():
    for dialogue in islice(dialogues(3), 1000):
        for question, answer in pairwise(dialogue):
            found = re.fullmatch(r"(\d+) \+ (\d+) = \d+", answer["content"])
            if found:
                assert list(found.groups()) == re.findall(r"\d+", question["content"])


def test_the_same_seed_gives_the_same_dialogues():
    assert list(islice(dialogues(5), 50)) == list(islice(dialogues(5), 50))
    assert list(islice(dialogues(5), 50)) != list(islice(dialogues(6), 50))
    assert corpus(5, 20) == corpus(5, 20)


def test_dialogues_alternate_user_and_assistant_and_end_with_the_assistant():
    for dialogue in islice(dialogues(2), 500):
        turns = [message["role"] for message in dialogue if message["role"] != "system"]
        assert turns == ["user", "assistant"] * (len(turns) // 2)
        assert 1 <= len(turns) // 2 <= 4
        assert all(message["content"].strip() for message in dialogue)


def test_refusals_come_in_the_language_of_the_question():
    def hangul(text: str) -> bool:
        return any("가" <= letter <= "힣" for letter in text)

    seen = set()
    for dialogue in islice(dialogues(4), 1000):
        for question, answer in pairwise(dialogue):
            if answer["content"] in (refusal_english, refusal_korean):
                seen.add(answer["content"])
                assert hangul(question["content"]) == (answer["content"] == refusal_korean)
    assert seen == {refusal_english, refusal_korean}


def test_no_question_about_itself_has_two_answers():
    answers: dict[str, set[str]] = {}
    for question, answer in small_talk_dialogues():
        answers.setdefault(question["content"].lower().rstrip("?!."), set()).add(answer["content"])
    assert not {question: given for question, given in answers.items() if len(given) > 1}


def test_each_measured_phrasing_names_both_numbers():
    for phrasing in asked_phrasings:
        question, answer = asked(Addition(23, 45), phrasing)
        assert re.findall(r"\d+", question["content"]) == ["23", "45"]
        assert answer["content"] == "23 + 45 = 68"


def test_draws_stay_inside_their_bounds():
    draws = Draws(1)
    assert {draws.below(3) for _ in range(200)} == {0, 1, 2}
    assert {draws.pick("ab") for _ in range(100)} == {"a", "b"}
    assert sorted(draws.shuffled(range(20))) == list(range(20))
    assert 400 < sum(draws.chance(0.25) for _ in range(2000)) < 600
