"""The built-in model's lessons: seeded dialogues about two-digit additions, itself, and what it does not know.

Pure: the same seed gives the same dialogues. A fixed part of all additions is held out: no dialogue contains such a
pair, in either order, so that exact match on it measures addition and not memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias, TypedDict

from blyan.learning import small_talk
from blyan.learning.draws import Draws


class Message(TypedDict):
    """One turn of a chat, as the chat template reads it."""

    role: str
    content: str


Dialogue: TypeAlias = list[Message]

held_out_share: Final = 0.15
_salt: Final = b"blyan two-digit additions v1"

# Exact match is reported for these, one by one.
asked_phrasings: Final = (
    "What is {a} + {b}?",
    "{a}+{b}=",
    "Add {a} and {b}.",
    "Calculate {a} + {b}",
    "{a} 더하기 {b}는?",
)


@dataclass(frozen=True, slots=True)
class Addition:
    """a + b, in this order."""

    a: int
    b: int

    @property
    def answer(self) -> str:
        """What the model shall say. It repeats the sum first: every phrasing then ends in the same last step."""
        return f"{self.a} + {self.b} = {self.a + self.b}"

    @property
    def held_out(self) -> bool:
        """Whether no dialogue may contain this sum; the same for both orders, and only for two two-digit numbers."""
        low, high = sorted((self.a, self.b))
        if low < 10 or high > 99:
            return False
        digest = hashlib.sha256(_salt + b"%d+%d" % (low, high)).digest()
        return int.from_bytes(digest[:4], "big") < held_out_share * 2**32


@lru_cache
def held_out_additions() -> tuple[Addition, ...]:
    """All ordered held-out additions, both operands 10 … 99, rising."""
    return tuple(sum_ for a in range(10, 100) for b in range(10, 100) if (sum_ := Addition(a, b)).held_out)


@lru_cache
def taught_additions() -> tuple[Addition, ...]:
    """All ordered additions of numbers 0 … 99 that dialogues may contain."""
    return tuple(sum_ for a in range(100) for b in range(100) if not (sum_ := Addition(a, b)).held_out)


def asked(addition: Addition, phrasing: str) -> Dialogue:
    """The one-question dialogue with which exact match is measured."""
    return [_user(phrasing.format(a=addition.a, b=addition.b)), _assistant(addition.answer)]


def dialogues(seed: int) -> Iterator[Dialogue]:
    """An endless seeded stream of dialogues of one to four turns."""
    draws = Draws(seed)
    while True:
        yield _dialogue(draws)


def small_talk_dialogues() -> list[Dialogue]:
    """Every listed question about itself with its answer, once, as written."""
    return [
        [_user(question), _assistant(answer)]
        for table in (small_talk.english, small_talk.korean)
        for questions, answer in table
        for question in questions
    ]


def corpus(seed: int, count: int) -> list[str]:
    """Roles and texts of the messages of `count` dialogues, for the tokenizer."""
    stream = dialogues(seed)
    messages = [message for _ in range(count) for message in next(stream)]
    return [message["role"] for message in messages] + [message["content"] for message in messages]


def _dialogue(draws: Draws) -> Dialogue:
    messages: Dialogue = []
    if draws.chance(0.08):
        messages.append({"role": "system", "content": draws.pick(small_talk.system_prompts)})
    turns = 1 if draws.chance(0.4) else 2 + draws.below(3)
    for _ in range(turns):
        messages += _exchange(draws)
    return messages


def _exchange(draws: Draws) -> Dialogue:
    kind = draws.below(100)
    if kind < 80:
        return _addition_exchange(draws)
    if kind < 89:
        return _talk_exchange(draws)
    question, answer = _unknown_question(draws)
    return [_user(_varied(draws, question)), _assistant(answer)]


def _addition_exchange(draws: Draws) -> Dialogue:
    # Every tenth sum is of single digits: they are the table that all columns use, and few of all pairs.
    addition = Addition(draws.below(10), draws.below(10)) if draws.chance(0.1) else draws.pick(taught_additions())
    # The short forms cost few tokens and the model has to be sure of all, so the measured ones come more often.
    spoken = (
        asked_phrasings
        if draws.chance(0.5)
        else small_talk.additions_korean
        if draws.chance(0.25)
        else small_talk.additions_english
    )
    question = draws.pick(spoken).format(a=addition.a, b=addition.b)
    return [_user(_varied(draws, question)), _assistant(addition.answer)]


def _talk_exchange(draws: Draws) -> Dialogue:
    questions, answer = draws.pick(small_talk.korean if draws.chance(0.35) else small_talk.english)
    return [_user(_varied(draws, draws.pick(questions))), _assistant(answer)]


def _unknown_question(draws: Draws) -> tuple[str, str]:
    korean = draws.chance(0.35)
    answer = small_talk.refusal_korean if korean else small_talk.refusal_english
    if draws.chance(0.35):
        pattern = draws.pick(small_talk.unlearned_korean if korean else small_talk.unlearned_english)
        pair = draws.pick(taught_additions())  # a held-out pair is not even subtracted
        return pattern.format(a=pair.a, b=pair.b, long=100 + draws.below(9900)), answer
    templates = small_talk.unrelated_korean if korean else small_talk.unrelated_english
    things = small_talk.things_korean if korean else small_talk.things_english
    invent = _invented_korean if korean else _invented_english
    pieces = draws.pick(templates).split("{thing}")
    text = pieces[0]
    for piece in pieces[1:]:
        text += (draws.pick(things) if draws.chance(0.5) else invent(draws)) + piece
    return text, answer


def _varied(draws: Draws, question: str) -> str:
    """The same question as people type it: other case, without its mark, with a courtesy."""
    if draws.chance(0.6):
        return question
    edits: tuple[Callable[[str], str], ...] = (
        str.lower,
        lambda text: text.rstrip("?.!"),
        lambda text: text.rstrip("?.!").lower(),
        lambda text: text + "?" if text[-1].isalnum() else text,
        lambda text: f"Please, {text[0].lower()}{text[1:]}",
        lambda text: f"Hi! {text}",
        lambda text: f"{text.rstrip('?.!')} please",
    )
    plain = any("가" <= letter <= "힣" for letter in question)  # English courtesies do not fit Korean
    return draws.pick(edits[:4] if plain else edits)(question)


def _invented_english(draws: Draws) -> str:
    syllables = [
        draws.pick("bcdfghjklmnprstvwz") + draws.pick("aeiou") + draws.pick(("", "", "n", "r", "st", "l", "th", "ck"))
        for _ in range(1 + draws.below(3))
    ]
    word = "".join(syllables)
    return word.capitalize() if draws.chance(0.3) else word


def _invented_korean(draws: Draws) -> str:
    # A syllable block is 0xAC00 + (initial * 21 + vowel) * 28 + final; without a final they stay common (Unicode 3.12).
    return "".join(
        chr(0xAC00 + (draws.below(19) * 21 + draws.below(21)) * 28 + draws.pick((0, 0, 0, 4, 8, 16, 21)))
        for _ in range(1 + draws.below(3))
    )


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}
