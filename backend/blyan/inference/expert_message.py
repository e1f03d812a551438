"""One message of expert calls to one node: sent, waited for, checked, and what came of it told. For the network's loop.

An answer counts if it is the answer to this very call, of the right shape and finite.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from blyan.inference.expert_host import bytes_of
from blyan.inference.plan import CallSpec, ExpertPlan
from blyan.model.experts import ExpertCall
from blyan.network.link import Link
from blyan.network.measurements import Failure
from blyan.network.questions import LinkLost, NoAnswer, Question, Refused
from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import Fault, MalformedMessage, NotHeld
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.storage import tensor_block
from blyan.wire.expert_call import Activations, ExpertBatch, kind, packed, read_answer
from blyan.wire.framing import WireTensor, are_finite


class Nodes(Protocol):
    """What the executor needs of the network. For the network's loop."""

    def plan(self, model: PayloadId, calls: Sequence[CallSpec], without: frozenset[PublicKey]) -> ExpertPlan:
        """Who is asked for what, leaving some nodes out."""
        ...

    def link(self, node: PublicKey) -> Link | None:
        """An open link to a node."""
        ...

    def moving_s(self, node: PublicKey, count: int) -> float:
        """Seconds beyond an ordinary call's that so many bytes there and back may take; 0 for few."""
        ...

    def proven(self, node: PublicKey) -> bool:
        """Whether enough of its answers held for it to be no newcomer."""
        ...

    def may_hedge(self) -> bool:
        """Whether one more message may be sent for speed alone."""
        ...

    def may_replace(self) -> bool:
        """Whether one more message may be sent at once in place of one that failed, and was one in such a place."""
        ...

    def began(self, node: PublicKey, rows: int) -> None:
        """A message was sent to it: `answered`, `failed` or `dropped` tells what came of it."""
        ...

    def answered(self, node: PublicKey, model: PayloadId, calls: Sequence[CallSpec], seconds: float, sent: int) -> None:
        """It gave a good answer; so many bytes there and back."""
        ...

    def outrun(self, node: PublicKey, rows: int, seconds: float) -> None:
        """Another answered first, after this one had so many seconds."""
        ...

    def dropped(self, node: PublicKey, rows: int) -> None:
        """A message is not waited for any more."""
        ...

    def failed(self, node: PublicKey, kind: Failure, rows: int) -> None:
        """It gave no answer, or none that is one."""
        ...

    def not_held(self, node: PublicKey, model: PayloadId, calls: Sequence[CallSpec]) -> None:
        """It said that it does not hold something of what it was asked for."""
        ...


@dataclass(frozen=True, slots=True)
class ExecutorOptions:
    """How calls go out."""

    activations: Activations = "exact"
    call_seconds: float = 10.0  # for one layer's calls, everything included


@dataclass(slots=True)
class ExecutorCounters:
    """What happened since the start."""

    messages: int = 0
    hedges: int = 0
    failovers: int = 0
    held_up: int = 0  # of these: that waited, for too many had failed
    rejected: int = 0  # answers that were none


@dataclass(frozen=True, slots=True)
class CallsAsked:
    """Calls of one layer of one model, and by when."""

    model: PayloadId
    calls: Sequence[ExpertCall]
    specs: Sequence[CallSpec]
    until: float
    cut: bool = False  # there is less time than a node may take: being late is not its fault
    replaced: set[int] = field(default_factory=set[int])  # calls for which another node was asked once


class Sender(Protocol):
    """Who sends messages."""

    @property
    def nodes(self) -> Nodes:
        """Where what came of each is told."""
        ...

    @property
    def monotonic(self) -> Monotonic:
        """The clock."""
        ...

    @property
    def options(self) -> ExecutorOptions:
        """How calls go out."""
        ...

    @property
    def counters(self) -> ExecutorCounters:
        """What happens is counted here."""
        ...


