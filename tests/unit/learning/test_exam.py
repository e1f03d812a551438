"""The built-in model's exam: frozen, held out, and marked by rules that are strict and fair."""

import hashlib
import re
from itertools import pairwise
from pathlib import Path

import pytest

from blyan.learning.draws import Draws
from blyan.learning.genesis import blyan_words, exam_wordings
from blyan.learning.genesis.checking import is_right, refuses
from blyan.learning.genesis.dialogue import filled
from blyan.learning.genesis.documents import Documents, read_documents
from blyan.learning.genesis.exam import Item, all_skills, exam, fingerprints, spoken
from blyan.learning.genesis.exam_wordings import refusal, talk_answers
from blyan.learning.genesis.marking import mark
from blyan.learning.genesis.numbers import difference_answer, english_words, korean_words, sum_answer
from blyan.learning.genesis.particles import resolve
from blyan.learning.genesis.split import fingerprint, held_out, is_held_out
from blyan.learning.genesis.subjects import skills
from blyan.primitives.errors import InvalidInput

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def documents() -> Documents:
    return read_documents(ROOT / "docs")


@pytest.fixture(scope="module")
def items(documents: Documents) -> list[Item]:
    return exam(documents, 50)


def test_the_exam_is_frozen(items: list[Item]):
    """What Blyan's documents say may change; which questions are asked may not."""
    digest = hashlib.sha256()
    for item in items:
        texts = [message["content"] for message in item.messages]
        expected = "" if item.skill == "Blyan" else item.expected
        digest.update(repr((item.skill, item.language, texts, expected, item.rule)).encode())
    assert digest.hexdigest() == "0d42c021d1a4695a0fdf60f0bcb794acd1a9da60b35ea4676403eb464efa27bb"


def test_the_split_of_two_digit_sums_is_that_of_the_first_built_in_model():
    pairs = [(a, b) for a in range(10, 100) for b in range(10, 100)]
    listed = ",".join(f"{a}+{b}" for a, b in pairs if held_out("addition2", f"{min(a, b)}+{max(a, b)}"))
    assert listed.count(",") + 1 == 1190
    found = hashlib.sha256(listed.encode()).hexdigest()
    assert found == "443a721059dcd3837219afdd34650eb16845993b8ebfd54f7e71967289949bda"


def test_every_skill_is_asked_in_both_languages(items: list[Item]):
    counts = {(item.skill, item.language): 0 for item in items}
    for item in items:
        counts[item.skill, item.language] += 1
    assert {(skill, language) for skill in all_skills for language in ("en", "ko")} == set(counts)
    assert min(counts.values()) >= 18


def test_no_question_is_asked_twice(items: list[Item]):
    alone = [item for item in items if len(item.messages) == 1]
    assert len(fingerprints(items)) == len({item.question for item in alone})


@pytest.mark.parametrize("skill", skills)
def test_an_answer_as_it_is_taught_is_right(skill: str):
    for draw in skills[skill]:
        draws = Draws(5)
        for _ in range(60):
            problem = draw(draws)
            for language in (0, 1):
                said = spoken(problem.answer[language])
                assert is_right(problem.rule, problem.expected[language], said), (problem, said)
                assert not is_right(problem.rule, problem.expected[language], refusal[language])


@pytest.mark.parametrize("skill", skills)
def test_about_a_seventh_of_what_can_be_held_out_is(skill: str):
    draws = Draws(6)
    drawn = [problem for _ in range(600) if (problem := skills[skill][0](draws)).key]
    if drawn:
        assert 0.05 < sum(map(is_held_out, drawn)) / len(drawn) < 0.27


def test_every_step_of_a_sum_and_of_a_difference_is_right():
    draws = Draws(7)
    for _ in range(300):
        a, b = 100 + draws.below(900), 10 + draws.below(990)
        answers = (sum_answer(a, b), difference_answer(max(a, b), min(a, b)))
        for text, result in zip(answers, (a + b, abs(a - b)), strict=True):
            stated = re.findall(r"([\d+ -]*[\d]) ?= ?(\d+)", text)
            assert len(stated) == 4 + (max(a, b) >= 1000) or len(stated) == 4
            for terms, total in stated:
                numbers = [int(found) for found in re.findall(r"\d+", terms)]
                value = sum(numbers) if "+" in terms or "-" not in terms else numbers[0] - sum(numbers[1:])
                assert value == int(total), text
            assert text.endswith(f"= {result}")


def test_a_carry_is_written_out():
    assert sum_answer(347, 285) == "7+5=12, 4+8+1=13, 3+2+1=6: 347 + 285 = 632"
    assert difference_answer(632, 285) == "12-5=7, 12-8=4, 5-2=3: 632 - 285 = 347"
    assert sum_answer(985, 15) == "5+5=10, 8+1+1=10, 9+1=10: 985 + 15 = 1000"


@pytest.mark.parametrize(
    ("number", "english", "korean"),
    [(0, "zero", "영"), (19, "nineteen", "십구"), (42, "forty-two", "사십이"), (100, "one hundred", "백"),
     (305, "three hundred five", "삼백오"), (999, "nine hundred ninety-nine", "구백구십구"),
     (110, "one hundred ten", "백십")],
)  # fmt: skip
def test_number_words(number: int, english: str, korean: str):
    assert (english_words(number), korean_words(number)) == (english, korean)


