"""What people ask beside what is examined: other sums, lists and words, other names of countries, plain facts.

For lessons alone (`beside.toml`): nothing of it is measured, and what the exam holds out is held out here too. A model
that is taught no more than what is measured answers the exam and fails whoever types `345 + 7` or `reverse hello`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeAlias

from blyan.learning.draws import Draws
from blyan.learning.genesis import facts, letters, numbers, phrasing
from blyan.learning.genesis.dialogue import Both, Dialogue, Problem, assistant, filled, same, user
from blyan.learning.genesis.exam_wordings import refusal
from blyan.learning.genesis.particles import resolve
from blyan.learning.genesis.split import held_out, is_held_out
from blyan.learning.genesis.subjects import wording_of
from blyan.learning.genesis.tables import Wordings, pair, pairs, read_table

_Draw: TypeAlias = Callable[[Draws], Problem]

_table: Final = read_table("beside.toml")
_answers: Final[Mapping[str, Both]] = {name: tuple(fact["answer"]) for name, fact in _table["facts"].items()}
_more: Final[Mapping[str, Wordings]] = pairs(_table["more"])
_things: Final[Mapping[str, Wordings]] = pairs(_table["thing"])
_asked: Final[Mapping[str, Wordings]] = pairs(_table["ask"])
countries: Final = tuple(map(tuple, _table["capitals"]))
# those whose capital is that of no other name, here or in the exam's table
_single: Final = tuple(
    row for row in countries if [each[1] for each in (*countries, *facts.capitals)].count(row[1]) == 1
)
strangers: Final = pair(_table["strangers"])
_english_word: Final = re.compile(r"(?<![\w{-])[A-Za-z][a-z]{1,9}(?![\w}-])")


def _said_words() -> tuple[str, ...]:
    """Every English word of up to ten letters that lessons say: it may be a token whose letters nothing else tells."""
    found: set[str] = set()

    def look(value: Any) -> None:
        if isinstance(value, str):
            found.update(word.lower() for word in _english_word.findall(value))
        elif isinstance(value, list):
            for each in value:
                look(each)
        elif isinstance(value, dict):
            for each in value.values():
                look(each)

    for name in ("beside.toml", "facts.toml", "lessons.toml", "phrases.toml", "talk.toml"):
        look(read_table(name))
    return tuple(sorted(found | {each for each in numbers.counted if each.isascii() and each.isalpha()}))


said_words: Final = _said_words()


def share(skill: str) -> float:
    """Of this skill's exchanges, how many are of what stands here; nought where nothing does."""
    return _shares.get(skill, 0.25) if skill in skills else 0.0


def exchange(draws: Draws, skill: str, language: int) -> Dialogue:
    """A question that goes with one of `skills`, and its answer."""
    kind = draws.pick(skills[skill])
    if isinstance(kind, str):
        wording = phrasing.put_together(draws, _more[kind], _things[kind], language)
        return [user(resolve(wording)), assistant(_answers[kind][language])]
    problem = kind(draws)
    while is_held_out(problem):
        problem = kind(draws)
    asked = _wordings.get(problem.kind)
    if asked is None:
        wording = phrasing.question(draws, wording_of(problem.kind), language)
    else:
        wording = phrasing.put_together(draws, _asked[asked], ((), ()), language)
        problem = replace(problem, kind=asked)
    return [user(filled(wording, problem, language)), assistant(problem.answer[language])]


def stranger(draws: Draws, language: int) -> Dialogue:
    """The capital of a country that is not in the tables: it says that it does not know."""
    named = draws.pick(strangers[language])
    slots = {"country": same(_cased(draws, named)), "capital": same(named)}
    problem = Problem("capital", "", slots, refusal, refusal, "refusal")
    return [
        user(filled(phrasing.question(draws, "capital", language), problem, language)),
        assistant(refusal[language]),
    ]


def uneven_sum(draws: Draws) -> Problem:
    """Three digits and one, or round numbers, in either order."""
    a = 100 + draws.below(900)
    b = draws.below(10)
    if draws.chance(0.3):
        a, b = 10 * (1 + draws.below(99)), 10 * (1 + draws.below(99))
    if draws.chance(0.5):
        a, b = b, a
    slots = {"a": same(str(a)), "b": same(str(b)), "sign": same("+")}
    answer, right = same(numbers.sum_answer(a, b)), same(str(a + b))
    if max(a, b) >= 100:
        return Problem("addition3", f"{min(a, b)}+{max(a, b)}", slots, answer, right, "number")
    return Problem("addition2", f"{min(a, b)}+{max(a, b)}" if min(a, b) >= 10 else "", slots, answer, right, "number")


def uneven_difference(draws: Draws) -> Problem:
    """Three digits less one, or round numbers."""
    a = 100 + draws.below(900)
    b = draws.below(10)
    if draws.chance(0.3):
        a, b = 10 * (1 + draws.below(99)), 10 * (1 + draws.below(99))
    a, b = max(a, b), min(a, b)
    slots = {"a": same(str(a)), "b": same(str(b)), "sign": same("-")}
    kind = "subtraction2" if a < 100 else "subtraction3"
    return Problem(kind, f"{a}-{b}", slots, same(numbers.difference_answer(a, b)), same(str(a - b)), "number")


