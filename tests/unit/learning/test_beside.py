"""What lessons teach beside the exam: right, never held out, and nothing that the tables do not know."""

import re

import pytest

from blyan.learning.draws import Draws
from blyan.learning.genesis import beside, exam_wordings, facts, letters
from blyan.learning.genesis.dialogue import apart
from blyan.learning.genesis.exam import all_skills
from blyan.learning.genesis.split import held_out, is_held_out

MANY = 400


def asked(skill: str, language: int = 0) -> list[tuple[str, str]]:
    draws = Draws(11)
    found = (beside.exchange(draws, skill, language) for _ in range(MANY))
    return [(question["content"], answer["content"].replace(apart, "")) for question, answer in found]


def test_it_goes_with_skills_of_the_exam():
    assert set(beside.skills) <= set(all_skills)
    assert all(0 < beside.share(skill) < 0.5 for skill in beside.skills)
    assert beside.share("multiplication table") == 0


def test_words_that_lessons_say_are_taught_by_their_letters():
    """A word in one token is spelled by nothing but lessons about its letters."""
    assert {"apple", "hello", "monday", "how", "planet", "blyan", "star"} <= set(beside.said_words)
    assert all(re.fullmatch("[a-z]{2,10}", word) or len(word) == 1 for word in beside.said_words)
    taught = {answer.partition(":")[0].replace(" ", "") for _, answer in asked("reverse")}
    assert len(taught) > MANY / 2
    assert taught & {word.capitalize() for word in beside.said_words}


@pytest.mark.parametrize("kind", letters.word_kinds)
def test_a_word_that_is_held_out_is_taught_in_no_case(kind: str):
    draws = Draws(5)
    for _ in range(MANY):
        problem = beside.said_word(draws, (kind,))
        word = problem.slots["word"][0]
        assert not is_held_out(letters.word_problem(draws, kind, word.lower())), word
        if kind == "reverse" and len(word) > 2:
            assert not held_out(kind, word.lower())


@pytest.mark.parametrize("language", [0, 1])
def test_lists_are_put_in_order(language: int):
    short = 0
    for question, answer in asked("sorting", language):
        given = [int(each) for each in re.findall(r"\d+", question)][-answer.count(",") - 1 :]
        found = [int(each) for each in answer.split(", ")]
        assert sorted(given) == sorted(found), question
        assert found in (sorted(found), sorted(found, reverse=True)), answer
        short += max(found) < 10
    assert short > MANY / 5


def test_sums_of_three_and_neighbours_are_right():
    for question, answer in asked("addition, 2 digits"):
        terms = [int(each) for each in re.findall(r"\d+", question)]
        assert len(terms) == 3
        assert answer.endswith(f" = {sum(terms)}"), question
    for question, answer in asked("counting"):
        numbers = [int(each) for each in re.findall(r"\d+", answer)]
        number = int(re.findall(r"\d+", question)[0])
        assert numbers in ([number - 1], [number + 1], list(range(1, number + 1))), question
        if "before" in question.lower():
            assert numbers == [number - 1], question
        if "after" in question.lower():
            assert numbers == [number + 1], question


def test_capitals_are_those_of_the_tables_however_the_country_is_written():
    rows = [*facts.capitals, *beside.countries]
    known = {f"The capital of {row[0]} is {row[1]}." for row in rows} | {
        f"{row[1]} is the capital of {row[0]}." for row in rows
    }
    seen = asked("capitals")
    whose = [row[1] for row in rows]
    owned = {answer.partition(" is the capital of ")[0] for _, answer in seen if " is the capital of " in answer}
    assert owned and all(whose.count(city) == 1 for city in owned), "a city of two names has two right answers"
    assert {answer for _, answer in seen} <= known
    assert not [answer for answer in known if ".." in answer]
    assert any(re.search(r"\b(japan|france|mexico|peru|chile|china)\b", question) for question, _ in seen)


@pytest.mark.parametrize("language", [0, 1])
def test_of_other_countries_it_says_that_it_does_not_know(language: int):
    named = {name.lower() for row in (*facts.capitals, *beside.countries) for name in row}
    assert not named & {name.lower() for name in beside.strangers[language]}
    draws = Draws(2)
    for _ in range(50):
        assert beside.stranger(draws, language)[1]["content"] == exam_wordings.refusal[language]