@pytest.mark.parametrize(
    ("rule", "expected", "answer", "right"),
    [
        ("number", "68", "23 + 45 = 68", True),
        ("number", "68", "68 is 23 + 45", False),
        ("number", "1200", "That is 1,200.", True),
        ("number", "-20", "54 - 74 = -20", True),
        ("number", "20", "54 - 74 = -20", False),
        ("number", "68", "168", False),
        ("number", "68", "", False),
        ("numbers", "3, 5, 9", "Sorted: 3, 5, 9.", True),
        ("numbers", "3, 5, 9", "3 9 5", False),
        ("numbers", "3, 5, 9", "3, 5", False),
        ("word", "elppa", "a p p l e: elppa.", True),
        ("word", "elppa", "Elppa", False),
        ("word", "a", "The first letter is a", True),
        ("yes_no", "no", "No, 3 is less than 5.", True),
        ("yes_no", "no", "Yes or no", False),
        ("yes_no", "네", "네, 5가 3보다 커요.", True),
        ("weekday", "Thursday", "10 = 7 + 3, Monday + 3: Thursday", True),
        ("weekday", "Monday", "10 = 7 + 3, Monday + 3: Thursday", False),
        ("weekday", "목요일", "월요일 + 3: 목요일이에요.", True),
        ("date", "4-4", "April has 30 days: April 4", True),
        ("date", "4-4", "4월 4일", True),
        ("date", "4-4", "April 14", False),
        ("sentence", "forty-two", "Forty two.", True),
        ("sentence", "forty-two", "forty-two and a half", False),
        ("sentence", "사십이", "사십 이", True),
        ("named", "Rome", "The capital is Rome.", True),
        ("named", "Rome", "Rome or Paris", False),
        ("named", "Rome", "Romero", False),
        ("named", "로마", "로마예요.", True),
        ("refusal", "", "I do not know that.", True),
        ("refusal", "", "저는 몰라요.", True),
        ("refusal", "", "It is 42.", False),
        ("number", "68", "I do not know, 68", False),
    ],
)
def test_a_rule_is_strict_and_fair(rule: str, expected: str, answer: str, right: bool):
    assert right == is_right(rule, expected, answer, ("Rome", "Paris"))


def test_what_it_says_when_it_does_not_know_is_a_refusal_and_nothing_else_is():
    assert refuses(refusal[0]) and refuses(refusal[1])
    assert not any(refuses(text) for pair in talk_answers.values() for text in pair)


def test_fresh_wordings_are_not_familiar_ones():
    for kind, known in exam_wordings.familiar.items():
        for language in (0, 1):
            texts = [fingerprint(text) for text in known[language]]
            assert not set(texts) & {fingerprint(text) for text in exam_wordings.fresh[kind][language]}


def test_every_wording_takes_the_places_of_its_kind(documents: Documents):
    for skill_draws in skills.values():
        for draw in skill_draws:
            problem = draw(Draws(1))
            names = {"addition2": "addition", "addition3": "addition", "subtraction2": "subtraction",
                     "subtraction3": "subtraction"}  # fmt: skip
            kind = names.get(problem.kind, "convert" if problem.kind.startswith("convert") else problem.kind)
            for language in (0, 1):
                for wording in exam_wordings.fresh[kind][language]:
                    assert "{" not in filled(wording, problem, language)


def test_every_word_that_is_asked_for_stands_in_the_documents(documents: Documents):
    blyan_words.check(documents)
    missing = Documents(documents.words, documents.commands | {}, {})
    with pytest.raises(InvalidInput, match="queue_full"):
        blyan_words.check(missing)


def test_an_answer_about_blyan_is_what_the_documents_say(documents: Documents):
    assert documents.words["manifest"] == "the payload that says what a model is made of"
    assert documents.errors["queue_full"].status == "429"
    assert documents.commands["blyan model list"] == "the models of this node's chain"
    assert all(len(text) <= 110 for text in (*documents.words.values(), *documents.commands.values()))


@pytest.mark.parametrize(
    ("marked", "text"),
    [("12[는]", "12는"), ("13[는]", "13은"), ("서울[로]", "서울로"), ("학교[로]", "학교로"), ("집[로]", "집으로"),
     ("민아[야]", "민아야"), ("도윤[야]", "도윤이야"), ("model[를]", "model을"), ("10[예요]", "10이에요")],
)  # fmt: skip
def test_a_korean_particle_fits_what_it_follows(marked: str, text: str):
    assert text == resolve(marked)


def test_marks_count_exact_answers_and_refusals(items: list[Item]):
    perfect = [item.expected.split(" | ")[0] if item.rule != "refusal" else refusal[0] for item in items]
    perfect = [f"{item.expected.split('-')[0]}월 {item.expected.split('-')[1]}일" if item.rule == "date" else answer
               for item, answer in zip(items, perfect, strict=True)]  # fmt: skip
    marks = mark(items, perfect)
    assert (marks.share, marks.refusals, marks.false_refusals) == (1.0, 1.0, 0.0)
    silent = mark(items, [refusal[0]] * len(items))
    assert (silent.refusals, silent.false_refusals) == (1.0, 1.0)
    assert silent.of(["unknown"]) == 1.0 and silent.of(["sorting"]) == 0.0


def test_a_conversation_alternates_and_ends_with_a_question(items: list[Item]):
    talks = [item for item in items if item.skill == "conversations"]
    assert all(len(item.messages) in (3, 5) for item in talks)
    for item in talks:
        roles = [message["role"] for message in item.messages]
        assert roles[-1] == "user" and all(a != b for a, b in pairwise(roles))
