"""Questions as people type them: other case, without their mark, with a courtesy, with a slip of the finger, in
two lines.

Changes are made to the wording, never to what stands in its places: a mistyped word to be reversed is another question.
"""

from __future__ import annotations

import re
from typing import Final

from blyan.learning.draws import Draws
from blyan.learning.genesis.lesson_wordings import courtesies_after, courtesies_before

_word: Final = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[A-Za-z]{4,}")
_places: Final = re.compile(r"(\{[^}]*\})")


def varied(draws: Draws, wording: str, language: int) -> str:
    """The wording as somebody types it; half the time as it is."""
    if draws.chance(0.5):
        return wording
    if draws.chance(0.35):
        wording = wording.rstrip("?.!")
    if draws.chance(0.35):
        wording = _lowered(wording)
    if draws.chance(0.2):
        before = draws.pick(courtesies_before[language])
        wording = before + (wording[0].lower() + wording[1:] if before[-2] in ",:" else wording)
    if draws.chance(0.12):
        wording += draws.pick(courtesies_after[language])
    if draws.chance(0.15):
        wording = mistyped(draws, wording)
    return _broken(draws, wording) if draws.chance(0.08) else wording


def _broken(draws: Draws, wording: str) -> str:
    """With a line's end where a space was, or behind it, as what is pasted has it."""
    spaces = [place for place, letter in enumerate(wording) if letter == " "]
    if not spaces or draws.chance(0.3):
        return wording + draws.pick(("\n", " ", "\n\n"))
    place = draws.pick(spaces)
    return wording[:place] + "\n" + wording[place + 1 :]


def mistyped(draws: Draws, wording: str) -> str:
    """One slip in one of its longer English words: a letter left out, doubled, or exchanged with the next."""
    found = [match for match in _word.finditer(wording) if match[0][0] not in "{["]
    if not found:
        return wording
    match = draws.pick(found)
    word, place = match[0], 1 + draws.below(len(match[0]) - 2)
    kind = draws.below(3)
    if kind == 0:
        word = word[:place] + word[place + 1 :]
    elif kind == 1:
        word = word[:place] + word[place] + word[place:]
    else:
        word = word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    return wording[: match.start()] + word + wording[match.end() :]


def _lowered(wording: str) -> str:
    return "".join(part if part.startswith("{") else part.lower() for part in _places.split(wording))