class ExpertMessage:
    """`send` first. As a context: whoever leaves it waits no longer, and what came is told, once.

    A `trial` that nobody waits for is listened to all the same until its time is over: a node that is well, only
    slower than its replica, is never asked again unless that is heard.
    """

    def __init__(
        self, link: Link, asked: CallsAsked, indices: Sequence[int], sender: Sender, *, trial: bool = False
    ) -> None:
        self._link, self._asked, self._indices, self._sender = link, asked, indices, sender
        self._node = link.peer.node
        self._specs = [asked.specs[index] for index in indices]
        self._rows = sum(spec.rows for spec in self._specs)
        self._question: Question | None = None
        self._told = self._left = False
        self._trial = trial
        self.waits = False

    def send_now(self, nonce: bytes) -> bool:
        """Send it; False if it cannot be, which is told, or `waits`: then another one is to be sent with patience."""
        if self._left_now(nonce):
            return True
        if not self._told:
            self.waits = self._told = True
            self._sender.nodes.dropped(self._node, self._rows)
        return False

    async def send(self, patience: float, nonce: bytes) -> bool:
        """Send it, waiting at most so long for it to leave; False, and that is told, if it cannot be sent."""
        if self._left_now(nonce):
            return True
        if self._told:
            return False
        try:
            self._question = await self._link.ask(kind, self._batch.fields(), (self._call,), patience=patience)
        except LinkLost:
            self._failed("lost")
            return False
        except BaseException:
            self._leave()
            raise
        return True

    def _left_now(self, nonce: bytes) -> bool:
        fields = self._packed(nonce)
        try:
            self._question = self._link.ask_now(kind, fields, (self._call,))
        except LinkLost:
            self._failed("lost")
        except BaseException:
            self._leave()
            raise
        return self._question is not None

    def _packed(self, nonce: bytes) -> dict[str, Any]:
        calls = [self._asked.calls[index] for index in self._indices]
        hidden = calls[0].hidden if len(calls) == 1 else torch.cat([call.hidden for call in calls])
        self._hidden = hidden
        self._began = self._sender.monotonic()
        seconds = self._asked.until - self._began
        self._batch = ExpertBatch(
            self._asked.model,
            self._specs[0].layer,
            tuple([spec.expert for spec in self._specs]),
            tuple([spec.rows for spec in self._specs]),
            hidden.shape[1],
            tensor_block.dtype_names[hidden.dtype],
            self._sender.options.activations,
            max(1, min(int(seconds * 1000), int(limits.request_seconds_max * 1000))),
            nonce.hex(),
        )
        self._call: WireTensor = packed(self._batch, bytes_of(hidden))
        self._sender.nodes.began(self._node, self._rows)
        return self._batch.fields()

    def then(self, tell: Callable[[], None]) -> None:
        """Call this when it is settled, in the very turn of the loop."""
        assert self._question is not None, "it was sent"
        self._question.then = tell

    def drop(self) -> None:
        """Nobody waits for it any more, if somebody still did."""
        if not self._left:
            with self:
                pass

    @property
    def is_settled(self) -> bool:
        """Whether an answer came, or none can."""
        return self._question is not None and self._question.is_settled

    @property
    def until(self) -> float:
        """When its answer is of no more use."""
        return self._asked.until

    @property
    def silent_s(self) -> float:
        """Seconds in which the node said nothing at all, since it was sent."""
        return self._sender.monotonic() - max(self._began, self._link.heard)

    async def settled(self, until: float) -> bool:
        """Wait for that, at most until then."""
        assert self._question is not None, "it was sent"
        return await self._question.settled(until - self._sender.monotonic())

    def answer(self) -> dict[int, Tensor | Fault] | None:
        """The outputs by index; None, and the reason is told, if it gave none that are some, in time."""
        assert self._question is not None, "it was sent"
        try:
            data = read_answer(self._batch, self._call, self._question.answer())
            rows = torch.frombuffer(bytearray(data), dtype=self._hidden.dtype).view(self._hidden.shape)
            if not are_finite(self._batch.dtype, data):
                raise MalformedMessage("expert answer: expected finite numbers, found others")
        except MalformedMessage:
            self._sender.counters.rejected += 1
            self._failed("corrupt")
        except Refused as reason:
            self._refused(reason)
        except NoAnswer:
            if self._asked.cut:
                self._told = True
                self._sender.nodes.dropped(self._node, self._rows)
            else:
                self._failed("timeout")
        except LinkLost:
            self._failed("lost")
        else:
            self._told = True
            seconds = self._sender.monotonic() - self._began
            nodes, sent = self._sender.nodes, 2 * self._batch.data_bytes
            nodes.answered(self._node, self._asked.model, self._specs, seconds, sent)
            if len(self._indices) == 1:
                return {self._indices[0]: rows}
            return dict(zip(self._indices, torch.split(rows, list(self._batch.rows)), strict=True))
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._question is not None, "it was sent"
        self._left = True
        if self._trial and not self._told:
            self._listen(self._question)
            return
        self._link.forget(self._question)
        if not self._told:
            self._leave()

    def _listen(self, question: Question) -> None:
        """Tell what comes of it, when it comes or its time is over."""

        def over() -> None:
            timer.cancel()
            question.then = None
            self._link.forget(question)
            self.answer()

        timer = asyncio.get_running_loop().call_later(max(0.0, self.until - self._sender.monotonic()), over)
        question.then = over
        if question.is_settled:
            over()

    def _leave(self) -> None:
        """Nobody waits for it any more, for no fault of the node."""
        self._told = True
        nodes = self._sender.nodes
        nodes.outrun(self._node, self._rows, self._sender.monotonic() - self._began)
        nodes.dropped(self._node, self._rows)

    def _failed(self, why: Failure) -> None:
        self._told = True
        self._sender.nodes.failed(self._node, why, self._rows)

    def _refused(self, reason: Refused) -> None:
        lacks = reason.said == NotHeld.code
        self._failed("not_held" if lacks else "refused")
        if lacks:
            named: object = reason.about.get("experts")
            lacking = [spec for spec in self._specs if isinstance(named, list) and spec.expert in named]
            self._sender.nodes.not_held(self._node, self._asked.model, lacking or self._specs)
