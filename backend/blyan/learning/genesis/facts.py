"""Problems about the fact table (`facts.toml`, which names its sources): capitals, elements, planets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from blyan.learning.draws import Draws
from blyan.learning.genesis import tables
from blyan.learning.genesis.dialogue import Both, Problem, same
from blyan.learning.genesis.particles import resolve

capitals: Final = tuple(map(tuple, tables.facts["capitals"]))  # country, capital, and both in Korean
elements: Final = tuple(map(tuple, tables.facts["elements"]))  # name, symbol, atomic number, name in Korean
planets: Final[tuple[Both, ...]] = tuple((english, korean) for english, korean in tables.facts["planets"])
_ordinals: Final = "first second third fourth fifth sixth seventh eighth".split()
_korean_ordinals: Final = "첫 두 세 네 다섯 여섯 일곱 여덟".split()
kinds: Final = (
    "capital", "capital_of", "symbol", "element_of", "atomic_number", "planet_at", "planet_after", "largest_planet",
    "smallest_planet", "nearest_planet", "planet_count",
)  # fmt: skip


def fact(draws: Draws, kind: str) -> Problem:
    """A question about the table. Nothing of it is held out but wordings."""
    if kind.startswith("capital"):
        return capital(draws, kind, capitals)
    if kind in {"symbol", "element_of", "atomic_number"}:
        return _element(kind, draws)
    return _planet(kind, draws)


def rivals(kind: str) -> tuple[str, ...]:
    """What else could be named in answer to this kind of question, in both languages."""
    columns = {"capital": (1, 3), "capital_of": (0, 2)}.get(kind)
    if columns is not None:
        return tuple(row[column] for row in capitals for column in columns)
    if kind == "element_of":
        return tuple(name for row in elements for name in (row[0], row[3]))
    return tuple(name for pair in planets for name in pair) if "planet" in kind else ()


def capital(draws: Draws, kind: str, rows: Sequence[tuple[str, ...]]) -> Problem:
    """`capital` of a country of these rows, or `capital_of`: whose it is."""
    country, city, country_ko, city_ko = draws.pick(rows)
    slots = {"country": (country, country_ko), "capital": (city, city_ko)}
    if kind == "capital":
        answer = (f"The capital of {country} is {city}.", resolve(f"{country_ko}의 수도는 {city_ko}[예요]."))
        return Problem(kind, "", slots, answer, (city, city_ko), "named")
    answer = (f"{city} is the capital of {country}.", f"{city_ko}, {country_ko}의 수도예요.")
    return Problem(kind, "", slots, answer, (country, country_ko), "named")


def _element(kind: str, draws: Draws) -> Problem:
    name, symbol, number, name_ko = draws.pick(elements)
    slots = {"element": (name, name_ko), "symbol": same(symbol)}
    if kind == "symbol":
        answer = (f"The symbol of {name} is {symbol}", f"{name_ko}의 원소 기호: {symbol}")
        return Problem(kind, "", slots, answer, same(symbol), "word")
    if kind == "element_of":
        return Problem(kind, "", slots, (f"{symbol} is {name}.", f"{symbol}: {name_ko}"), (name, name_ko), "named")
    answer = (f"The atomic number of {name} is {number}.", f"{name_ko}의 원자 번호: {number}")
    return Problem(kind, "", slots, answer, same(number), "number")


def _planet(kind: str, draws: Draws) -> Problem:
    place = draws.below(7) if kind == "planet_after" else draws.below(8)
    slots: dict[str, Both] = {"ordinal": (_ordinals[place], _korean_ordinals[place]), "planet": planets[place]}
    if kind == "planet_count":
        return Problem(kind, "", slots, ("There are 8 planets.", "행성은 8개예요."), same("8"), "number")
    place = {"planet_after": place + 1, "largest_planet": 4, "smallest_planet": 0, "nearest_planet": 0}.get(kind, place)
    named = planets[place]
    return Problem(kind, "", slots, (f"{named[0]}.", resolve(f"{named[1]}[예요].")), named, "named")
