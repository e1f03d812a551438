"""Answers in the OpenAI dialect: from generation events to one JSON body or to a stream of server-sent events.

`stream` and `whole` do the work once; a dialect says what chat and completion bodies look like. A fault before the
first event is an ordinary error response; after it, an error event that ends the stream.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson
from aiohttp import web

from blyan.api.chat import fitting, generation
from blyan.api.errors import json_response, named_error_body
from blyan.api.events import Events
from blyan.api.metering import Meter, Usage, metered
from blyan.api.sending import send_piece
from blyan.api.turnstile import turn
from blyan.inference.reader import Delta, Finished, TokenReport
from blyan.inference.session import Embedded, Event, Failed, GenerationRequest, answer_tokens_max
from blyan.model.loading import LoadedModel
from blyan.node.node import Node
from blyan.primitives.errors import Fault, InternalError
from blyan.wire.fields import blaming
from blyan.wire.openai import AnswerOptions

_log = logging.getLogger(__name__)


class Dialect(Protocol):
    """How one endpoint words its bodies."""

    options: AnswerOptions
    prompt_field: str  # of the request, which is to blame for a prompt that does not fit

    def opening(self, index: int) -> dict[str, Any] | None:
        """A chunk to send before a choice's first event, if the dialect has one."""
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
    request: web.Request, node: Node, model: LoadedModel, dialect: Dialect, wanted: Sequence[GenerationRequest]
) -> web.StreamResponse:
    """Run all generations and answer with one body."""
    await turn()
    wanted = _fitting(node, model, dialect, wanted)
    options = dialect.options
    async with metered(request, node, model, wanted, choices=options.choices, quote=options.quote) as meter:
        return await _whole(node, model, dialect, wanted, meter)


async def _whole(
    node: Node, model: LoadedModel, dialect: Dialect, wanted: Sequence[GenerationRequest], meter: Meter
) -> web.StreamResponse:
    choices: list[dict[str, Any]] = []
    total = Gathered()
    finished: list[Finished] = []
    for index, gathered in enumerate(await _all(node, model, wanted)):
        assert gathered.finished is not None, "events end with Finished"
        finished.append(gathered.finished)
        total.take(Delta("", (), tuple((*place, count) for place, count in gathered.experts.items())))
        choice = dialect.choice(index, gathered)
        if dialect.options.return_token_ids:
            choice["token_ids"] = [report.token for report in gathered.tokens]
        choices.append(choice)
    for index, (choice, end) in enumerate(zip(choices, finished, strict=True)):  # all of them are there, or none is
        meter.said(index, choice)
        meter.delivered(index, end)
    usage = {**_usage(finished, dialect.options.choices), **await meter.settle()}
    body = dialect.envelope(chunk=False) | {"choices": choices, "usage": usage}
    if dialect.options.experts:
        body["blyan"] = {"experts": [[*place, count] for place, count in sorted(total.experts.items())]}
    return json_response(body)


async def _all(node: Node, model: LoadedModel, wanted: Sequence[GenerationRequest]) -> list[Gathered]:
    """All generations, computed together; the fault of the first that fails ends the others."""

    async def one(request: GenerationRequest) -> Gathered:
        gathered = Gathered()
        async with generation(node, model, request) as events:
            async for event in events:
                gathered.take(_unless_failed(event))
        return gathered

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(request)) for request in wanted]
    except ExceptionGroup as several:
        raise several.exceptions[0] from None
    return [task.result() for task in tasks]


