"""A generation that this node leads: it computes what an order says with its own scheduler, and hands out the steps.

For the loop that asks, whoever wants the answer: another node (`delegate_host`), or this one where all others failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from blyan.inference.decoding import decode
from blyan.inference.delivery import LoopListener
from blyan.inference.drafting import Drafter
from blyan.inference.engine_table import Computing
from blyan.inference.needs import Answer, Need
from blyan.inference.reader import Delta, Finished, TokenReport
from blyan.inference.scheduler import Scheduler
from blyan.inference.session import Event, Failed, GenerationRequest, Work, answer_tokens_max
from blyan.model.choosing import Candidate, Choice, Step
from blyan.model.loading import LoadedModel
from blyan.model.sampling import Sampling
from blyan.primitives import limits
from blyan.primitives.errors import Busy, Fault
from blyan.wire.generation import Order, SamplingFields, SentStep


def sampling_of(fields: SamplingFields) -> Sampling:
    """As it is computed with; `InvalidInput` for what is out of range."""
    return Sampling(
        temperature=fields.temperature,
        top_p=fields.top_p,
        top_k=fields.top_k,
        seed=fields.seed,
        min_p=fields.min_p,
        frequency_penalty=fields.frequency_penalty,
        presence_penalty=fields.presence_penalty,
        repetition_penalty=fields.repetition_penalty,
        logit_bias=fields.logit_bias,
    )


def fields_of(sampling: Sampling) -> SamplingFields:
    """As it is sent."""
    return SamplingFields(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        frequency_penalty=sampling.frequency_penalty,
        presence_penalty=sampling.presence_penalty,
        repetition_penalty=sampling.repetition_penalty,
        top_k=sampling.top_k,
        seed=sampling.seed,
        logit_bias=sampling.logit_bias,
    )


def steps_work(model: LoadedModel, order: Order, drafts_max: int) -> Work:
    """Needs, and one event for each step, without text; a fault becomes `Failed`, the last event."""
    try:
        sampling = sampling_of(order.sampling)
        request = GenerationRequest(order.prompt, sampling, order.tokens_max)
        answer_tokens_max(model, request)
        choice = Choice(sampling, order.tokens_max, frozenset(order.eos), order.top, order.told)
        drafts = min(drafts_max, order.drafts)
        drafter = Drafter(order.prompt, drafts) if drafts else None
        steps = decode(order.prompt, choice, drafter=drafter, routed=order.routed, chosen=order.chosen)
        answer: Answer | None = None
        count = len(order.chosen)
        while True:
            try:
                item = steps.send(answer)
            except StopIteration as end:
                yield Finished("stop" if end.value else "length", len(order.prompt), count)
                return
            answer = None
            if isinstance(item, Need):
                answer = yield item
                continue
            count += 1
            yield Delta("", (TokenReport(item.token, item.logprob, item.top, 0),), item.experts)
    except Fault as fault:
        yield Failed(fault)


def sent(step: Step) -> SentStep:
    """A step as it goes over the wire."""
    return SentStep(step.token, step.logprob, tuple((each.token, each.logprob) for each in step.top), step.experts)


def received(step: SentStep) -> Step:
    """A step as it came."""
    return Step(step.token, step.logprob, tuple(Candidate(*each) for each in step.top), step.experts)


@dataclass(slots=True, eq=False)
class LedSteps:
    """The steps of one generation as they come, for one reader in the loop."""

    ended: Callable[[], None] = lambda: None  # told when it is of no more use
    _here: list[Step] = field(default_factory=list[Step])
    _waiting: int = 0  # numbers of what is here: tokens, candidates, experts
    _end: Finished | Fault | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, event: Event) -> None:
        """One more event, in the loop. A reader that stands still ends it: nothing is taken out of its midst."""
        if self._end is not None:
            return
        if isinstance(event, Delta):
            report = event.tokens[0]
            self._here.append(Step(report.token, report.logprob, report.top, event.experts))
            self._waiting += 1 + len(report.top) + len(event.experts)
            if len(self._here) > limits.generation_backlog_steps_max or self._waiting > limits.generation_backlog_max:
                self._here.clear()
                self._end = Busy("generation: expected its steps to be taken, found too many that wait")
                self.ended()
        elif isinstance(event, Finished | Failed):
            self._end = event.fault if isinstance(event, Failed) else event
        self._news.set()

    async def next(self, most: int) -> list[Step]:
        """All steps that are there, at least one and so many at most; none at the end. Raises its fault."""
        while not self._here:
            if isinstance(self._end, Fault):
                raise self._end
            if self._end is not None:
                return []
            self._news.clear()
            await self._news.wait()
        taken, self._here = self._here[:most], self._here[most:]
        self._waiting -= sum(1 + len(step.top) + len(step.experts) for step in taken)
        return taken


class Lead:
    """This node's scheduler, as one that is asked for steps."""

    def __init__(self, scheduler: Scheduler, drafts_max: Callable[[], int]) -> None:
        self._scheduler, self._drafts_max = scheduler, drafts_max
        self._listener: LoopListener | None = None

    def computing(self, model: LoadedModel) -> Computing:
        """By which code it computes a model now, and how long that waited so far."""
        return self._scheduler.engines.computing(model)

    @asynccontextmanager
    async def steps(self, model: LoadedModel, order: Order, client: str) -> AsyncGenerator[LedSteps, None]:
        """The steps of an order; leaving the context ends what is left. `QueueFull`, `Overloaded`, `Unavailable`."""
        loop = asyncio.get_running_loop()
        if self._listener is None or self._listener.loop is not loop:
            self._listener = LoopListener(loop)
        led = LedSteps()
        work = steps_work(model, order, self._drafts_max())
        ticket = self._scheduler.submit(model, work, led.put, client=client, listener=self._listener)
        led.ended = ticket.cancel
        try:
            yield led
        finally:
            ticket.cancel()