def sum_of_three(draws: Draws) -> Problem:
    """Two steps: `7 + 8 = 15, 15 + 9 = 24`."""
    top = 10 if draws.chance(0.5) else 40
    while True:
        a, b, c = (draws.below(top) for _ in range(3))
        steps = ((a, b), (a + b, c))
        if not any(min(step) >= 10 and held_out("addition2", f"{min(step)}+{max(step)}") for step in steps):
            break
    slots = {"a": same(str(a)), "b": same(str(b)), "c": same(str(c))}
    answer = same(f"{a} + {b} = {a + b}, {a + b} + {c} = {a + b + c}")
    return Problem("addition_three", "", slots, answer, same(str(a + b + c)), "number")


def list_to_sort(draws: Draws) -> Problem:
    """Two to five numbers that are all small, all tens, or up to three digits."""
    step, top = draws.pick(((1, 10), (1, 10), (1, 21), (10, 10), (1, 1000)))
    count = 2 + draws.below(4)
    chosen: list[int] = []
    while len(chosen) < count:
        number = step * draws.below(top)
        if number not in chosen:
            chosen.append(number)
    falling = draws.chance(0.35)
    right = same(", ".join(map(str, sorted(chosen, reverse=falling))))
    shown = draws.pick((", ", ", ", " ", ",")).join(map(str, chosen))
    key = ",".join(map(str, sorted(chosen)))
    return Problem("sort_down" if falling else "sort_up", key, {"list": same(shown)}, right, right, "numbers")


def neighbour(draws: Draws) -> Problem:
    """The number after, or before, one below a hundred."""
    number, after = 1 + draws.below(99), draws.chance(0.6)
    right = same(str(number + 1 if after else number - 1))
    return Problem("next_number" if after else "previous_number", "", {"n": same(str(number))}, right, right, "number")


def count_to(draws: Draws) -> Problem:
    """From one to at most twenty."""
    last = 2 + draws.below(19)
    right = same(", ".join(map(str, range(1, last + 1))))
    return Problem("count_range", f"1 {last}", {"a": same("1"), "b": same(str(last))}, right, right, "numbers")


def said_word(draws: Draws, kinds: tuple[str, ...]) -> Problem:
    """Of a word that lessons say, at times as it begins a sentence; none that is held out, however it is written."""
    kind = draws.pick(kinds)
    while True:
        word = draws.pick(said_words)
        if not is_held_out(letters.word_problem(draws, kind, word)):
            break
    if kind != "count_letter" and draws.chance(0.2):
        word = word.capitalize() if draws.chance(0.7) else word.upper()
    return letters.word_problem(draws, kind, word)


def country(draws: Draws) -> Problem:
    """A capital by another name of its country, or of a country that the exam does not ask for; in any case."""
    if draws.chance(0.2):
        problem = facts.capital(draws, "capital_of", _single)
    else:
        problem = facts.capital(draws, "capital", countries if draws.chance(0.7) else facts.capitals)
    slots = {name: (_cased(draws, english), korean) for name, (english, korean) in problem.slots.items()}
    return replace(problem, slots=slots)


def element(draws: Draws) -> Problem:
    """As the exam's, with the element written as it begins a sentence."""
    problem = facts.fact(draws, draws.pick(("symbol", "atomic_number")))
    english, korean = problem.slots["element"]
    return replace(problem, slots={**problem.slots, "element": (english.capitalize(), korean)})


def _cased(draws: Draws, name: str) -> str:
    if draws.chance(0.6):
        return name
    return name.lower() if draws.chance(0.8) else name.upper()


_shares: Final = {
    "Blyan": 0.15, "small talk": 0.15, "weekdays": 0.06, "dates": 0.2, "time": 0.15, "planets": 0.15, "elements": 0.1,
    "capitals": 0.4, "reverse": 0.35, "upper case": 0.3, "first and last letter": 0.3, "letters counted": 0.35,
    "addition, 2 digits": 0.15, "sorting": 0.25, "counting": 0.1,
}  # fmt: skip
# kinds with wordings of their own, by the kind of their problems
_wordings: Final = {
    "addition_three": "addition_three", "next_number": "next_number", "previous_number": "previous_number",
    "count_range": "count_to",
}  # fmt: skip


def _skills() -> dict[str, tuple[_Draw | str, ...]]:
    found: defaultdict[str, list[_Draw | str]] = defaultdict(list)
    for name, fact in _table["facts"].items():
        found[fact["skill"]].append(name)
    for skill, draw in (
        ("addition, 2 digits", sum_of_three), ("addition, 3 digits", uneven_sum),
        ("subtraction, 3 digits", uneven_difference), ("sorting", list_to_sort), ("counting", neighbour),
        ("counting", count_to), ("capitals", country), ("elements", element),
        ("reverse", partial(said_word, kinds=("reverse",))), ("upper case", partial(said_word, kinds=("upper",))),
        ("first and last letter", partial(said_word, kinds=("first_letter", "last_letter"))),
        ("letters counted", partial(said_word, kinds=("letters", "count_letter"))),
    ):  # fmt: skip
        found[skill].append(draw)
    return {skill: tuple(kinds) for skill, kinds in found.items()}


skills: Final[Mapping[str, tuple[_Draw | str, ...]]] = _skills()
