"""Asks another node for a whole generation, and goes on with the next one where that one is lost: the same tokens.

The asker keeps every token that was chosen. A lead that is gone, silent, wrong or unwilling is replaced by another,
which is given prompt and tokens so far; where none is left this node's own scheduler goes on, which asks for experts
where they are. Events are made here, of steps, as the scheduler's own are.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from blyan.inference.delegation import Delegate, again
from blyan.inference.delivery import Emit, Listener
from blyan.inference.expert_set import predict
from blyan.inference.expert_use import ExpertUse
from blyan.inference.leading import Lead, fields_of, received
from blyan.inference.leads import Leads
from blyan.inference.reader import Reader
from blyan.inference.session import Event, Failed, GenerationRequest, answer_tokens_max, eos_of, reader_of
from blyan.model.choosing import Step
from blyan.model.loading import LoadedModel
from blyan.network.link import Link
from blyan.network.measurements import Failure
from blyan.network.questions import LinkLost, NoAnswer, Refused
from blyan.network.streams import Inlet
from blyan.network.thread import NetworkThread
from blyan.primitives import limits
from blyan.primitives.clock import Entropy, Monotonic
from blyan.primitives.errors import Fault, InternalError, MalformedMessage, NotHeld, Overloaded, QueueFull
from blyan.primitives.ids import PublicKey
from blyan.wire.framing import Message
from blyan.wire.generation import Bounds, ChunkReader, Order, kind, nonce_bytes
from blyan.wire.peer import bits_of

_log = logging.getLogger(__name__)
_silence_s: Final = 0.15  # at least so long without a step, until a ping is sent
_silence_max_s: Final = 0.5
_silence_factor: Final = 2.5  # times what a step usually takes
_young: Final = 256.0  # positions: until so many were seen experts are asked for though nobody wants to be told


@dataclass(frozen=True, slots=True)
class DelegationOptions:
    """How long a lead is waited for that answers pings, and gives no steps."""

    first_seconds: float = 60.0
    prompt_seconds: float = 0.1  # more for each token that it has to read before the first step
    step_seconds: float = 15.0

    def patience(self, positions: int, *, first: bool) -> float:
        """Seconds until the next step, the first of a lead that has so many positions to read or one after it."""
        return self.first_seconds + self.prompt_seconds * positions if first else self.step_seconds


@dataclass(slots=True)
class DelegationCounters:
    """What happened since the start."""

    asked: int = 0  # orders sent to other nodes
    pings: int = 0  # sent because a lead was silent
    steps: int = 0  # that came
    failovers: int = 0  # another lead was asked to go on
    rejected: int = 0  # leads whose steps were none
    own: int = 0  # generations that this node ended by itself, as no lead was left


@dataclass(slots=True, eq=False)
class Delegation:
    """One generation that is delegated. `cancel` from any thread; events of earlier steps may still come."""

    model: LoadedModel
    request: GenerationRequest
    order: Order
    reader: Reader
    emit: Emit
    listener: Listener
    client: str
    usage: ExpertUse
    until: float  # by then it is of no use
    chosen: list[int] = field(default_factory=list[int])
    used: Counter[tuple[int, int]] = field(default_factory=Counter[tuple[int, int]])  # by layer and expert
    led: Counter[PublicKey] = field(default_factory=Counter[PublicKey])  # tokens, by whoever led them
    future: Future[None] | None = None

    def cancel(self) -> None:
        """Stop it, there and here."""
        assert self.future is not None, "begun"
        self.future.cancel()

    def learn(self, step: Step, now: float) -> None:
        """Which experts the prompt used, or the last token."""
        if not step.experts:
            return
        if self.chosen:
            self.usage.saw_token(self.chosen[-1], step.experts, now)
        else:
            self.usage.saw_prompt(step.experts, len(self.request.prompt), now)
        for layer, expert, count in step.experts:
            self.used[layer, expert] += count


class _Lost(Exception):
    """A lead is of no more use for this answer."""

    def __init__(self, why: Failure, reason: str) -> None:
        super().__init__(reason)
        self.why: Failure = why


@dataclass(slots=True, eq=False)
class Delegating:
    """`begin` from any thread; the rest happens in the network's loop."""

    thread: NetworkThread
    leads: Leads
    own: Lead
    usage: Callable[[LoadedModel], ExpertUse]
    monotonic: Monotonic
    entropy: Entropy
    options: DelegationOptions = field(default_factory=DelegationOptions)
    counters: DelegationCounters = field(default_factory=DelegationCounters)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _of: Counter[str] = field(default_factory=Counter[str])  # under way, by client; guarded by the lock

    def begin(
        self, model: LoadedModel, request: GenerationRequest, emit: Emit, *, client: str, listener: Listener
    ) -> Delegation:
        """Ask for a generation; events come as of the scheduler. `QueueFull`, `Overloaded` if too many are under way.

        The request is one that `delegable` says can be.
        """
        usage = self.usage(model)
        order = Order(
            model.manifest_id,
            request.prompt,
            fields_of(request.sampling),
            answer_tokens_max(model, request),
            eos=tuple(sorted(eos_of(model, request))),
            top=request.top,
            told=request.told,
            routed=request.routed or usage.positions(self.monotonic()) < _young,
            drafts=limits.draft_tokens_max,
        )
        until = self.monotonic() + limits.request_seconds_max
        made = Delegation(model, request, order, reader_of(model, request), emit, listener, client, usage, until)
        self._enter(client)  # the last that may fail, so that no place is lost
        running = self._run(made)
        try:
            made.future = self.thread.run(running)
        except BaseException:
            running.close()
            self._leave(client)
            raise
        made.future.add_done_callback(lambda done: self._ended(made, done))
        return made

    @property
    def under_way(self) -> int:
        """Generations that other nodes are asked for now."""
        with self._lock:
            return self._of.total()

    def _enter(self, client: str) -> None:
        with self._lock:
            if self._of[client] >= limits.generations_delegated_client_max:
                raise QueueFull(
                    f"generation: expected fewer than {limits.generations_delegated_client_max} of one client "
                    f"delegated, found {self._of[client]}",
                    hint="try again when others have ended",
                )
            if self._of.total() >= limits.generations_delegated_max:
                raise Overloaded(
                    f"generation: expected fewer than {limits.generations_delegated_max} delegated, found as many",
                    hint="try again in 5 s",
                    detail={"retry_after_seconds": 5},
                )
            self._of[client] += 1

    def _leave(self, client: str) -> None:
        with self._lock:
            self._of[client] -= 1
            if not self._of[client]:
                del self._of[client]

    def _ended(self, each: Delegation, done: Future[None]) -> None:
        self._leave(each.client)
        reason = None if done.cancelled() else done.exception()
        if reason is None:
            return
        if not isinstance(reason, Fault):
            _log.error("a delegated generation failed", exc_info=reason)
            reason = InternalError(f"generation failed: {type(reason).__name__}")
        _deliver(each, [Failed(reason)])

    async def _run(self, each: Delegation) -> None:
        """Ask one lead after the other, and then this node, until the answer is whole."""
        tried: set[PublicKey] = set()
        manifest = each.model.manifest_id
        while len(tried) < limits.leads_tried_max:
            seen = [(*place, count) for place, count in each.used.items()]
            predicted = predict(each.usage, each.request.prompt, self.monotonic(), seen)
            ranked = self.leads.ranked(manifest, predicted, tried)
            if not ranked:
                break
            best = (ranked if tried else again(ranked, self.leads.draw))[0]
            self.counters.failovers += bool(tried)
            tried.add(best.node)
            try:
                await self._asked(each, best, self._order(each, bits_of(frozenset(predicted.numbers))))
            except _Lost as lost:
                _log.info("lead %s is replaced: %s", best.node[:12], lost)
                self.leads.failed(best.node, lost.why, manifest)
                self.counters.rejected += lost.why == "corrupt"
            else:
                return
        self.counters.own += 1
        async with self.own.steps(each.model, self._order(each), each.client) as steps:
            while taken := await steps.next(limits.generation_chunk_steps_max):
                if self._take(each, taken):
                    return

    def _order(self, each: Delegation, expected: bytes = b"") -> Order:
        """What is left to do, as it is asked for now."""
        left = int((each.until - self.monotonic()) * 1000)
        return replace(
            each.order,
            chosen=tuple(each.chosen),
            milliseconds=max(1, min(left, int(limits.request_seconds_max * 1000))),
            nonce=self.entropy(nonce_bytes).hex(),
            expected=expected,
        )

    async def _asked(self, each: Delegation, lead: Delegate, order: Order) -> None:
        """The rest of the answer from one lead; `_Lost` says why it is not."""
        node = lead.node
        link = self.leads.link(node)
        if link is None:
            raise _Lost("lost", "expected a link, found none")
        config = each.model.manifest.config
        bounds = Bounds(config.vocab_size, frozenset(config.moe_layers), config.experts, config.experts_per_token)
        reader = ChunkReader(order, bounds)
        self.counters.asked += 1
        async with _blaming(self.leads, node), link.stream(kind, order.fields(), order.tensors()) as pieces:
            pace = self.leads.follow(node, order.model, len(order.prompt) + len(order.chosen), lead.calls)
            while True:
                patience = self.options.patience(len(order.prompt) + len(order.chosen), first=pace.first)
                chunk = await self._heard(link, node, pieces, patience, first=pace.first)
                if chunk is None:
                    raise MalformedMessage("generation: expected steps up to its end, found fewer")
                steps = reader.read(chunk)
                pace.came(len(steps), jitted=reader.jitted, waited_s=reader.waited_s)
                self.counters.steps += len(steps)
                if self._take(each, [received(step) for step in steps], node):
                    pace.over()
                    return

    async def _heard(
        self, link: Link, node: PublicKey, pieces: Inlet, seconds: float, *, first: bool
    ) -> Message | None:
        """The next piece; `LinkLost` if the lead is silent, and a ping is not answered either: nobody is to ask it.

        One that answers pings and gives no steps is waited for so many seconds and no longer: `NoAnswer`.
        """
        until = self.monotonic() + seconds
        usual = max(_silence_s, min(_silence_max_s, _silence_factor * self.leads.usual_step_s(node)))
        silence = min(usual, self.leads.first_look_s(node)) if first else usual
        piece = asyncio.ensure_future(pieces.next())
        try:
            while True:
                done, _ = await asyncio.wait({piece}, timeout=silence)
                if done:
                    return piece.result()
                if self.monotonic() > until:
                    raise NoAnswer(f"expected a step in {seconds:g} s, found none")
                silence = usual
                self.counters.pings += 1
                pong = asyncio.ensure_future(link.request("ping", {}, seconds=self.leads.pong_s(node)))
                try:
                    await asyncio.wait({piece, pong}, return_when=asyncio.FIRST_COMPLETED)
                    if not piece.done():
                        pong.result()
                except NoAnswer as reason:
                    raise LinkLost(reason.message) from None
                finally:
                    pong.cancel()
                    await asyncio.wait({pong})
        finally:
            piece.cancel()

    def _take(self, each: Delegation, steps: Sequence[Step], node: PublicKey | None = None) -> bool:
        """Steps came, of `node` unless they are our own: pass on what they say; whether the answer is whole."""
        events = list[Event]()
        stopped = over = False
        for step in steps:
            each.learn(step, self.monotonic())
            each.chosen.append(step.token)
            if node is not None:  # here: what comes after a stop is no part of the answer
                each.led[node] += 1
            event = each.reader.feed(step if each.request.routed else step._replace(experts=()))
            if event is not None:
                events.append(event)
            stopped = each.reader.stopped or step.token in each.order.eos
            over = stopped or len(each.chosen) == each.order.tokens_max
            if over:
                events.extend(each.reader.end(stopped=stopped))
                break
        if events:
            _deliver(each, events)
        return over


