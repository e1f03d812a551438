"""Answers in the OpenAI dialect: from generation events to one JSON body or to a stream of server-sent events.

`stream` and `whole` do the work once; a dialect says what chat and completion bodies look like. A fault before the
first event is an ordinary error response; after it, an error event that ends the stream.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson
from aiohttp import web

from blyan.api.chat import generation
from blyan.api.errors import error_body, json_response
from blyan.inference.session import (
    Delta,
    Embedded,
    Event,
    Failed,
    Finished,
    GenerationRequest,
    TokenReport,
    answer_tokens_max,
)
from blyan.model.generate import Candidate
from blyan.model.loading import LoadedModel
from blyan.node.node import Node
from blyan.primitives.errors import Fault, InternalError
from blyan.wire.openai import AnswerOptions, ChatRequest, CompletionRequest

_log = logging.getLogger(__name__)


class Dialect(Protocol):
    """How one endpoint words its bodies."""

    options: AnswerOptions

    def opening(self) -> dict[str, Any] | None:
        """A chunk to send before the first event, if the dialect has one."""
        ...

    def piece(self, index: int, delta: Delta, finish: str | None) -> dict[str, Any]:
        """A streamed choice."""
        ...

    def choice(self, index: int, gathered: Gathered) -> dict[str, Any]:
        """A whole choice."""
        ...

    def envelope(self, *, chunk: bool) -> dict[str, Any]:
        """The body around choices."""
        ...


@dataclass(slots=True)
class Gathered:
    """All of one generation."""

    text: str = ""
    tokens: list[TokenReport] = field(default_factory=list[TokenReport])
    experts: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    finished: Finished | None = None

    def take(self, event: Delta | Finished) -> None:
        """Add one event."""
        if isinstance(event, Finished):
            self.finished = event
            return
        self.text += event.text
        self.tokens += event.tokens
        for layer, expert, count in event.experts:
            self.experts[layer, expert] = self.experts.get((layer, expert), 0) + count


async def whole(
    node: Node, model: LoadedModel, dialect: Dialect, wanted: Sequence[GenerationRequest]
) -> web.StreamResponse:
    """Run all generations and answer with one body."""
    _check_lengths(model, wanted)
    choices: list[dict[str, Any]] = []
    total = Gathered()
    finished: list[Finished] = []
    for index, request in enumerate(wanted):
        gathered = Gathered()
        async with generation(node.scheduler, model, request) as events:
            async for event in events:
                gathered.take(_unless_failed(event))
        assert gathered.finished is not None, "events end with Finished"
        finished.append(gathered.finished)
        total.take(Delta("", (), tuple((*place, count) for place, count in gathered.experts.items())))
        choice = dialect.choice(index, gathered)
        if dialect.options.return_token_ids:
            choice["token_ids"] = [report.token for report in gathered.tokens]
        choices.append(choice)
    body = dialect.envelope(chunk=False) | {"choices": choices, "usage": _usage(finished, dialect.options.choices)}
    if dialect.options.experts:
        body["blyan"] = {"experts": [[*place, count] for place, count in sorted(total.experts.items())]}
    return json_response(body)


async def stream(
    request: web.Request, node: Node, model: LoadedModel, dialect: Dialect, wanted: Sequence[GenerationRequest]
) -> web.StreamResponse:
    """Run all generations one after the other and send their events as they come."""
    _check_lengths(model, wanted)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    finished: list[Finished] = []

    async def send(body: dict[str, Any]) -> None:
        if not response.prepared:
            await response.prepare(request)
            opening = dialect.opening()
            if opening is not None:
                await send(dialect.envelope(chunk=True) | {"choices": [opening]} | _no_usage(dialect))
        await response.write(b"data: " + orjson.dumps(body) + b"\n\n")

    async def send_all() -> None:
        for index, one in enumerate(wanted):
            async with generation(node.scheduler, model, one) as events:
                async for event in events:
                    known = _unless_failed(event)
                    await send(_chunk(dialect, index, known))
                    if isinstance(known, Finished):
                        finished.append(known)
        if dialect.options.include_usage:
            await send(
                dialect.envelope(chunk=True) | {"choices": [], "usage": _usage(finished, dialect.options.choices)}
            )
        await response.write(b"data: [DONE]\n\n")

    try:
        await send_all()
    except ConnectionError:  # the caller left
        raise
    except Exception as reason:  # boundary of a begun response: a failure is its last event, never a second response
        if not response.prepared:
            raise
        if not isinstance(reason, Fault):
            _log.exception("a streamed answer failed")
        fault = reason if isinstance(reason, Fault) else InternalError(f"internal error: {type(reason).__name__}")
        await send(error_body(fault))
    await response.write_eof()
    return response


def _check_lengths(model: LoadedModel, wanted: Sequence[GenerationRequest]) -> None:
    """Refuse the last prompt before the first is computed."""
    for request in wanted:
        answer_tokens_max(model, request)


def _chunk(dialect: Dialect, index: int, event: Delta | Finished) -> dict[str, Any]:
    if isinstance(event, Finished):
        choice = dialect.piece(index, Delta("", (), ()), event.reason)
    else:
        choice = dialect.piece(index, event, None)
        if dialect.options.return_token_ids:
            choice["token_ids"] = [report.token for report in event.tokens]
    body = dialect.envelope(chunk=True) | {"choices": [choice]} | _no_usage(dialect)
    if dialect.options.experts and isinstance(event, Delta):
        body["blyan"] = {"experts": [list(used) for used in event.experts]}
    return body


def _no_usage(dialect: Dialect) -> dict[str, Any]:
    """With include_usage every chunk but the last carries a null usage, as the API reference says."""
    return {"usage": None} if dialect.options.include_usage else {}


def _unless_failed(event: Event) -> Delta | Finished:
    if isinstance(event, Failed):
        raise event.fault
    assert not isinstance(event, Embedded), "a generation's events"
    return event


def _usage(finished: Sequence[Finished], choices: int) -> dict[str, int]:
    """Tokens of all choices; a prompt with several answers counts once."""
    prompt = sum(one.prompt_tokens for one in finished[::choices])
    completion = sum(one.completion_tokens for one in finished)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class ChatDialect:
    """`chat.completion` bodies."""

    def __init__(self, asked: ChatRequest, model: LoadedModel, node: Node) -> None:
        self.options = asked.options
        self._asked = asked
        self._model = model
        self._id = f"chatcmpl-{node.sources.entropy(12).hex()}"
        self._created = node.sources.now()

    def opening(self) -> dict[str, Any] | None:
        """The role comes in a chunk of its own."""
        return {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

    def piece(self, index: int, delta: Delta, finish: str | None) -> dict[str, Any]:
        """A streamed choice."""
        content = {"content": delta.text} if finish is None else {}
        return {
            "index": index,
            "delta": content,
            "logprobs": self._logprobs(delta.tokens) if finish is None else None,
            "finish_reason": finish,
        }

    def choice(self, index: int, gathered: Gathered) -> dict[str, Any]:
        """A whole choice."""
        assert gathered.finished is not None, "called at the end"
        return {
            "index": index,
            "message": {"role": "assistant", "content": gathered.text, "refusal": None},
            "logprobs": self._logprobs(gathered.tokens),
            "finish_reason": gathered.finished.reason,
        }

    def envelope(self, *, chunk: bool) -> dict[str, Any]:
        """The body around choices."""
        return {
            "id": self._id,
            "object": "chat.completion.chunk" if chunk else "chat.completion",
            "created": self._created,
            "model": self._model.name,
        }

    def _logprobs(self, tokens: Sequence[TokenReport]) -> dict[str, Any] | None:
        if not self._asked.logprobs:
            return None
        return {
            "content": [
                self._named(report.token, report.logprob or 0.0)
                | {"top_logprobs": [self._named(candidate.token, candidate.logprob) for candidate in report.top]}
                for report in tokens
            ],
            "refusal": None,
        }

    def _named(self, token: int, logprob: float) -> dict[str, Any]:
        assert self._model.tokenizer is not None, "chat needs a tokenizer"
        raw = self._model.tokenizer.token_bytes(token)
        return {"token": raw.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(raw)}


class CompletionDialect:
    """`text_completion` bodies."""

    def __init__(self, asked: CompletionRequest, model: LoadedModel, node: Node) -> None:
        self.options = asked.options
        self._asked = asked
        self._model = model
        self._id = f"cmpl-{node.sources.entropy(12).hex()}"
        self._created = node.sources.now()

    def opening(self) -> dict[str, Any] | None:
        """None in this dialect."""
        return None

    def piece(self, index: int, delta: Delta, finish: str | None) -> dict[str, Any]:
        """A streamed choice."""
        return {
            "index": index,
            "text": delta.text,
            "logprobs": self._logprobs(delta.tokens) if delta.tokens else None,
            "finish_reason": finish,
        }

    def choice(self, index: int, gathered: Gathered) -> dict[str, Any]:
        """A whole choice."""
        assert gathered.finished is not None, "called at the end"
        return {
            "index": index,
            "text": gathered.text,
            "logprobs": self._logprobs(gathered.tokens),
            "finish_reason": gathered.finished.reason,
        }

    def envelope(self, *, chunk: bool) -> dict[str, Any]:
        """The body around choices; the same for both."""
        del chunk
        return {"id": self._id, "object": "text_completion", "created": self._created, "model": self._model.name}

    def _logprobs(self, tokens: Sequence[TokenReport]) -> dict[str, Any] | None:
        if self._asked.logprobs is None:
            return None
        return {
            "tokens": [self._token_text(report.token) for report in tokens],
            "token_logprobs": [report.logprob for report in tokens],
            "top_logprobs": [
                self._named_candidates(report.top) if report.logprob is not None else None for report in tokens
            ],
            "text_offset": [report.text_at for report in tokens],
        }

    def _named_candidates(self, candidates: Sequence[Candidate]) -> dict[str, float]:
        """By text, as the dialect has it; a second token of the same text goes by its id, so that none is lost."""
        named: dict[str, float] = {}
        for candidate in candidates:
            text = self._token_text(candidate.token)
            named[f"token_id:{candidate.token}" if text in named else text] = candidate.logprob
        return named

    def _token_text(self, token: int) -> str:
        """The token as text; bytes that are no whole characters as `bytes:\\x..`, ids where there is no tokenizer."""
        if self._asked.tokens_as_ids or self._model.tokenizer is None:
            return f"token_id:{token}"
        raw = self._model.tokenizer.token_bytes(token)
        if not raw:  # an id that the tokenizer does not name: vocabularies are padded
            return f"token_id:{token}"
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
