"""Contenders as processes of their own: a question a line on stdin, an answer a line on stdout.

Whoever is not asked computes nothing, so that several can be timed in turn without their thread pools, allocators and
interpreters meeting. The child's half needs the standard library alone, because a peer may live in another environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ANSWER_LIMIT_S = 600


@dataclass(frozen=True)
class Timed:
    """One greedy answer and its times."""

    tokens: list[int]
    first_s: float  # from the question to the first token, or the first event that holds some
    first_tokens: int  # how many came with it
    rest_s: float  # from there to the last one

    @property
    def decode(self) -> float:
        """Tokens a second after the first."""
        return (len(self.tokens) - self.first_tokens) / self.rest_s


Ask = Callable[[Sequence[int], int], Timed]  # prompt, tokens to generate


def stepwise(prompt: Sequence[int], count: int, begin: Callable[[Sequence[int]], int], step: Callable[[int], int]):
    """Time a plain loop: `begin` computes the prompt, `step` one token; each returns the next token."""
    began = time.perf_counter()
    tokens = [begin(prompt)]
    first = time.perf_counter()
    while len(tokens) < count:
        tokens.append(step(tokens[-1]))
    return Timed(tokens, first - began, 1, time.perf_counter() - first)


def serve(load: Callable[[], tuple[Mapping[str, Ask], str]]) -> None:
    """The child: load, say what there is, then answer questions until stdin ends. Its stdout is nobody else's."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what libraries print goes elsewhere
        models, note = load()

        def say(what: object) -> None:
            answers.write(json.dumps(what) + "\n")
            answers.flush()

        say({"models": list(models), "note": note})
        for line in sys.stdin:
            question = json.loads(line)
            say(asdict(models[question["model"]](question["prompt"], question["count"])))


class Worker:
    """The parent: one child that serves several models."""

    def __init__(self, command: Sequence[str | Path], **environment: str) -> None:
        self._process = subprocess.Popen(
            [*map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self._said: deque[str] = deque(maxlen=30)
        threading.Thread(target=self._listen, daemon=True).start()
        hello = self._answer()
        self.models: list[str] = hello["models"]
        self.note: str = hello["note"]

    @property
    def pid(self) -> int:
        """The process that computes."""
        return self._process.pid

    def ask(self, model: str) -> Ask:
        """How to ask one of its models."""

        def asked(prompt: Sequence[int], count: int) -> Timed:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps({"model": model, "prompt": list(prompt), "count": count}) + "\n")
            self._process.stdin.flush()
            return Timed(**self._answer())

        return asked

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _listen(self) -> None:
        assert self._process.stderr is not None
        self._said.extend(iter(self._process.stderr))

    def _answer(self) -> dict:
        assert self._process.stdout is not None
        overdue = threading.Timer(ANSWER_LIMIT_S, self._process.kill)
        overdue.start()
        try:
            line = self._process.stdout.readline()
        finally:
            overdue.cancel()
        if not line:
            code = self._process.wait()
            raise RuntimeError(f"{self._process.args} ended with {code} and said:\n{''.join(self._said)}")
        return json.loads(line)
