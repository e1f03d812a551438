"""The lessons: nothing of the exam is in them, what they say is right, and they repeat with the seed."""

import re
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

import pytest

from blyan.learning.draws import Draws
from blyan.learning.genesis import exam_wordings, lesson_wordings
from blyan.learning.genesis.checking import refuses
from blyan.learning.genesis.dialogue import Dialogue, languages
from blyan.learning.genesis.documents import Documents, read_documents
from blyan.learning.genesis.exam import all_skills, exam, fingerprints, spoken
from blyan.learning.genesis.lessons import Lessons, Mixture, asked, digest_of, intent
from blyan.learning.genesis.phrasing import drawn, question, unknowable
from blyan.learning.genesis.split import fingerprint, held_out
from blyan.learning.genesis.subjects import skills, wording_of
from blyan.learning.genesis.tables import read_table
from blyan.learning.genesis.typing_habits import mistyped, varied

ROOT = Path(__file__).resolve().parents[3]
PROMPT = "You are Blyan's small built-in model."


@pytest.fixture(scope="module")
def documents() -> Documents:
    return read_documents(ROOT / "docs")


@pytest.fixture(scope="module")
def lessons(documents: Documents) -> Lessons:
    return Lessons(documents, Mixture(dict.fromkeys(all_skills, 1.0)), fingerprints(exam(documents, 50)), PROMPT)


@pytest.fixture(scope="module")
def dialogues(lessons: Lessons) -> list[Dialogue]:
    return list(islice(lessons.dialogues(7), 12_000))


def answers_of(dialogues: list[Dialogue]) -> list[str]:
    return [spoken(each["content"]) for messages in dialogues for each in messages if each["role"] == "assistant"]


def test_no_question_of_the_exam_is_in_a_lesson(dialogues: list[Dialogue], documents: Documents):
    questions = {fingerprint(each["content"]) for messages in dialogues for each in messages if each["role"] == "user"}
    assert not questions & fingerprints(exam(documents, 50))


def test_a_question_of_the_exam_is_drawn_again(documents: Documents):
    """Also where a table of wordings should come to hold one."""
    said = {fingerprint(text) for text in lesson_wordings.talk["thanks"][0]}
    kept = fingerprint("Cheers")
    lessons = Lessons(documents, Mixture(dict.fromkeys(all_skills, 1.0)), frozenset(said - {kept}))
    draws = Draws(1)
    for _ in range(400):
        question, answer = lessons.exchange(draws, "small talk", 0)
        assert answer["content"] != "You are welcome!" or fingerprint(question["content"]) not in said - {kept}


def test_no_fresh_wording_of_the_exam_is_one_of_the_lessons():
    for kind, wordings in lesson_wordings.asked.items():
        for language in range(len(languages)):
            fresh = {fingerprint(text) for text in exam_wordings.fresh.get(kind, ((), ()))[language]}
            assert not fresh & {fingerprint(text) for text in wordings[language]}, kind
    for language in range(len(languages)):
        assert not set(exam_wordings.unknown[language]) & set(lesson_wordings.unknown[language])
        asked_of_nobody = {unknowable(Draws(seed), language) for seed in range(3000)}
        assert not {fingerprint(text) for text in exam_wordings.unknown[language]} & {
            fingerprint(text) for text in asked_of_nobody
        }
        assert not set(exam_wordings.unknown_things[language]) & set(lesson_wordings.unknown_things[language])
        assert not set(exam_wordings.names[language]) & set(lesson_wordings.names[language])
        for command, intents in exam_wordings.intents.items():
            said = {fingerprint(text) for text in lesson_wordings.intents[command][language]}
            assert not said & {fingerprint(text) for text in intents[language]}, command


def test_a_question_that_is_put_together_is_never_a_fresh_wording_of_the_exam(monkeypatch: pytest.MonkeyPatch):
    fresh = exam_wordings.fresh["reverse"][0]
    monkeypatch.setitem(lesson_wordings.asked, "reverse", ((*fresh, "Flip {word}"), ()))
    draws = Draws(8)
    for kind, wordings in exam_wordings.fresh.items():
        for language in range(len(languages)):
            forbidden = {fingerprint(text) for text in wordings[language]}
            if lesson_wordings.asked[kind][language]:
                assert not forbidden & {fingerprint(question(draws, kind, language)) for _ in range(60)}, kind
    for command in exam_wordings.intents:
        for language in range(len(languages)):
            forbidden = {fingerprint(text) for text in exam_wordings.intents[command][language]}
            assert not forbidden & {fingerprint(intent(draws, command, language)) for _ in range(60)}, command


def test_one_of_each_choice_is_taken_also_inside_another():
    wording = "(Spell|Write) {word} (back(wards|)|in ( a | b ) row) ( |?), f(x)"
    seen = {drawn(Draws(seed), wording, 0) for seed in range(200)}
    starts = [f"{verb} {{word}}" for verb in ("Spell", "Write")]
    ends = [f"{end}{mark}, f(x)" for end in ("backwards", "back", "in a row", "in b row") for mark in ("", "?")]
    assert seen == {f"{start} {end}" for start in starts for end in ends}


def test_every_bracket_of_a_wording_is_a_choice():
    """One that has no choice in it would be asked as it stands."""

    def texts(value: object) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from texts(each)

    for name in ("beside.toml", "lessons.toml", "phrases.toml", "talk.toml"):
        for text in texts(read_table(name)):
            assert not re.search(r"(?<!sin)\([^()|]*\)", text), (name, text)


