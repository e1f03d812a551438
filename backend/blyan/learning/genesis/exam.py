"""The exam: held-out questions by skill and language, the same for the same seed.

A question is held out by its subject where there are subjects enough (pairs of numbers, words, sets), and by its
wording where there are not. Each conversation before a last question holds right answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from blyan.learning.draws import Draws
from blyan.learning.genesis import blyan_words, exam_wordings, facts
from blyan.learning.genesis.checking import is_right
from blyan.learning.genesis.dialogue import Message, Problem, apart, assistant, filled, languages, user
from blyan.learning.genesis.documents import Documents
from blyan.learning.genesis.letters import word_problem
from blyan.learning.genesis.numbers import addition2, difference_answer, sum_answer
from blyan.learning.genesis.particles import resolve
from blyan.learning.genesis.split import fingerprint, held_out, is_held_out
from blyan.learning.genesis.subjects import skills, wording_of

exam_seed: Final = 20_261_122
_tries_max: Final = 10_000
_fresh_share: Final = 0.5  # of questions whose subject is held out; all of the others
_letters_min: Final = 3  # of a word that can be held out
_conversations: Final = ("plus", "minus", "name", "number", "upper", "reverse", "after")


@dataclass(frozen=True, slots=True)
class Item:
    """One question of the exam with the conversation before it."""

    skill: str
    language: str
    messages: tuple[Message, ...]  # the last one is the question
    expected: str
    rule: str
    rivals: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        """What is asked last."""
        return self.messages[-1]["content"]

    def passed(self, answer: str) -> bool:
        """Whether this answer is right."""
        return is_right(self.rule, self.expected, answer, self.rivals)


def exam(documents: Documents, each: int, seed: int = exam_seed) -> list[Item]:
    """Up to `each` different items for every skill and language; fewer where a skill has fewer questions."""
    items: list[Item] = []
    for language in range(len(languages)):
        for number, skill in enumerate(all_skills):
            draws = Draws(seed + 1000 * language + number)
            seen: set[bytes] = set()
            for item in _drawn(draws, skill, language, documents):
                text = fingerprint("\n".join(message["content"] for message in item.messages))
                if text not in seen:
                    seen.add(text)
                    items.append(item)
                if len(seen) == each:
                    break
    return items


all_skills: Final = (*skills, "Blyan", "small talk", "conversations", "unknown")


def fingerprints(items: Sequence[Item]) -> frozenset[bytes]:
    """By which lessons are kept apart from the exam: of every last question that stands alone."""
    return frozenset(fingerprint(item.question) for item in items if len(item.messages) == 1)


def _drawn(draws: Draws, skill: str, language: int, documents: Documents) -> Iterator[Item]:
    for _ in range(_tries_max):
        if skill == "Blyan":
            yield _blyan(draws, language, documents)
        elif skill == "small talk":
            intent = draws.pick(tuple(exam_wordings.talk))
            question = draws.pick(exam_wordings.talk[intent][language])
            expected = exam_wordings.talk_answers[intent][language]
            yield Item(skill, languages[language], (user(question),), expected, "sentence")
        elif skill == "unknown":
            wording = draws.pick(exam_wordings.unknown[language])
            thing = draws.pick(exam_wordings.unknown_things[language])
            name = draws.pick(exam_wordings.unknown_names[language])
            question = resolve(wording.format(thing=thing, name=name))
            yield Item(skill, languages[language], (user(question),), "", "refusal")
        elif skill == "conversations":
            item = _conversation(draws, draws.pick(_conversations), language)
            if item is not None:
                yield item
        else:
            problem = draws.pick(skills[skill])(draws)
            if is_held_out(problem) or (not problem.key and _has_fresh_only(problem)):
                yield _item(skill, problem, _wording(draws, problem, language), language)


def _has_fresh_only(problem: Problem) -> bool:
    return wording_of(problem.kind) not in exam_wordings.familiar


def _wording(draws: Draws, problem: Problem, language: int) -> str:
    name = wording_of(problem.kind)
    known = exam_wordings.familiar.get(name, ((), ()))[language]
    return draws.pick(exam_wordings.fresh[name][language] if not known or draws.chance(_fresh_share) else known)


def _item(skill: str, problem: Problem, wording: str, language: int) -> Item:
    return Item(
        skill,
        languages[language],
        (user(filled(wording, problem, language)),),
        problem.expected[language],
        problem.rule,
        facts.rivals(problem.kind),
    )


def _blyan(draws: Draws, language: int, documents: Documents) -> Item:
    problem = blyan_words.blyan_problem(draws, draws.pick(blyan_words.kinds), language, documents)
    wording = draws.pick(exam_wordings.fresh[problem.kind][language])
    if problem.kind == "command_for":
        intent = draws.pick(exam_wordings.intents[problem.slots["command"][0]][language])
        wording = wording.replace("{intent}", intent)
    item = _item("Blyan", problem, wording, language)
    rivals = blyan_words.commands if problem.rule == "named" else ()
    return Item(item.skill, item.language, item.messages, item.expected, item.rule, rivals)


def _conversation(draws: Draws, kind: str, language: int) -> Item | None:
    """Two or three turns; None where what was drawn is not held out."""
    if kind in {"name", "number"}:
        value = draws.pick(exam_wordings.names[language]) if kind == "name" else str(10 + draws.below(990))
        if kind == "number" and not held_out("remembered", value):
            return None
        introduced = resolve(exam_wordings.introductions[kind][language][0].format(name=value, n=value))
        before = [user(introduced), assistant(acknowledged(kind, value)[language])]
        if draws.chance(0.5):
            between = addition2(draws)
            wording = draws.pick(exam_wordings.familiar["addition"][language])
            before += [user(filled(wording, between, language)), assistant(between.answer[language])]
        rule = "named" if kind == "name" else "number"
        return _last(before, draws.pick(exam_wordings.sequels[kind][language]), value, rule, language)
    if kind in {"upper", "reverse"}:
        first = word_problem(draws, "reverse" if kind == "upper" else "upper")
        word = first.slots["word"][0]
        if not held_out(kind, word) or len(word) < _letters_min:
            return None
        expected = word.upper() if kind == "upper" else word[::-1]
        wording = draws.pick(exam_wordings.familiar[first.kind][language])
        before = [user(filled(wording, first, language)), assistant(spoken(first.answer[language]))]
        return _last(before, draws.pick(exam_wordings.sequels[kind][language]), expected, "word", language)
    first = addition2(draws)
    if not is_held_out(first):
        return None
    wording = draws.pick(exam_wordings.familiar["addition"][language])
    before = [user(filled(wording, first, language)), assistant(first.answer[language])]
    total, change = int(first.expected[0]), 1 + draws.below(99)
    if kind == "after":
        second = addition2(draws)
        if not is_held_out(second):
            return None
        wording = draws.pick(exam_wordings.familiar["addition"][language])
        return _last(before, filled(wording, second, language), second.expected[language], "number", language)
    if not held_out_sequel(total, change, plus=kind == "plus") or (kind == "minus" and change > total):
        return None
    result = total + change if kind == "plus" else total - change
    question = resolve(draws.pick(exam_wordings.sequels[kind][language]).format(c=change))
    return _last(before, question, str(result), "number", language)


def _last(before: list[Message], question: str, expected: str, rule: str, language: int) -> Item:
    return Item("conversations", languages[language], (*before, user(question)), expected, rule)


def held_out_sequel(total: int, change: int, *, plus: bool) -> bool:
    """Whether no lesson goes on from this result by this number."""
    low, high = sorted((total, change))
    return held_out("addition2", f"{low}+{high}") if plus else held_out("subtraction2", f"{total}-{change}")


def acknowledged(kind: str, value: str) -> tuple[str, str]:
    """What is answered to somebody who says a name or a number to remember."""
    if kind == "name":
        return f"Nice to meet you, {value}!", f"반가워요, {value}님!"
    return f"I will remember {value}.", f"{value}, 기억할게요."


def spoken(answer: str) -> str:
    """An answer as it is read, without the marks between letters that are tokens of their own."""
    return answer.replace(apart, "")


def worked(total: int, change: int, *, plus: bool) -> str:
    """The answer to a sum or difference that goes on from an earlier result."""
    if plus:
        return sum_answer(total, change)
    return difference_answer(total, change)
