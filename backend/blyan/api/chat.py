"""Running one generation for a request: submit it, pass its events on, cancel it when the caller goes.

What all generations of a request cost together is charged around them (`api/metering`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol
from weakref import WeakKeyDictionary

from blyan.api.charging import within_quotas
from blyan.api.client import client_of_trace
from blyan.api.counting import GenerationCount, counted
from blyan.api.events import Events
from blyan.inference.delivery import Emit, LoopListener
from blyan.inference.embedding import embed, want_embeddable
from blyan.inference.engine_table import too_long_for_memory
from blyan.inference.session import Embedded, Event, Failed, GenerationRequest, answer_tokens_max
from blyan.model.loading import LoadedModel
from blyan.model.sampling import Sampling
from blyan.model.stepping import PlanName
from blyan.node.course import Begun, Course
from blyan.node.node import Node
from blyan.node.tracing import current_trace
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, Unavailable
from blyan.wire.fields import naming_parameter
from blyan.wire.openai import AnswerOptions


def sampling_of(options: AnswerOptions, model: LoadedModel, node: Node) -> Sampling:
    """The request's sampling, with the model's defaults where it says nothing and a fresh seed if it names none."""
    defaults, more = model.manifest.generation, model.manifest.defaults
    seed = more.seed if options.seed is None else options.seed

    def or_default(asked: float | None, default: float) -> float:
        return default if asked is None else asked

    vocabulary = model.manifest.config.vocab_size
    with naming_parameter():
        beyond = next((token for token, _ in options.logit_bias if token >= vocabulary), None)
        if beyond is not None:
            raise InvalidInput(f"logit_bias: expected token ids from 0 to {vocabulary - 1}, found {beyond}")
        return Sampling(
            temperature=or_default(options.temperature, defaults.temperature),
            top_p=or_default(options.top_p, defaults.top_p),
            top_k=defaults.top_k if options.top_k is None else options.top_k,
            seed=int.from_bytes(node.sources.entropy(6), "big") if seed is None else seed,
            min_p=or_default(options.min_p, more.min_p),
            frequency_penalty=or_default(options.frequency_penalty, more.frequency_penalty),
            presence_penalty=or_default(options.presence_penalty, more.presence_penalty),
            repetition_penalty=or_default(options.repetition_penalty, more.repetition_penalty),
            logit_bias=options.logit_bias,
        )


async def model_named(node: Node, name: str) -> LoadedModel:
    """The model of a request; `NotFound`, or the reason why it is refused, which may take a look at the disk."""
    return node.model_at_once(name) or await asyncio.to_thread(node.model, name)


@asynccontextmanager
async def generation(node: Node, model: LoadedModel, request: GenerationRequest) -> AsyncGenerator[Events, None]:
    """Events of one generation, the last one `Finished` or `Failed`; leaving the context cancels what is left.

    Checks lengths before it queues. What it took and gave is counted when the context is left.
    """
    request = fitting(node, model, request)
    with counted(node.metrics, node.sources.monotonic, echoed=len(request.prompt) if request.echo else 0) as count:
        answer = answer_tokens_max(model, request)
        most = len(request.prompt) + answer
        async with (
            _planned(node, model, request, answer, count) as expected,
            within_quotas(node, most, lambda: _computed(count, len(request.prompt))),
            _submitted(node, partial(_begun, node, model, request, expected), count.passed) as events,
        ):
            yield events


async def embedding(node: Node, model: LoadedModel, tokens: Sequence[int]) -> Embedded:
    """One vector; cancelled when the caller goes."""
    want_embeddable(model, tokens)
    most = node.scheduler.engines.positions_max(model)
    if len(tokens) >= most:
        raise too_long_for_memory(most, len(tokens))
    with counted(node.metrics, node.sources.monotonic) as count:
        async with (
            within_quotas(node, len(tokens), lambda: count.prompt_tokens),
            _submitted(node, partial(node.scheduler.submit, model, embed(model, tokens)), count.passed) as events,
        ):
            async for event in events:
                if isinstance(event, Embedded):
                    return event
                if isinstance(event, Failed):
                    raise event.fault
    raise Unavailable("embedding: expected a vector, found none")


class Begin(Protocol):
    """Begins something whose events are passed on."""

    def __call__(self, emit: Emit, *, client: str, listener: LoopListener, until: float) -> Begun:
        """What is begun."""
        ...


@dataclass(slots=True)
class _Expected:
    """The plans for a generation, the best first, and the way that it went."""

    plans: tuple[PlanName, ...] = ()
    course: Course | None = None


def _begun(
    node: Node,
    model: LoadedModel,
    request: GenerationRequest,
    expected: _Expected,
    emit: Emit,
    *,
    client: str,
    listener: LoopListener,
    until: float,
) -> Course:
    """Begin it, for its receipt too."""
    course = node.answering.begin(model, request, expected.plans, emit, client=client, listener=listener, until=until)
    expected.course = course
    trace = current_trace()
    if trace is not None:
        trace.courses.append(course)
    return course


@asynccontextmanager
async def _planned(
    node: Node, model: LoadedModel, request: GenerationRequest, answer: int, count: GenerationCount
) -> AsyncGenerator[_Expected]:
    """The plan for a generation, and how well it was predicted. Prompts that are given back are no measure."""
    expected = _Expected()
    if request.echo or not answer:
        yield expected
        return
    planning, engines = node.planning, node.scheduler.engines
    standing = (engines.standing(model, request.prompt), engines.standing(model, request.prompt, staged=True))
    shape = planning.shape(len(request.prompt), answer, sum(node.scheduler.depth()), standing)
    without = node.answering.excluded(model, request)
    planned = await planning.choose(model.manifest_id, model.manifest.config, shape, without)
    expected.plans = planned.decision.order
    yield expected
    course = expected.course
    if course is not None and course.turned:
        planning.turned(planned, course.plan)
        return
    if count.outcome in ("stop", "length") and count.first is not None and count.last is not None:
        planning.ended(planned, count.completion_tokens, count.first - count.began, count.last - count.first)


@asynccontextmanager
async def _submitted(node: Node, begin: Begin, seen: Callable[[Sequence[Event]], None]) -> AsyncGenerator[Events, None]:
    """Events as they come; `Failed` if they have not ended at the deadline."""
    loop = asyncio.get_running_loop()
    events = Events(loop, seen)
    late = Failed(Unavailable(f"generation: expected an end within {limits.request_seconds_max:g} s"))
    until = node.sources.monotonic() + limits.request_seconds_max
    ticket = begin(events.put, client=client_of_trace(), listener=_listener_of(node, loop), until=until)
    deadline = loop.call_later(limits.request_seconds_max, events.put, late)  # one timer, not one for each token
    try:
        yield events
    finally:
        deadline.cancel()
        ticket.cancel()


def _computed(count: GenerationCount, prompt: int) -> int:
    """Tokens that a generation cost: also who leaves early has had the prompt read, and who was failed pays nothing."""
    return 0 if count.outcome.startswith("failed") else prompt + count.completion_tokens


def fitting(node: Node, model: LoadedModel, request: GenerationRequest) -> GenerationRequest:
    """The request with an answer that memory for keys and values can hold; a fault if it cannot hold the prompt."""
    wanted, prompt = answer_tokens_max(model, request), len(request.prompt)
    most = node.scheduler.engines.positions_max(model) - 1
    if prompt >= most:
        raise too_long_for_memory(most + 1, prompt)
    return request if prompt + wanted <= most else replace(request, tokens_max=most - prompt)


_listeners: Final[WeakKeyDictionary[Node, LoopListener]] = WeakKeyDictionary()


def _listener_of(node: Node, loop: asyncio.AbstractEventLoop) -> LoopListener:
    """One for all requests of a node's loop, so that the events of a step come together."""
    found = _listeners.get(node)
    if found is None or found.loop is not loop:
        found = _listeners[node] = LoopListener(loop)
    return found
