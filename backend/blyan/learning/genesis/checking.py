"""Whether an answer is right: the final answer is found by a stated rule, and then equals what is expected or not.

Rules (`Problem.rule`): `number` the last number; `numbers` all numbers after the last colon, in order; `word` the last
run of Latin letters, case counts; `yes_no` how it begins; `weekday` the last weekday; `date` the last month and day;
`sentence` the whole answer without case, spaces and marks; `named` the expected name stands in it and no other of its
class; `refusal` it says that it does not know. An answer that refuses is wrong for every rule but the last, where
nothing else is right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from blyan.learning.genesis.split import plain

_number: Final = re.compile(r"-?\d+(?:,\d{3})+(?!\d)|-?\d+(?:\.\d+)?")
_korean_date: Final = re.compile(r"(\d{1,2})월 ?(\d{1,2})일")
months: Final[tuple[str, ...]] = tuple(
    "January February March April May June July August September October November December".split()
)
weekdays: Final = (
    ("Monday", "월요일"), ("Tuesday", "화요일"), ("Wednesday", "수요일"), ("Thursday", "목요일"), ("Friday", "금요일"),
    ("Saturday", "토요일"), ("Sunday", "일요일"),
)  # fmt: skip
_weekday: Final = re.compile("|".join(name for pair in weekdays for name in pair), re.IGNORECASE)
_english_date: Final = re.compile(rf"({'|'.join(months)}) (\d{{1,2}})\b", re.IGNORECASE)

# How an answer says that it does not know, as the lessons word it and as people would.
_refusals: Final = (
    "i do not know", "i don't know", "i cannot", "i can't", "sorry i", "i am not able", "i have no way",
    "저는 몰라요", "몰라요", "모르겠어요", "저는 알 수 없어요",
    "알 수 없어요", "잘 모르겠어요", "그것은 몰라요", "죄송하지만",
)  # fmt: skip
_refusals_plain: Final = tuple(plain(text) for text in _refusals)


def refuses(answer: str) -> bool:
    """Whether it says that it does not know or cannot, at its beginning."""
    return plain(answer).startswith(_refusals_plain)


def is_right(rule: str, expected: str, answer: str, rivals: tuple[str, ...] = ()) -> bool:
    """Whether the final answer is one of the expected ones; `rivals` are the other names of the class (`named`)."""
    if refuses(answer):
        return rule == "refusal"
    return any(_rules[rule](wanted, answer, rivals) for wanted in expected.split(" | "))


def numbers_of(text: str) -> list[str]:
    """All numbers of a text, thousands separators taken out; a hyphen after a digit or letter is no sign."""
    found: list[str] = []
    for match in _number.finditer(text):
        digits = match.group().replace(",", "")
        joined = match.start() > 0 and text[match.start() - 1].isalnum()
        found.append(digits.lstrip("-") if joined else digits)
    return found


def _last_number(expected: str, answer: str, _rivals: tuple[str, ...]) -> bool:
    return numbers_of(answer)[-1:] == [expected]


def _numbers(expected: str, answer: str, _rivals: tuple[str, ...]) -> bool:
    return numbers_of(answer.rpartition(":")[2]) == expected.split(", ")


def _word(expected: str, answer: str, _rivals: tuple[str, ...]) -> bool:
    return re.findall(r"[A-Za-z]+", answer)[-1:] == [expected]


def _yes_no(expected: str, answer: str, _rivals: tuple[str, ...]) -> bool:
    return plain(answer).split(" ")[0] == plain(expected)


def _last_weekday(expected: str, answer: str, _rivals: tuple[str, ...]) -> bool:
    return [name.capitalize() for name in _weekday.findall(answer)][-1:] == [expected]


def _date(expected: str, answer: str, _rivals: tuple[str, ...]) -> bool:
    found = [(match.end(), months.index(match[1].capitalize()) + 1, int(match[2]))
             for match in _english_date.finditer(answer)]  # fmt: skip
    found += [(match.end(), int(match[1]), int(match[2])) for match in _korean_date.finditer(answer)]
    month, _, day = expected.partition("-")
    return bool(found) and max(found)[1:] == (int(month), int(day))


def _sentence(expected: str, answer: str, _rivals: tuple[str, ...]) -> bool:
    return plain(answer).replace(" ", "") == plain(expected).replace(" ", "")


def _named(expected: str, answer: str, rivals: tuple[str, ...]) -> bool:
    def stands(name: str) -> bool:
        # Korean particles follow a name without a space; a Latin name ends where its letters end.
        return re.search(rf"(?<![\w]){re.escape(name)}(?![A-Za-z])", answer) is not None

    return stands(expected) and not any(stands(rival) for rival in rivals if rival not in expected)


def _refusal(_expected: str, _answer: str, _rivals: tuple[str, ...]) -> bool:
    return False  # whoever refuses was told apart before


_rules: Final[Mapping[str, Callable[[str, str, tuple[str, ...]], bool]]] = {
    "number": _last_number, "numbers": _numbers, "word": _word, "yes_no": _yes_no, "weekday": _last_weekday,
    "date": _date, "sentence": _sentence, "named": _named, "refusal": _refusal,
}  # fmt: skip
