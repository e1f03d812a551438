"""Problems about numbers: sums, differences, products, comparison, sorting, number words, counting."""

from __future__ import annotations

from typing import Final

from blyan.learning.draws import Draws
from blyan.learning.genesis.dialogue import Both, Problem, same
from blyan.learning.genesis.particles import resolve

_ones: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_tens: Final = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
_korean_digits: Final = "영 일 이 삼 사 오 육 칠 팔 구".split()
counted: Final = ("* # + x o @ % & = ~ apple cat star dog sun tree ball book egg fish 별 꽃 새 달 공 책").split()


def addition2(draws: Draws) -> Problem:
    """Up to two digits each; one in eight has a one-digit number, which is never held out."""
    low = 0 if draws.chance(0.125) else 10
    a, b = low + draws.below(100 - low), low + draws.below(100 - low)
    if low == 0 and draws.chance(0.5):
        a = draws.below(10)
    key = f"{min(a, b)}+{max(a, b)}" if min(a, b) >= 10 else ""
    return _arithmetic("addition2", key, a, b, "+", f"{a} + {b} = {a + b}", a + b)


def addition3(draws: Draws) -> Problem:
    """Three digits and two or three, column by column from the right with what is carried."""
    a, b = 100 + draws.below(900), (100 + draws.below(900)) if draws.chance(0.75) else 10 + draws.below(90)
    if draws.chance(0.5):
        a, b = b, a
    return _arithmetic("addition3", f"{min(a, b)}+{max(a, b)}", a, b, "+", sum_answer(a, b), a + b)


def subtraction2(draws: Draws) -> Problem:
    """Up to two digits each; one in ten is less than nought, one in eight has a one-digit number."""
    low = 0 if draws.chance(0.125) else 10
    a, b = low + draws.below(100 - low), low + draws.below(100 - low)
    if (a < b) != draws.chance(0.1):
        a, b = b, a
    key = f"{a}-{b}" if min(a, b) >= 10 else ""
    return _arithmetic("subtraction2", key, a, b, "-", f"{a} - {b} = {a - b}", a - b)


def subtraction3(draws: Draws) -> Problem:
    """Three digits less two or three, column by column; what was borrowed is already taken off the next."""
    a, b = 100 + draws.below(900), (100 + draws.below(900)) if draws.chance(0.75) else 10 + draws.below(90)
    a, b = max(a, b), min(a, b)
    return _arithmetic("subtraction3", f"{a}-{b}", a, b, "-", difference_answer(a, b), a - b)


def multiplication(draws: Draws) -> Problem:
    """The table from 0 to 10. Facts, all of them taught; only wordings are held out."""
    a, b = draws.below(11), draws.below(11)
    return _arithmetic("multiplication", "", a, b, "×", f"{a} × {b} = {a * b}", a * b)


def sum_answer(a: int, b: int) -> str:
    """`7+5=12, 4+8+1=13, 3+2+1=6: 347 + 285 = 632`; up to two digits at once."""
    whole = f"{a} + {b} = {a + b}"
    if max(a, b) < 100:
        return whole
    steps, carry, x, y = list[str](), 0, a, b
    while x or y:
        total = x % 10 + y % 10 + carry
        terms = [str(x % 10)] if y == 0 else [str(y % 10)] if x == 0 else [str(x % 10), str(y % 10)]
        steps.append("+".join([*terms, *(["1"] if carry else [])]) + f"={total}")
        carry, x, y = total // 10, x // 10, y // 10
    return ", ".join(steps) + ": " + whole


def difference_answer(a: int, b: int) -> str:
    """`12-5=7, 12-8=4, 5-2=3: 632 - 285 = 347` for a not less than b; up to two digits at once."""
    whole = f"{a} - {b} = {a - b}"
    if max(a, b) < 100:
        return whole
    steps, borrowed, x, y = list[str](), 0, a, b
    while x:
        top, bottom = x % 10 - borrowed, y % 10
        borrowed = int(top < bottom)
        top += 10 * borrowed
        steps.append(f"{top}-{bottom}={top - bottom}")
        x, y = x // 10, y // 10
    return ", ".join(steps) + ": " + whole


def comparison(draws: Draws) -> Problem:
    """Which of two numbers below 1000 is larger, or smaller."""
    a, b = _pair(draws)
    kind = "larger" if draws.chance(0.5) else "smaller"
    right = max(a, b) if kind == "larger" else min(a, b)
    answer = (
        f"The {kind} number is {right}.",
        resolve(f"더 {'큰' if kind == 'larger' else '작은'} 수는 {right}[예요]."),
    )
    return Problem(kind, f"{min(a, b)},{max(a, b)}", _slots(a=a, b=b), answer, same(str(right)), "number")


