"""Takes the exam through the HTTP API of a node, as any client would; the model's own sampling holds."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import orjson

from blyan.learning.genesis.dialogue import Message
from blyan.learning.genesis.exam import Item

_at_once = 8
_answer_tokens_max = 200
_seconds_max = 120


def ask_node(
    url: str, model: str, items: Sequence[Item], report: Callable[[str], None], tokens_max: int = _answer_tokens_max
) -> list[str]:
    """The answers of `model` on the node at `url`, in the order of the items. Raises urllib.error.URLError."""

    def ask(item: Item) -> str:
        return answer_of_node(url, model, item.messages, tokens_max)

    answers: list[str] = []
    with ThreadPoolExecutor(_at_once) as pool:
        for answer in pool.map(ask, items):
            answers.append(answer)
            if len(answers) % 200 == 0:
                report(f"{len(answers)} of {len(items)} asked")
    return answers


def answer_of_node(url: str, model: str, messages: Sequence[Message], tokens_max: int = _answer_tokens_max) -> str:
    """One answer through `/v1/chat/completions`. Raises urllib.error.URLError."""
    body = {"model": model, "messages": list(messages), "max_tokens": tokens_max}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", orjson.dumps(body), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=_seconds_max) as response:
        return orjson.loads(response.read())["choices"][0]["message"]["content"]
