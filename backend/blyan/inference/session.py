"""One generation: token ids in, events out, with stop strings and finish reasons.

It runs inside the compute thread, asks for what it needs computed (`needs`), and knows nothing of HTTP. Text that might
be the beginning of a stop string is held back until it is known not to be.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from blyan.inference.decoding import decode
from blyan.inference.drafting import Drafter
from blyan.inference.needs import Answer, Need
from blyan.model.choosing import Candidate, Choice, Step
from blyan.model.grammar import Grammar
from blyan.model.loading import LoadedModel
from blyan.model.sampling import Sampling
from blyan.primitives.errors import ContextLengthExceeded, Fault, InvalidInput

_before_tokens_max = 16  # tokens of the prompt that decide how the first one after them reads

FinishReason: TypeAlias = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What to generate. Lengths are checked against the model by `prepare`."""

    prompt: tuple[int, ...]
    sampling: Sampling
    tokens_max: int | None = None  # None: as many as fit the context
    stop: tuple[str, ...] = ()
    top: int = 0  # candidates reported per token
    told: bool = True  # whether log-probabilities are reported
    routed: bool = True  # whether the experts that computed are reported
    echo: bool = False
    ignore_eos: bool = False
    grammar: Grammar | None = None  # that the answer follows
    shown: tuple[str, ...] = ()  # special tokens that are part of the text
    continues: bool = False  # the output goes on with the prompt's text, so a leading space of it counts


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


@dataclass(frozen=True, slots=True)
class Failed:
    """The last event of one that did not."""

    fault: Fault


@dataclass(frozen=True, slots=True)
class Embedded:
    """The only event of an embedding."""

    vector: tuple[float, ...]  # [hidden], of length one
    tokens: int


Event: TypeAlias = Delta | Finished | Failed | Embedded
Work: TypeAlias = Generator[Need | Event, Answer | None, None]  # the last event says how it ended


def answer_tokens_max(model: LoadedModel, request: GenerationRequest) -> int:
    """How many tokens may be generated; `ContextLengthExceeded` if prompt and answer do not fit."""
    context, vocab = model.manifest.config.context_length, model.manifest.config.vocab_size
    if not request.prompt:
        raise InvalidInput("prompt: expected at least one token, found none")
    bad = next((token for token in request.prompt if not 0 <= token < vocab), None)
    if bad is not None:
        raise InvalidInput(f"prompt: expected token ids from 0 to {vocab - 1}, found {bad}")
    room = context - len(request.prompt)
    wanted = room if request.tokens_max is None else request.tokens_max
    if room < 0 or wanted > room or (room == 0 and request.tokens_max is None):
        raise ContextLengthExceeded(
            f"context: expected at most {context} tokens, found {len(request.prompt)} in the prompt "
            f"and {request.tokens_max if request.tokens_max is not None else 'at least 1'} to generate",
            detail={"context_length": context, "prompt_tokens": len(request.prompt)},
        )
    return wanted


@dataclass(slots=True)
class _Output:
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


def run(model: LoadedModel, request: GenerationRequest, drafts_max: int = 0) -> Work:
    """Needs and events of one generation; a fault of blocks or input becomes `Failed`, the last event.

    `drafts_max`: how many tokens are guessed ahead at most.
    """
    try:
        yield from _run(model, request, drafts_max)
    except Fault as fault:
        yield Failed(fault)


def _run(model: LoadedModel, request: GenerationRequest, drafts_max: int) -> Work:
    tokens_max = answer_tokens_max(model, request)
    eos = frozenset[int]() if request.ignore_eos else frozenset(model.manifest.generation.eos)
    if not request.echo and tokens_max == 0:
        yield Finished("length", len(request.prompt), 0)
        return
    output, seen = _Output(request.stop), 0
    reason: FinishReason = "stop"
    echoed = len(request.prompt) if request.echo else 0
    steps = decode(
        request.prompt,
        Choice(request.sampling, tokens_max, eos, request.top, request.told),
        echo=request.echo,
        grammar=request.grammar,
        drafter=Drafter(request.prompt, drafts_max) if drafts_max else None,
        routed=request.routed,
    )
    before = request.prompt[-_before_tokens_max:] if request.continues else ()
    stream = model.tokenizer.stream(before, request.shown) if model.tokenizer else None
    answer: Answer | None = None
    while not output.stopped:
        try:
            step = steps.send(answer)
        except StopIteration as end:
            reason = "stop" if end.value else "length"
            break
        answer = None
        if isinstance(step, Need):
            answer = yield step
            continue
        seen += 1
        generated = seen > echoed
        ended = generated and step.token in eos
        text_at = output.sent_chars + len(output.held)
        text = "" if ended or stream is None else stream.feed(step.token)
        if not ended:  # the token that ends an answer is no part of its text
            output.tokens.append(_report(step, text_at))
        output.experts.extend(step.experts)
        ready = output.add(text) if generated else _pass_through(output, text)
        if ready or output.experts or stream is None:  # without a tokenizer there is no text to wait for
            yield output.delta(ready)
    if stream is not None and not output.stopped:
        output.held += stream.finish()
    rest = output.release(0)
    if rest or output.tokens or output.experts:
        yield output.delta(rest)
    yield Finished(reason, len(request.prompt), max(0, seen - echoed))


def _pass_through(output: _Output, text: str) -> str:
    """Echoed prompt text: stop strings in it do not stop anything."""
    output.sent_chars += len(text)
    return text


def _report(step: Step, text_at: int) -> TokenReport:
    return TokenReport(step.token, step.logprob, step.top, text_at)


def _overlap(text: str, word: str) -> int:
    """Length of the longest proper beginning of `word` that `text` ends with."""
    return next((n for n in range(min(len(word) - 1, len(text)), 0, -1) if text.endswith(word[:n])), 0)