@asynccontextmanager
async def _together(
    node: Node, model: LoadedModel, wanted: Sequence[GenerationRequest]
) -> AsyncGenerator[AsyncIterator[tuple[int, list[Event]]], None]:
    """Events of all generations with the number of theirs, as they come; leaving the context cancels what is left.

    All are submitted before the first event is given, or none: a full queue refuses the request as a whole.
    """
    ready: asyncio.Queue[tuple[int, list[Event] | BaseException]] = asyncio.Queue()

    async def forward(index: int, events: Events) -> None:
        async for batch in events.batches():
            ready.put_nowait((index, batch))

    def ended(task: asyncio.Task[None]) -> None:
        reason = None if task.cancelled() else task.exception()
        if reason is not None:
            ready.put_nowait((0, reason))

    async def merged() -> AsyncIterator[tuple[int, list[Event]]]:
        left = len(wanted)
        while left:
            index, batch = await ready.get()
            if isinstance(batch, BaseException):
                raise batch
            yield index, batch
            left -= isinstance(batch[-1], Finished | Failed)

    async def only(events: Events) -> AsyncIterator[tuple[int, list[Event]]]:
        async for batch in events.batches():
            yield 0, batch

    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(generation(node, model, one)) for one in wanted]
        if len(streams) == 1:
            yield only(streams[0])
            return
        tasks = [asyncio.create_task(forward(index, events)) for index, events in enumerate(streams)]
        for task in tasks:
            task.add_done_callback(ended)
        try:
            yield merged()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class _Streamed:
    """A streamed answer under way."""

    def __init__(
        self,
        request: web.Request,
        node: Node,
        model: LoadedModel,
        dialect: Dialect,
        wanted: Sequence[GenerationRequest],
    ) -> None:
        self._request, self._node, self._model = request, node, model
        self._dialect, self._options, self._wanted = dialect, dialect.options, wanted
        self._finished: dict[int, Finished] = {}
        self.response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"},
        )
        self._meter: Meter | None = None

    @property
    def cut(self) -> Usage:
        """What was charged before a fault ended it."""
        return {} if self._meter is None else self._meter.cut

    async def send(self, *bodies: dict[str, Any]) -> None:
        """Send events, after the headers and the opening of the first choice."""
        if not self.response.prepared:
            await self.response.prepare(self._request)
            await self._open(0)
        await send_piece(self._request, self.response, b"".join(map(_event, bodies)))

    async def send_all(self) -> None:
        """Everything to the end."""
        options = self._options
        charged = metered(
            self._request, self._node, self._model, self._wanted, choices=options.choices, quote=options.quote
        )
        async with charged as self._meter, _together(self._node, self._model, self._wanted) as batches:
            await self._send_answers(self._meter, batches)
        await send_piece(self._request, self.response, b"data: [DONE]\n\n")

    async def _send_answers(self, meter: Meter, batches: AsyncIterator[tuple[int, list[Event]]]) -> None:
        begun = {0}  # choices whose opening was sent, or is sent with the headers
        async for index, batch in batches:
            if index not in begun and not isinstance(batch[0], Failed):
                await self._open(index)
            begun.add(index)
            await self._send_batch(index, batch, meter)
            _unless_failed(batch[-1])
        if self._options.include_usage:
            in_order = [self._finished[index] for index in range(len(self._wanted))]
            usage = {**_usage(in_order, self._options.choices), **await meter.settle()}
            await self.send(self._dialect.envelope(chunk=True) | {"choices": [], "usage": usage})

    async def _send_batch(self, index: int, batch: Sequence[Event], meter: Meter) -> None:
        known = [event for event in batch if isinstance(event, Delta | Finished)]
        chunks = [_chunk(self._dialect, index, event) for event in known]
        if isinstance(batch[-1], Finished):
            self._finished[index] = batch[-1]
        if len(self._finished) < len(self._wanted) or self._options.include_usage:
            if chunks:
                await self.send(*chunks)
                _tell(meter, index, known, chunks)
            return
        *before, last = chunks
        if meter.charges and before:  # the end may wait for the books, what comes before it does not
            await self.send(*before)
        _tell(meter, index, known, chunks)
        usage = await meter.settle()
        if usage:
            last["blyan"] = {**last.get("blyan", {}), **usage}
        await self.send(*([last] if meter.charges else chunks))

    async def _open(self, index: int) -> None:
        opening = self._dialect.opening(index)
        if opening is not None:
            await self.send(self._dialect.envelope(chunk=True) | {"choices": [opening]} | _no_usage(self._dialect))
            if self._meter is not None:
                self._meter.opened(index)


async def stream(
    request: web.Request, node: Node, model: LoadedModel, dialect: Dialect, wanted: Sequence[GenerationRequest]
) -> web.StreamResponse:
    """Run all generations together and send their events as they come, those of one choice in their order."""
    await turn()
    answer = _Streamed(request, node, model, dialect, _fitting(node, model, dialect, wanted))
    try:
        await answer.send_all()
    except ConnectionError:  # the caller left
        raise
    except Exception as reason:  # boundary of a begun response: a failure is its last event, never a second response
        if not answer.response.prepared:
            raise
        if not isinstance(reason, Fault):
            _log.exception("a streamed answer failed")
        fault = reason if isinstance(reason, Fault) else InternalError(f"internal error: {type(reason).__name__}")
        await answer.send(named_error_body(fault) | ({"usage": answer.cut} if answer.cut else {}))
    await answer.response.write_eof()
    return answer.response


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


def _fitting(
    node: Node, model: LoadedModel, dialect: Dialect, wanted: Sequence[GenerationRequest]
) -> list[GenerationRequest]:
    """Refuse the last prompt before the first is computed, and anything is held; answers as long as they can be."""
    with blaming(dialect.prompt_field):
        for request in wanted:
            answer_tokens_max(model, request)
    return [fitting(node, model, request) for request in wanted]


def _tell(meter: Meter, index: int, events: Sequence[Delta | Finished], chunks: Sequence[Mapping[str, Any]]) -> None:
    """Let the meter know what is sent."""
    meter.delivered(index, *events)
    for chunk in chunks:
        meter.said(index, chunk["choices"][0])


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
