"""Problems about units, weekdays and dates.

Units by the SI and IEC 80000-13 (a kilobyte is 1000 bytes, a byte 8 bits); months by the Gregorian calendar of a year
that is no leap year.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from blyan.learning.draws import Draws
from blyan.learning.genesis.checking import months, weekdays
from blyan.learning.genesis.dialogue import Both, Problem, same
from blyan.learning.genesis.numbers import sum_answer


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit of a quantity, by its sign and its names."""

    sign: str
    name: Both  # English in the plural


@dataclass(frozen=True, slots=True)
class Step:
    """One `large` is `factor` times one `small`."""

    quantity: str
    large: Unit
    small: Unit
    factor: int


_units: Final = {
    unit.sign: unit
    for unit in (
        Unit("km", ("kilometers", "킬로미터")), Unit("m", ("meters", "미터")), Unit("cm", ("centimeters", "센티미터")),
        Unit("mm", ("millimeters", "밀리미터")), Unit("t", ("tons", "톤")), Unit("kg", ("kilograms", "킬로그램")),
        Unit("g", ("grams", "그램")), Unit("mg", ("milligrams", "밀리그램")), Unit("weeks", ("weeks", "주")),
        Unit("days", ("days", "일")), Unit("h", ("hours", "시간")), Unit("min", ("minutes", "분")),
        Unit("s", ("seconds", "초")), Unit("TB", ("terabytes", "테라바이트")), Unit("GB", ("gigabytes", "기가바이트")),
        Unit("MB", ("megabytes", "메가바이트")), Unit("kB", ("kilobytes", "킬로바이트")),
        Unit("B", ("bytes", "바이트")),
        Unit("bit", ("bits", "비트")),
    )
}  # fmt: skip
steps: Final = tuple(
    Step(quantity, _units[large], _units[small], factor)
    for quantity, large, small, factor in (
        ("length", "km", "m", 1000), ("length", "m", "cm", 100), ("length", "cm", "mm", 10),
        ("length", "m", "mm", 1000),
        ("mass", "t", "kg", 1000), ("mass", "kg", "g", 1000), ("mass", "g", "mg", 1000),
        ("time", "weeks", "days", 7), ("time", "days", "h", 24), ("time", "h", "min", 60), ("time", "min", "s", 60),
        ("data", "TB", "GB", 1000), ("data", "GB", "MB", 1000), ("data", "MB", "kB", 1000), ("data", "kB", "B", 1000),
        ("data", "B", "bit", 8),
    )
)  # fmt: skip

_days_of_month: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def conversion(draws: Draws, quantity: str) -> Problem:
    """A whole number of one unit in the next smaller or larger one; the result is whole too."""
    step = draws.pick([step for step in steps if step.quantity == quantity])
    count = 1 + draws.below(12) if draws.chance(0.35) else 10 + draws.below(90)
    down = draws.chance(0.65)
    large, small, factor = step.large, step.small, step.factor
    decimal = factor in (10, 100, 1000)
    if not down and not decimal:
        count = 1 + draws.below(10)  # what the table of such a factor gives at once
    start, end = (large, small) if down else (small, large)
    given, right = (count, count * factor) if down else (count * factor, count)
    whole = f"{given} {start.sign} = {right} {end.sign}"
    answer = whole if decimal else f"{_product_steps(count, factor)}: {whole}"
    long = draws.chance(0.6)
    slots = {
        "n": same(str(given)),
        "from": start.name if long else same(start.sign),
        "to": end.name if long else same(end.sign),
    }
    key = f"{count} {large.sign} {small.sign}" if count > 12 else ""
    return Problem(f"convert_{quantity}", key, slots, same(answer), same(str(right)), "number")


def _product_steps(count: int, factor: int) -> str:
    """`13 × 60` by tens and ones, each from a short table; one digit or a round number at once."""
    tens, ones = count // 10 * 10, count % 10
    if tens == 0 or ones == 0:
        return f"{count} × {factor} = {count * factor}"
    parts = tens * factor, ones * factor
    return f"{tens} × {factor} = {parts[0]}, {ones} × {factor} = {parts[1]}, {sum_answer(*parts)}"


def weekday(draws: Draws) -> Problem:
    """The day so many days after or before another, up to 30."""
    start, count, later = draws.below(7), 1 + draws.below(30), draws.chance(0.65)
    weeks, rest = divmod(count, 7)
    end = (start + (count if later else -count)) % 7
    sign = "+" if later else "-"
    whole = f"{count} = {7 * weeks} + {rest}, " if weeks else ""
    passed = [weekdays[(start + (step if later else -step)) % 7] for step in range(1, rest + 1)] or [weekdays[end]]
    answer = tuple(
        f"{whole}{weekdays[start][each]} {sign} {rest}: {', '.join(day[each] for day in passed)}" for each in (0, 1)
    )
    key = f"{start} {sign}{count}" if count > 7 else ""
    slots = {"day": weekdays[start], "n": same(str(count))}
    kind = "weekday_after" if later else "weekday_before"
    return Problem(kind, key, slots, (answer[0], answer[1]), weekdays[end], "weekday")


def next_weekday(draws: Draws) -> Problem:
    """Tomorrow and yesterday. Facts; only wordings are held out."""
    start, later = draws.below(7), draws.chance(0.5)
    end = weekdays[(start + (1 if later else -1)) % 7]
    kind = "tomorrow" if later else "yesterday"
    return Problem(kind, "", {"day": weekdays[start]}, (f"{end[0]}.", f"{end[1]}이에요."), end, "weekday")


def date(draws: Draws) -> Problem:
    """The date so many days after another, up to 30, in a year that is no leap year."""
    month, count = draws.below(12), 1 + draws.below(30)
    day = 1 + draws.below(_days_of_month[month])
    total, length = day + count, _days_of_month[month]
    steps_taken = sum_answer(day, count)
    if total > length:
        month_after, day_after = (month + 1) % 12, total - length
        worked = (
            f"{steps_taken}, {months[month]} has {length} days, {total} - {length} = {day_after}",
            f"{steps_taken}, {month + 1}월은 {length}일까지, {total} - {length} = {day_after}",
        )
    else:
        month_after, day_after = month, total
        worked = same(steps_taken)
    answer = (f"{worked[0]}: {months[month_after]} {day_after}", f"{worked[1]}: {month_after + 1}월 {day_after}일")
    slots = {"date": (f"{months[month]} {day}", f"{month + 1}월 {day}일"), "n": same(str(count))}
    return Problem(
        "date_after", f"{month} {day} {count}", slots, answer, same(f"{month_after + 1}-{day_after}"), "date"
    )


def month(draws: Draws) -> Problem:
    """How long a month is. Facts; only wordings are held out."""
    number = draws.below(12)
    days = _days_of_month[number]
    answer = (f"{months[number]} has {days} days.", f"{number + 1}월은 {days}일까지 있어요.")
    return Problem(
        "month_length", "", {"month": (months[number], f"{number + 1}월")}, answer, same(str(days)), "number"
    )
