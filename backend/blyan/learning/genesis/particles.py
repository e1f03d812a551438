"""Korean particles that depend on the word before them: `{a}[는]` becomes `12는` and `13은`.

A numeral counts as it is read aloud in Chinese numerals, a Latin letter roughly as it is spoken at a word's end.
"""

from __future__ import annotations

import re
from typing import Final

# as written in a wording -> after a final consonant, after none
_pairs: Final = {
    "는": ("은", "는"), "가": ("이", "가"), "를": ("을", "를"), "와": ("과", "와"), "야": ("이야", "야"),
    "예요": ("이에요", "예요"), "로": ("으로", "로"),
    "랑": ("이랑", "랑"), "면": ("이면", "면"), "라는": ("이라는", "라는"), "라고": ("이라고", "라고"),
}  # fmt: skip
_marked: Final = re.compile(rf"(.)\[({'|'.join(_pairs)})\]")
_consonant_endings: Final = frozenset("013678lmnrLMNR")
_rieul: Final = 8  # the final consonant after which 로 stays


def resolve(text: str) -> str:
    """The text with every marked particle in the form that its place asks for."""
    return _marked.sub(lambda found: found[1] + _fitting(found[1], found[2]), text)


def _fitting(before: str, particle: str) -> str:
    closed, open_ = _pairs[particle]
    if "가" <= before <= "힣":
        final = (ord(before) - 0xAC00) % 28  # Unicode 3.12
        return open_ if final == 0 or (particle == "로" and final == _rieul) else closed
    if particle == "로" and before in "178lL":
        return open_
    return closed if before in _consonant_endings else open_
