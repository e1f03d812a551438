"""The lessons: an endless seeded stream of dialogues over all skills, in which nothing of the exam occurs.

Pure: the same seed, mixture and documents give the same dialogues. A problem that is held out is drawn again, and so is
every question whose text, but for case, spaces and marks, is one of the exam's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from blyan.learning.draws import Draws
from blyan.learning.genesis import beside, blyan_words, lesson_wordings
from blyan.learning.genesis.dialogue import Dialogue, Problem, assistant, filled, user
from blyan.learning.genesis.documents import Documents
from blyan.learning.genesis.exam import acknowledged, all_skills, held_out_sequel, worked
from blyan.learning.genesis.exam_wordings import intents as exam_intents
from blyan.learning.genesis.exam_wordings import refusal, talk_answers
from blyan.learning.genesis.letters import invented_word, word_problem
from blyan.learning.genesis.numbers import addition2, subtraction2
from blyan.learning.genesis.particles import resolve
from blyan.learning.genesis.phrasing import question, said, unknowable
from blyan.learning.genesis.split import fingerprint, held_out, is_held_out
from blyan.learning.genesis.subjects import skills, wording_of
from blyan.learning.genesis.typing_habits import mistyped, varied

string_skills: Final = ("reverse", "upper case", "first and last letter", "letters counted")
_vowels: Final = (0, 4, 8, 13, 18, 20)
_name_vowels: Final = range(21)
_finals: Final = (0, 0, 0, 4, 8, 16, 21)
_invented_names: Final = (0.4, 0.75)  # a Korean syllable is rarely a token: copying its bytes has to be learned
_strangers_share: Final = 0.08
_told_and_asked_share: Final = 0.2  # who says a name and asks for it at once
_conversations: Final = ("plus", "minus", "name", "name", "number", "upper", "reverse")  # names as often as they stand


@dataclass(frozen=True, slots=True)
class Mixture:
    """How much of what is taught: weights by skill, and how dialogues are made."""

    weights: Mapping[str, float]
    korean_share: float = 0.4
    system_share: float = 0.5  # dialogues that begin with a system prompt
    one_turn_share: float = 0.45

    def __post_init__(self) -> None:
        assert set(self.weights) == set(all_skills), "a weight for every skill of the exam, and for nothing else"


@dataclass(frozen=True, slots=True)
class Lessons:
    """What a stream of dialogues is made from."""

    documents: Documents
    mixture: Mixture
    exam: frozenset[bytes]  # fingerprints of its questions
    system_prompt: str = ""  # the one that is shipped; most dialogues with a system prompt have it

    def dialogues(self, seed: int) -> Iterator[Dialogue]:
        """An endless seeded stream of dialogues of one to five turns."""
        draws = Draws(seed)
        while True:
            yield self.dialogue(draws)

    def dialogue(self, draws: Draws) -> Dialogue:
        """One dialogue, all in one language."""
        language = int(draws.chance(self.mixture.korean_share))
        messages: Dialogue = []
        if draws.chance(self.mixture.system_share):
            own = self.system_prompt and draws.chance(0.7)
            prompt = self.system_prompt if own else draws.pick(lesson_wordings.system_prompts[language])
            messages.append({"role": "system", "content": prompt})
        turns = 1 if draws.chance(self.mixture.one_turn_share) else 2 + draws.below(3)
        for _ in range(turns):
            messages += self.exchange(draws, self._skill(draws), language)
        return messages

    def exchange(self, draws: Draws, skill: str, language: int) -> Dialogue:
        """A question of this skill with its answer, or a short conversation."""
        while True:
            messages = self._exchange(draws, skill, language)
            if not any(self._is_of_the_exam(message["content"]) for message in messages[::2]):
                return messages

    def _skill(self, draws: Draws) -> str:
        weights = self.mixture.weights
        left = draws.fraction() * sum(weights.values())
        for skill, weight in weights.items():
            left -= weight
            if left < 0:
                return skill
        return next(iter(weights))

    def _is_of_the_exam(self, question: str) -> bool:
        return fingerprint(question) in self.exam

    def _exchange(self, draws: Draws, skill: str, language: int) -> Dialogue:
        if draws.chance(beside.share(skill)):
            return beside.exchange(draws, skill, language)
        if skill == "Blyan":
            return _blyan(draws, language, self.documents)
        if skill == "small talk":
            intent = draws.pick(tuple(lesson_wordings.talk))
            wording = said(draws, "talk", intent, language, lesson_wordings.talk[intent])
            return [user(varied(draws, wording, language)), assistant(talk_answers[intent][language])]
        if skill == "unknown" and draws.chance(_strangers_share):
            return beside.stranger(draws, language)
        if skill == "unknown":
            return [user(unknown_question(draws, language)), assistant(refusal[language])]
        if skill == "conversations":
            return _conversation(draws, draws.pick(_conversations), language)
        problem = draws.pick(skills[skill])(draws)
        while is_held_out(problem):
            problem = draws.pick(skills[skill])(draws)
        return asked(draws, problem, language)


def asked(draws: Draws, problem: Problem, language: int) -> Dialogue:
    """A problem in one of its wordings, with its answer."""
    wording = question(draws, wording_of(problem.kind), language)
    return [user(filled(wording, problem, language)), assistant(problem.answer[language])]


def unknown_question(draws: Draws, language: int) -> str:
    """What nobody here can know, or what nobody can: invented things, places, commands and codes."""
    text = unknowable(draws, language)
    while "{" in text:
        begin, _, rest = text.partition("{")
        name, _, end = rest.partition("}")
        text = begin + _something(draws, name, language) + end
    return resolve(text)


def _something(draws: Draws, place: str, language: int) -> str:
    match place:
        case "thing":
            known = draws.chance(0.7)
            return draws.pick(lesson_wordings.unknown_things[language]) if known else _invented(draws, language)
        case "name":
            known = draws.chance(0.7)
            names = lesson_wordings.unknown_names[language]
            return draws.pick(names) if known else _invented(draws, language).capitalize()
        case "place":
            return _invented(draws, language).capitalize()
        case "nothing":
            return _invented(draws, language if draws.chance(0.5) else 0)
        case "long":
            return str(1000 + draws.below(9000)) if draws.chance(0.4) else str(10_000 + draws.below(9_990_000))
        case "two":
            return str(11 + draws.below(89))
        case _:
            return str(draws.below(100))


def _invented(draws: Draws, language: int, vowels: Sequence[int] = _vowels) -> str:
    if language == 0:
        while True:
            word = invented_word(draws)
            if len(word) > 3 and word not in blyan_words.words:
                return word
    # A syllable block is 0xAC00 + (initial * 21 + vowel) * 28 + final (Unicode 3.12); without most finals, as in names.
    return "".join(
        chr(0xAC00 + (draws.below(19) * 21 + draws.pick(vowels)) * 28 + draws.pick(_finals))
        for _ in range(2 + draws.below(3))
    )


def _blyan(draws: Draws, language: int, documents: Documents) -> Dialogue:
    problem = blyan_words.blyan_problem(draws, draws.pick(blyan_words.kinds), language, documents)
    wording = question(draws, problem.kind, language)
    if problem.kind == "command_for":
        command = problem.slots["command"][0]
        wording = wording.replace("{intent}", intent(draws, command, language))
    return [user(filled(wording, problem, language)), assistant(problem.answer[language])]


def intent(draws: Draws, command: str, language: int) -> str:
    """What a command is wanted for, in words that the exam does not use for it."""
    fresh = frozenset(map(fingerprint, exam_intents[command][language]))
    while True:
        wanted = said(draws, "intents", command, language, lesson_wordings.intents[command])
        if fingerprint(wanted) not in fresh:
            return mistyped(draws, wanted) if draws.chance(0.05) else wanted


def _conversation(draws: Draws, kind: str, language: int) -> Dialogue:
    """Questions that need what was said before, perhaps with another question between."""
    if kind in {"name", "number"}:
        return _remembered(draws, kind, language)
    if kind in {"upper", "reverse"}:
        first = _taught(lambda: word_problem(draws, draws.pick(("reverse", "upper", "first_letter", "letters"))))
        second = word_problem(draws, kind, first.slots["word"][0])
        if is_held_out(second):
            return _conversation(draws, kind, language)
        return [*asked(draws, first, language), *_sequel(draws, kind, language, second.answer[language])]
    first = _taught(lambda: addition2(draws) if draws.chance(0.6) else subtraction2(draws))
    messages, total = asked(draws, first, language), int(first.expected[0])
    for _ in range(1 + draws.below(2)):
        change = 1 + draws.below(99)
        plus = (kind == "plus" or change > total) and total >= 0
        if not plus and (change > total or total < 0):
            break
        if held_out_sequel(total, change, plus=plus):
            continue
        answer = worked(total, change, plus=plus)
        messages += _sequel(draws, "plus" if plus else "minus", language, answer, c=change)
        total += change if plus else -change
    return messages


def _remembered(draws: Draws, kind: str, language: int) -> Dialogue:
    value = draws.pick(lesson_wordings.names[language])
    if kind == "name" and draws.chance(_invented_names[language]):
        value = _invented(draws, language, _name_vowels).capitalize()
    if kind == "number":
        value = str(10 + draws.below(990))
        while held_out("remembered", value):
            value = str(10 + draws.below(990))
    wording = said(draws, "introductions", kind, language, lesson_wordings.introductions[kind])
    wording = varied(draws, wording, language)
    said_so = resolve(wording.format(name=value, n=value)).rstrip()
    answers = {
        "name": (f"Your name is {value}.", f"당신의 이름은 {value}[예요]."),
        "number": (f"The number is {value}.", f"숫자는 {value}[예요]."),
    }
    asking, answer = _sequel(draws, kind, language, resolve(answers[kind][language]))
    if draws.chance(_told_and_asked_share):
        told = said_so if said_so[-1] in ".!?" else f"{said_so}."
        return [user(f"{told} {asking['content']}"), answer]
    messages: Dialogue = [user(said_so), assistant(acknowledged(kind, value)[language])]
    if draws.chance(0.5):
        messages += asked(draws, _taught(lambda: addition2(draws)), language)
    return [*messages, asking, answer]


def _sequel(draws: Draws, kind: str, language: int, answer: str, **places: int) -> Dialogue:
    wording = varied(draws, said(draws, "sequels", kind, language, lesson_wordings.sequels[kind]), language)
    return [user(resolve(wording.format(**places))), assistant(answer)]


def _taught(draw: Callable[[], Problem]) -> Problem:
    problem = draw()
    while is_held_out(problem):
        problem = draw()
    return problem


def digest_of(dialogues: Iterable[Dialogue]) -> str:
    """SHA-256 over each dialogue as a line of JSON: the name of a data set that is made and not kept."""
    digest = hashlib.sha256()
    for messages in dialogues:
        digest.update(orjson.dumps(messages) + b"\n")
    return digest.hexdigest()