def delegable(request: GenerationRequest, tokens_max: int) -> bool:
    """Whether another node can be asked for an answer.

    What follows a grammar cannot, nor what tells of the prompt's own tokens, nor what is too long for a message.
    """
    return (
        request.grammar is None
        and not request.echo
        and tokens_max > 0
        and len(request.prompt) + tokens_max <= limits.generation_tokens_max
    )


@asynccontextmanager
async def _blaming(leads: Leads, node: PublicKey) -> AsyncGenerator[None, None]:
    """Whatever a lead does wrong as `_Lost`."""
    leads.began(node)
    try:
        yield
    except MalformedMessage as reason:
        raise _Lost("corrupt", reason.message) from None
    except Refused as reason:
        raise _Lost("not_held" if reason.said == NotHeld.code else "refused", reason.message) from None
    except NoAnswer as reason:
        raise _Lost("timeout", reason.message) from None
    except LinkLost as reason:
        raise _Lost("lost", reason.message) from None
    finally:
        leads.ended(node)


def _deliver(each: Delegation, events: Sequence[Event]) -> None:
    """Hand events over; who listened may be gone."""
    try:
        each.listener.deliver([(each.emit, event) for event in events])
    except RuntimeError:  # the event loop that listened was closed
        if each.future is not None:
            each.future.cancel()
