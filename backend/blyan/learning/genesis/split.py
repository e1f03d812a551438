"""What is held out: a part of all problems, by digest of what they are about, and every text of the exam.

Pure and frozen: to change it would make every figure that was ever measured meaningless. The split is by the problem's
subject (both orders of a sum, a word, a set of numbers), so that no wording of a held-out problem can be learned.
"""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Final

from blyan.learning.genesis.dialogue import Problem

held_out_share: Final = 0.15
# Sums of two-digit numbers keep the salt of the first built-in model, so that both are measured on what neither saw.
_salts: Final = {"addition2": b"blyan two-digit additions v1"}


def held_out(kind: str, key: str) -> bool:
    """Whether no lesson may be about this. Nothing of a kind without keys is held out but its wordings."""
    if not key:
        return False
    salt = _salts.get(kind, b"blyan genesis v1 %s " % kind.encode())
    digest = hashlib.sha256(salt + key.encode()).digest()
    return int.from_bytes(digest[:4], "big") < held_out_share * 2**32


def is_held_out(problem: Problem) -> bool:
    """`held_out` of a problem's kind and key."""
    return held_out(problem.kind, problem.key)


def plain(text: str) -> str:
    """The text without case, spaces and marks, except those of arithmetic; a hyphen is one where a digit is beside it.

    Two texts that a reader takes for the same one are equal here.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept: list[str] = []
    for place, letter in enumerate(folded):
        beside = folded[max(0, place - 2) : place + 3]
        sign = letter in "+*/×÷=<>#" or (letter == "-" and any(each.isdigit() for each in beside))
        if sign or unicodedata.category(letter)[0] in "LN":
            kept.append(letter)
        elif kept and kept[-1] != " ":
            kept.append(" ")
    return "".join(kept).strip()


def fingerprint(text: str) -> bytes:
    """By which a text of the exam is recognised in the lessons: 16 bytes of SHA-256 of what is left by `plain`."""
    return hashlib.sha256(plain(text).encode()).digest()[:16]
