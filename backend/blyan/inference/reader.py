"""Makes events of an answer's steps: text, stop strings, finish reasons, whoever computed the steps.

Fed with one step after the other, by this node's own decoding or by another node's. Text that might be the beginning of
a stop string is held back until it is known not to be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from blyan.model.choosing import Candidate, Step
from blyan.model.tokenizer import TextStream

FinishReason: TypeAlias = Literal["stop", "length"]


class TokenReport(NamedTuple):
    """One token of an event."""

    token: int
    logprob: float | None
    top: tuple[Candidate, ...]
    text_at: int  # characters of text before this token's, counted from the start of the output


class Delta(NamedTuple):
    """Text that became certain, and the tokens and experts since the last delta."""

    text: str
    tokens: tuple[TokenReport, ...]
    experts: tuple[tuple[int, int, int], ...]  # (layer, expert, tokens)


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of a generation that went well."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


@dataclass(slots=True)
class Output:
    """Text on its way out: what is certain, and the tail that may yet become a stop string."""

    stop: tuple[str, ...]
    held: str = ""
    sent_chars: int = 0
    stopped: bool = False
    tokens: list[TokenReport] = field(default_factory=list[TokenReport])
    experts: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])

    def add(self, text: str) -> str:
        """Take new text; return what may go out now. Sets `stopped` when a stop string is complete."""
        if not self.stop:
            self.sent_chars += len(text)
            return text
        self.held += text
        cuts = [at for word in self.stop if (at := self.held.find(word)) >= 0]
        if cuts:
            self.stopped = True
            self.held = self.held[: min(cuts)]
            return self.release(0)
        return self.release(max((_overlap(self.held, word) for word in self.stop), default=0))

    def release(self, keep: int) -> str:
        """Let go of all held text but the last `keep` characters."""
        out, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        self.sent_chars += len(out)
        return out

    def delta(self, text: str) -> Delta:
        """An event of `text` and everything gathered since the last one."""
        event = Delta(text, tuple(self.tokens), tuple(self.experts))
        self.tokens.clear()
        self.experts.clear()
        return event


class Reader:
    """One answer's steps in, its events out: `feed` each step until `stopped` or the last one, then `end` once."""

    def __init__(
        self, stream: TextStream | None, eos: frozenset[int], stop: tuple[str, ...], prompt: int, *, echo: bool = False
    ) -> None:
        """`stream`: None for a model without a tokenizer; `prompt`: its tokens, whose steps come first if `echo`."""
        self._stream, self._eos, self._prompt = stream, eos, prompt
        self._echoed = prompt if echo else 0
        self._output = Output(stop)
        self._seen = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete: no more steps are wanted."""
        return self._output.stopped

    def feed(self, step: Step) -> Delta | None:
        """Take the next step; an event if something became certain with it."""
        output, stream = self._output, self._stream
        self._seen += 1
        generated = self._seen > self._echoed
        ended = generated and step.token in self._eos
        text_at = output.sent_chars + len(output.held)
        text = "" if ended or stream is None else stream.feed(step.token)
        if not ended:  # the token that ends an answer is no part of its text
            output.tokens.append(TokenReport(step.token, step.logprob, step.top, text_at))
        output.experts.extend(step.experts)
        ready = output.add(text) if generated else self._pass_through(text)
        if ready or output.experts or stream is None:  # without a tokenizer there is no text to wait for
            return output.delta(ready)
        return None

    def end(self, *, stopped: bool) -> Iterator[Delta | Finished]:
        """The last events. `stopped`: the answer came to its end by itself, or by a stop string."""
        output = self._output
        rest = ""
        if self._stream is not None and not output.stopped:
            last = self._stream.finish()
            rest = output.add(last) if self._seen > self._echoed else self._pass_through(last)
        rest += output.release(0)
        if rest or output.tokens or output.experts:
            yield output.delta(rest)
        yield Finished(
            "stop" if stopped or output.stopped else "length", self._prompt, max(0, self._seen - self._echoed)
        )

    def _pass_through(self, text: str) -> str:
        """Echoed prompt text: stop strings in it do not stop anything."""
        self._output.sent_chars += len(text)
        return text


def _overlap(text: str, word: str) -> int:
    """Length of the longest proper beginning of `word` that `text` ends with."""
    return next((n for n in range(min(len(word) - 1, len(text)), 0, -1) if text.endswith(word[:n])), 0)