def test_a_story_keeps_to_its_noun_and_stories_differ_in_theirs():
    seen = [
        [drawn(Draws(seed), "{a} <noun> and {b} <noun>(?|)", language).strip("?") for seed in range(60)]
        for language in range(len(languages))
    ]
    for language, stories in enumerate(seen):
        pairs = [re.fullmatch(r"{a} (\w+) and {b} (\w+)", story) for story in stories]
        assert all(pair and pair[1] == pair[2] for pair in pairs), stories
        assert len(set(stories)) > 20, language


def test_no_held_out_sum_difference_or_word_is_worked_on(dialogues: list[Dialogue]):
    sums = differences = words = 0
    for text in answers_of(dialogues):
        for a, sign, b in re.findall(r"(\d+) ([+-]) (\d+) = ", text):
            low, high = sorted((int(a), int(b)))
            if low >= 10 and high < 100:
                key = ("addition2", f"{low}+{high}") if sign == "+" else ("subtraction2", f"{a}-{b}")
                sums, differences = sums + (sign == "+"), differences + (sign == "-")
                # Steps of units and dates are sums too, but not of what is asked for.
                assert " × " in text or ":" in text or not held_out(*key), text
        found = re.fullmatch(r"((?:[a-z] ){2,}[a-z]): ([a-z]+|[A-Z]+)", text)
        if found:
            word = found[1].replace(" ", "")
            kind = "upper" if found[2].isupper() else "reverse" if len(found[2]) > 1 else ""
            words += 1
            assert not kind or not held_out(kind, word), text
    assert min(sums, differences, words) > 300


def test_every_stated_sum_difference_and_product_is_right(dialogues: list[Dialogue]):
    stated = 0
    for text in answers_of(dialogues):
        for terms, result in re.findall(r"((?:\d+ ?[-+×] ?)+\d+) ?= ?(-?\d+)", text):
            sign = next(each for each in "+-×" if each in terms)
            numbers = [int(each) for each in re.split(r" ?[-+×] ?", terms)]
            value = numbers[0]
            for number in numbers[1:]:
                value = value + number if sign == "+" else value - number if sign == "-" else value * number
            assert value == int(result), text
            stated += 1
    assert stated > 3000


def test_nothing_is_left_in_a_wording_s_places(dialogues: list[Dialogue]):
    for messages in dialogues:
        for each in messages:
            assert not re.search(r"[{}]|\[[가-힣]+\]", each["content"]), each


def test_a_name_is_told_and_asked_for_in_one_breath(lessons: Lessons):
    draws = Draws(12)
    made = [lessons.exchange(draws, "conversations", number % 2) for number in range(1500)]
    told = [messages[0]["content"] for messages in made if len(messages) == 2]
    assert len(told) > 50
    assert not [text for text in told if re.search(r"\n\.|\s\. ", text)]


def test_dialogues_alternate_and_end_with_the_assistant(dialogues: list[Dialogue]):
    for messages in dialogues[:2000]:
        roles = [each["role"] for each in messages if each["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(each["content"].strip() for each in messages)


def test_what_is_refused_is_refused_in_its_language(dialogues: list[Dialogue]):
    seen = set()
    for messages in dialogues:
        for asking, answer in pairwise(messages):
            if refuses(answer["content"]) and asking["role"] == "user":
                seen.add(answer["content"])
    assert set(exam_wordings.refusal) == seen


def test_the_same_seed_gives_the_same_dialogues(lessons: Lessons):
    assert list(islice(lessons.dialogues(5), 50)) == list(islice(lessons.dialogues(5), 50))
    assert list(islice(lessons.dialogues(5), 50)) != list(islice(lessons.dialogues(6), 50))


def test_every_kind_of_the_exam_is_asked_for_in_lessons():
    draws = Draws(6)
    for skill_draws in skills.values():
        for draw in skill_draws:
            problem = draw(Draws(2))
            for language in range(len(languages)):
                assert asked(Draws(3), problem, language)[1]["content"] == problem.answer[language]
                assert len(lesson_wordings.asked[wording_of(problem.kind)][language]) >= 4
                assert len({question(draws, wording_of(problem.kind), language) for _ in range(60)}) > 20
    assert set(exam_wordings.intents) == set(lesson_wordings.intents)
    assert set(exam_wordings.talk) == set(lesson_wordings.talk)


def test_typing_changes_the_wording_and_never_what_is_asked_about():
    draws = Draws(4)
    for _ in range(500):
        text = varied(draws, "Reverse the word {word}, what is the {n}[를] please?", 0)
        assert "{word}" in text and "{n}[를]" in text


def test_some_questions_come_in_two_lines():
    draws = Draws(9)
    typed = [varied(draws, "What is {a} plus {b}?", 0) for _ in range(2000)]
    broken = [text for text in typed if "\n" in text.strip()]
    assert len(broken) > 20
    assert all("{a}" in text and "{b}" in text for text in broken)


def test_a_slip_changes_one_word_a_little():
    draws = Draws(4)
    for _ in range(200):
        text = mistyped(draws, "Which number is {larger}?")
        assert "{larger}" in text
        assert abs(len(text) - len("Which number is {larger}?")) <= 1
    assert mistyped(draws, "{a}[를] 더해 줘") == "{a}[를] 더해 줘"


def test_a_mixture_names_every_skill():
    with pytest.raises(AssertionError, match="every skill"):
        Mixture({"sorting": 1.0})


def test_a_data_set_has_one_name_that_changes_with_it(lessons: Lessons):
    some = list(islice(lessons.dialogues(5), 20))
    assert digest_of(some) == digest_of(list(islice(lessons.dialogues(5), 20)))
    assert digest_of(some) != digest_of(some[:-1])
