"""Requests on which guessing by prompt lookup is measured: seeded, so that anybody gets the same ones.

Each is a path and a body. Those for the built-in model are what people who chat do: ask again what was asked before,
let it calculate in a conversation, give it a text to copy, change or take something from (which it has not learned;
larger models have). Those for random weights are token ids: a record repeated with changes, and noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from benched_node import completion

from blyan.learning.draws import Draws
from blyan.learning.genesis.dialogue import Message, assistant, filled, user
from blyan.learning.genesis.exam_wordings import familiar, talk_answers
from blyan.learning.genesis.lesson_wordings import talk
from blyan.learning.genesis.numbers import addition2

Request = tuple[str, dict[str, object]]

TASKS = (
    "Copy this: {text}",
    "Write this again with {name} in place of {old}: {text}",
    "Which names stand here? {text}",
)
NAMES = ("Ada", "Boris", "Chen", "Dana", "Emil", "Fatima", "Goro", "Hanna")


def chat(model: str, messages: list[dict[str, str]]) -> Request:
    """A greedy answer to its natural end."""
    body = {"model": model, "messages": messages, "max_tokens": 96, "temperature": 0, "stream": True}
    return "/v1/chat/completions", {**body, "return_token_ids": True}


def asked_again(model: str, seed: int) -> Iterator[Request]:
    """Conversations whose first question comes a second time."""
    draws = Draws(seed)
    told = [[user(question), assistant(talk_answers[intent][0])] for intent in talk for question in talk[intent][0]]
    while True:
        first, *others = (list(map(dict, draws.pick(told))) for _ in range(3))
        yield chat(model, [*first, *(message for other in others for message in other), first[0]])


def sums(model: str, seed: int) -> Iterator[Request]:
    """Conversations of four additions, the last unanswered."""
    draws = Draws(seed)
    while True:
        messages = [dict(message) for _ in range(4) for message in _sum(draws)]
        yield chat(model, messages[:-1])


def _sum(draws: Draws) -> list[Message]:
    problem = addition2(draws)
    return [user(filled(draws.pick(familiar["addition"][0]), problem, 0)), assistant(problem.answer[0])]


def texts(model: str, seed: int) -> Iterator[Request]:
    """Copy, edit, extract."""
    draws = Draws(seed)
    while True:
        names = draws.shuffled(NAMES)[:3]
        text = " ".join(f"{name} has {2 + draws.below(90)} apples." for name in names)
        task = draws.pick(TASKS).format(text=text, name=draws.pick(NAMES), old=names[0])
        yield chat(model, [{"role": "user", "content": task}])


def records(model: str, seed: int, vocab: int, count: int) -> Iterator[Request]:
    """One record of 24 tokens eight times, each time with two of them changed; greedy."""
    draws = Draws(seed)
    while True:
        record = [3 + draws.below(vocab - 3) for _ in range(24)]
        prompt: list[int] = []
        for _ in range(8):
            for _ in range(2):
                record[draws.below(24)] = 3 + draws.below(vocab - 3)
            prompt += record
        yield "/v1/completions", completion(model, prompt, count)


def noise(model: str, seed: int, vocab: int, count: int) -> Iterator[Request]:
    """Random tokens, answered at temperature 1: nothing repeats."""
    draws = Draws(seed)
    while True:
        prompt = [3 + draws.below(vocab - 3) for _ in range(128)]
        yield "/v1/completions", completion(model, prompt, count, temperature=1, seed=draws.below(1 << 30))


def first(requests: Iterator[Request], count: int) -> list[Request]:
    """So many of them."""
    return list(islice(requests, count))
