"""Every kind of problem by the skill that it belongs to, and how one is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeAlias

from blyan.learning.draws import Draws
from blyan.learning.genesis import facts, letters, measures, numbers
from blyan.learning.genesis.dialogue import Problem

Draw: TypeAlias = Callable[[Draws], Problem]


def _strings(kind: str) -> Draw:
    return partial(letters.word_problem, kind=kind)


def _facts(*kinds: str) -> tuple[Draw, ...]:
    return tuple(partial(facts.fact, kind=kind) for kind in kinds)


# skill -> what draws its problems, all equally likely
skills: Final[Mapping[str, tuple[Draw, ...]]] = {
    "addition, 2 digits": (numbers.addition2,),
    "addition, 3 digits": (numbers.addition3,),
    "subtraction, 2 digits": (numbers.subtraction2,),
    "subtraction, 3 digits": (numbers.subtraction3,),
    "multiplication table": (numbers.multiplication,),
    "comparison": (numbers.comparison, numbers.comparison, numbers.is_greater),
    "length": (partial(measures.conversion, quantity="length"),),
    "mass": (partial(measures.conversion, quantity="mass"),),
    "time": (partial(measures.conversion, quantity="time"),),
    "data": (partial(measures.conversion, quantity="data"),),
    "weekdays": (measures.weekday, measures.weekday, measures.weekday, measures.next_weekday),
    "dates": (measures.date, measures.date, measures.month),
    "counting": (numbers.count_things, numbers.count_things, numbers.count_range),
    "reverse": (_strings("reverse"),),
    "upper case": (_strings("upper"),),
    "first and last letter": (_strings("first_letter"), _strings("last_letter")),
    "letters counted": (_strings("count_letter"), _strings("letters")),
    "sorting": (numbers.sorting,),
    "number words": (numbers.number_to_words, numbers.words_to_number),
    "capitals": _facts("capital", "capital", "capital_of"),
    "elements": _facts("symbol", "element_of", "atomic_number"),
    "planets": _facts(
        "planet_at", "planet_after", "planet_at", "planet_after", "largest_planet", "smallest_planet", "nearest_planet",
        "planet_count",
    ),
}  # fmt: skip

_shared: Final = {
    "addition2": "addition", "addition3": "addition", "subtraction2": "subtraction", "subtraction3": "subtraction",
    "convert_length": "convert", "convert_mass": "convert", "convert_time": "convert", "convert_data": "convert",
}  # fmt: skip


def wording_of(kind: str) -> str:
    """Under which name the wordings of a kind stand; several kinds are asked for alike."""
    return _shared.get(kind, kind)