def is_greater(draws: Draws) -> Problem:
    """Whether one number is greater than another."""
    a, b = _pair(draws)
    if a > b:
        answer = (f"Yes, {a} is greater than {b}.", resolve(f"네, {a}[가] {b}보다 커요."))
    else:
        answer = (f"No, {a} is less than {b}.", resolve(f"아니요, {a}[가] {b}보다 작아요."))
    return Problem(
        "is_greater", f"{min(a, b)},{max(a, b)}", _slots(a=a, b=b), answer,
        ("yes", "네") if a > b else ("no", "아니요"), "yes_no",
    )  # fmt: skip


def sorting(draws: Draws) -> Problem:
    """Two to five different numbers below 100, rising or falling."""
    count = 2 + draws.below(4) if draws.chance(0.5) else 4 + draws.below(2)
    numbers: list[int] = []
    while len(numbers) < count:
        number = draws.below(100)
        if number not in numbers:
            numbers.append(number)
    kind = "sort_up" if draws.chance(0.65) else "sort_down"
    right = ", ".join(map(str, sorted(numbers, reverse=kind == "sort_down")))
    shown = ", ".join(map(str, numbers)) if draws.chance(0.75) else " ".join(map(str, numbers))
    key = ",".join(map(str, sorted(numbers)))
    return Problem(kind, key, {"list": same(shown)}, same(right), same(right), "numbers")


def number_to_words(draws: Draws) -> Problem:
    """0 to 999 in words: English, and Korean with Chinese numerals."""
    number = _number_to_say(draws)
    words = english_words(number), korean_words(number)
    return Problem("to_words", _said_key(number), _slots(n=number), words, words, "sentence")


def words_to_number(draws: Draws) -> Problem:
    """Words for 0 to 999 in digits."""
    number = _number_to_say(draws)
    slots = {"words": (english_words(number), korean_words(number))}
    return Problem("from_words", _said_key(number), slots, same(str(number)), same(str(number)), "number")


def count_things(draws: Draws) -> Problem:
    """How often one sign or word stands in a row, up to 20."""
    thing, count = draws.pick(counted), 1 + draws.below(20)
    between = ", " if thing.isalpha() and draws.chance(0.5) else " "
    shown = between.join([thing] * count)
    return Problem(
        "count_things", f"{thing} {count}", {"list": same(shown)}, same(str(count)), same(str(count)), "number"
    )


def count_range(draws: Draws) -> Problem:
    """Count from one number to another, at most 20 of them, rising or falling."""
    first, length = draws.below(21), 2 + draws.below(19)
    last = first + length - 1
    if draws.chance(0.2):
        first, last = last, first
    step = 1 if last >= first else -1
    right = ", ".join(map(str, range(first, last + step, step)))
    return Problem("count_range", f"{first} {last}", _slots(a=first, b=last), same(right), same(right), "numbers")


def english_words(number: int) -> str:
    """0 to 999: `three hundred forty-two`."""
    if number >= 100:
        rest = number % 100
        return f"{_ones[number // 100]} hundred" + (f" {english_words(rest)}" if rest else "")
    if number < 20:
        return _ones[number]
    return _tens[number // 10] + (f"-{_ones[number % 10]}" if number % 10 else "")


def korean_words(number: int) -> str:
    """0 to 999 in Chinese numerals: `삼백사십이`."""
    if number < 10:
        return _korean_digits[number]
    words = ""
    for power, name in ((100, "백"), (10, "십"), (1, "")):
        digit = number // power % 10
        if digit:
            words += (_korean_digits[digit] if digit > 1 or power == 1 else "") + name
    return words


def _arithmetic(kind: str, key: str, a: int, b: int, sign: str, answer: str, result: int) -> Problem:
    return Problem(kind, key, _slots(a=a, b=b) | {"sign": same(sign)}, same(answer), same(str(result)), "number")


def _pair(draws: Draws) -> tuple[int, int]:
    """Two different numbers below 1000, often near each other, where comparison is hard."""
    top = 100 if draws.chance(0.5) else 1000
    a = draws.below(top)
    b = draws.below(top) if draws.chance(0.5) else max(0, a + draws.below(21) - 10)
    return (a, b) if a != b else (a, a + 1)


def _number_to_say(draws: Draws) -> int:
    return draws.below(100) if draws.chance(0.5) else draws.below(1000)


def _said_key(number: int) -> str:
    return str(number) if number > 20 else ""


def _slots(**numbers: int) -> dict[str, Both]:
    return {name: same(str(number)) for name, number in numbers.items()}
