"""What exam and lessons are made of: problems without their wording, wordings, and dialogues.

Everything that depends on a language is a pair, English first, then Korean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, TypedDict

from blyan.learning.genesis.particles import resolve

languages: Final = ("en", "ko")
english: Final = 0
korean: Final = 1

# Between two letters that the model shall write as tokens of their own; it is taken out when text becomes tokens.
apart: Final = "\ue000"


class Message(TypedDict):
    """One turn of a chat, as the chat template reads it."""

    role: str
    content: str


Dialogue: TypeAlias = list[Message]
Both: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Problem:
    """One question without its wording."""

    kind: str  # which wordings fit it
    key: str  # what the split is made by; empty where only wordings are held out
    slots: Mapping[str, Both]  # what stands in the wording's places
    answer: Both  # with its steps, as it is taught
    expected: Both  # the final answer; alternatives are separated by " | "
    rule: str  # how the final answer is found: see `checking`


def same(text: str) -> Both:
    """The same in both languages."""
    return text, text


def filled(wording: str, problem: Problem, language: int) -> str:
    """The wording with the problem's values in its places."""
    return resolve(wording.format(**{name: pair[language] for name, pair in problem.slots.items()}))


def user(content: str) -> Message:
    """What the person says."""
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    """What the model says."""
    return {"role": "assistant", "content": content}
