"""One generation: token ids in, events out, with stop strings and finish reasons.

It runs inside the compute thread, asks for what it needs computed (`needs`), and knows nothing of HTTP. What becomes
text and when is the `reader`'s.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeAlias

from blyan.inference.decoding import decode
from blyan.inference.drafting import Drafter
from blyan.inference.needs import Answer, Need
from blyan.inference.reader import Delta, Finished, Reader
from blyan.model.choosing import Choice
from blyan.model.grammar import Grammar
from blyan.model.loading import LoadedModel
from blyan.model.sampling import Sampling
from blyan.primitives.errors import ContextLengthExceeded, Fault, InvalidInput

_before_tokens_max = 16  # tokens of the prompt that decide how the first one after them reads


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
    if not request.echo and tokens_max == 0:
        yield Finished("length", len(request.prompt), 0)
        return
    reader = reader_of(model, request)
    steps = decode(
        request.prompt,
        choice_of(model, request, tokens_max),
        echo=request.echo,
        grammar=request.grammar,
        drafter=Drafter(request.prompt, drafts_max) if drafts_max else None,
        routed=request.routed,
    )
    stopped = True
    answer: Answer | None = None
    while not reader.stopped:
        try:
            step = steps.send(answer)
        except StopIteration as end:
            stopped = end.value
            break
        answer = None
        if isinstance(step, Need):
            answer = yield step
            continue
        event = reader.feed(step)
        if event is not None:
            yield event
    yield from reader.end(stopped=stopped)


def choice_of(model: LoadedModel, request: GenerationRequest, tokens_max: int) -> Choice:
    """How the answer's tokens are chosen; `tokens_max` as `answer_tokens_max` gives it."""
    return Choice(request.sampling, tokens_max, eos_of(model, request), request.top, request.told)


def eos_of(model: LoadedModel, request: GenerationRequest) -> frozenset[int]:
    """The tokens that end the answer."""
    return frozenset[int]() if request.ignore_eos else frozenset(model.manifest.generation.eos)


def reader_of(model: LoadedModel, request: GenerationRequest) -> Reader:
    """What makes events of the answer's steps, wherever they are computed."""
    before = request.prompt[-_before_tokens_max:] if request.continues else ()
    stream = model.tokenizer.stream(before, request.shown) if model.tokenizer else None
    return Reader(stream, eos_of(model, request), request.stop, len(request.prompt), echo=request.echo)
