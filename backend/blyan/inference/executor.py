"""Carries a plan out: expert calls of one layer to the nodes that hold the experts, and their answers back in order.

One message a node, all at once. A node that is slow for what it was is hedged by another replica; one that fails is
replaced. An answer is taken if it is the answer to this very call, of the right shape and finite; nothing else is ever
computed with. Where no live node holds an expert it is waited for, a while, and then refused.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

import torch
from torch import Tensor

from blyan.inference.expert_host import bytes_of
from blyan.inference.plan import CallSpec, ExpertPlan
from blyan.model.experts import ExpertCall
from blyan.network.link import Link, LinkLost, NoAnswer, Refused
from blyan.network.measurements import Failure
from blyan.network.thread import NetworkThread
from blyan.primitives import limits
from blyan.primitives.clock import Entropy, Monotonic
from blyan.primitives.errors import ExpertUnavailable, Fault, MalformedMessage, NotHeld
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.storage import tensor_block
from blyan.wire.expert_call import Activations, ExpertBatch, kind, nonce_bytes, packed, read_answer

_look_seconds: Final = 0.05  # between two looks for a node that holds an expert
_again_seconds: Final = 0.5  # before a call goes out again, beyond the budget
_stuck_seconds: Final = 0.5  # at least so late is a call that is replaced without a budget for it
_stuck_factor: Final = 4.0  # and so many times as late as one that is hedged


class Nodes(Protocol):
    """What the executor needs of the network. For the network's loop."""

    def plan(self, model: PayloadId, calls: Sequence[CallSpec], without: frozenset[PublicKey]) -> ExpertPlan:
        """Who is asked for what, leaving some nodes out."""
        ...

    def link(self, node: PublicKey) -> Link | None:
        """An open link to a node."""
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
class _Asked:
    """Calls of one layer of one model, and by when."""

    model: PayloadId
    calls: Sequence[ExpertCall]
    specs: Sequence[CallSpec]
    until: float
    cut: bool = False  # there is less time than a node may take: being late is not its fault
    replaced: set[int] = field(default_factory=set[int])  # calls for which another node was asked once


_Name: TypeAlias = tuple[PayloadId, int, int]  # model, layer, expert


def _name(asked: _Asked, index: int) -> _Name:
    spec = asked.specs[index]
    return asked.model, spec.layer, spec.expert


def _pieces(call: ExpertCall) -> list[ExpertCall]:
    """A call in as many as it takes for each to fit into a message."""
    rows = int(1 / _share(call.hidden[:1]))
    if call.hidden.shape[0] <= rows:
        return [call]
    return [ExpertCall(call.layer, call.expert, piece) for piece in torch.split(call.hidden, rows)]


def _joined(outputs: Sequence[Tensor | Fault]) -> Tensor | Fault:
    """The output of a call of those of its pieces."""
    given = [each for each in outputs if not isinstance(each, Fault)]
    if len(given) < len(outputs):
        return next(each for each in outputs if isinstance(each, Fault))
    return given[0] if len(given) == 1 else torch.cat(given)


def _messages(asked: _Asked, indices: Sequence[int]) -> list[list[int]]:
    """Calls of one node in as many messages as their rows take: mostly one."""
    messages: list[list[int]] = []
    full = 1.0
    for index in indices:
        share = _share(asked.calls[index].hidden)
        full += share
        if full > 1 or len(messages[-1]) >= limits.expert_calls_max:
            messages.append([])
            full = share
        messages[-1].append(index)
    return messages


def _share(hidden: Tensor) -> float:
    """Of what fits into one message; half of a frame is for its header."""
    rows = hidden.shape[0]
    return max(rows / limits.expert_rows_max, hidden.nbytes / (limits.link_frame_bytes_max // 2))


@dataclass(slots=True, eq=False)
class Executor:
    """`begin` from the compute thread; the rest happens in the network's."""

    thread: NetworkThread
    nodes: Nodes
    monotonic: Monotonic
    entropy: Entropy
    options: ExecutorOptions = field(default_factory=ExecutorOptions)
    counters: ExecutorCounters = field(default_factory=ExecutorCounters)
    _lacked: dict[_Name, float] = field(default_factory=dict["_Name", float])  # since when nobody can be asked

    def begin(
        self, model: PayloadId, calls: Sequence[ExpertCall], until: float = math.inf
    ) -> Future[list[Tensor | Fault]]:
        """Ask for the outputs [n, hidden] of calls of one layer, in order; a fault where there is none in time.

        `until`: when they are of no more use, if that is sooner. Who cancels the future calls them off at their nodes.
        """
        pieces = [_pieces(call) for call in calls]
        each = [piece for parts in pieces for piece in parts]
        specs = [CallSpec(call.layer, call.expert, call.hidden.shape[0]) for call in each]
        last = self.monotonic() + self.options.call_seconds
        asked = _Asked(model, each, specs, min(last, until), cut=until < last)
        return self.thread.run(self._gather(asked, [len(parts) for parts in pieces]))

    async def _gather(self, asked: _Asked, counts: Sequence[int]) -> list[Tensor | Fault]:
        found = await self._resolved(asked, range(len(asked.calls)), frozenset())
        indices = iter(range(len(asked.calls)))
        return [_joined([found[next(indices)] for _ in range(count)]) for count in counts]

    async def _resolved(
        self, asked: _Asked, indices: Sequence[int], without: frozenset[PublicKey]
    ) -> dict[int, Tensor | Fault]:
        """The outputs of some of the calls, by index, from any nodes but those left out."""
        made = self.nodes.plan(asked.model, [asked.specs[index] for index in indices], without)
        for index in [indices[place] for each in made.assignments for place in each.calls] if self._lacked else ():
            self._lacked.pop(_name(asked, index), None)
        tasks = [
            asyncio.ensure_future(self._assigned(asked, together, each.node, made.hedge_after[each.node], without))
            for each in made.assignments
            for together in _messages(asked, [indices[place] for place in each.calls])
        ]
        if made.missing:
            tasks.append(asyncio.ensure_future(self._awaited(asked, [indices[place] for place in made.missing])))
        if len(tasks) == 1:
            return await tasks[0]
        found: dict[int, Tensor | Fault] = {}
        for each in await asyncio.gather(*tasks):
            found.update(each)
        return found

    async def _awaited(self, asked: _Asked, indices: Sequence[int]) -> dict[int, Tensor | Fault]:
        """No node is left for these: look again, also for those that failed, until the time is over.

        It began when the first who asked found nobody: what is gone for long does not hold up each new request, nor
        the others in its step.
        """
        found: dict[int, Tensor | Fault] = {}
        waiting: list[int] = []
        now = self.monotonic()
        for index in indices:
            since = self._lacked.setdefault(_name(asked, index), now)
            if now + _look_seconds < min(asked.until, since + self.options.call_seconds):
                waiting.append(index)
            else:
                found[index] = _unavailable(asked.specs[index], self.options.call_seconds)
        if waiting:
            await asyncio.sleep(_look_seconds)
            if not asked.replaced.isdisjoint(waiting):  # not only nobody was there: some failed
                await self._paced(asked, waiting)
            found.update(await self._resolved(asked, waiting, frozenset()))
        return found

    async def _assigned(
        self,
        asked: _Asked,
        indices: Sequence[int],
        node: PublicKey,
        hedge_after: float,
        without: frozenset[PublicKey],
    ) -> dict[int, Tensor | Fault]:
        """What one node was to give: by it, or by others."""
        began = self.monotonic()
        first = asyncio.ensure_future(self._called(asked, indices, node))
        others = without | {node}
        try:
            await asyncio.wait({first}, timeout=min(hedge_after, max(0.0, asked.until - began)))
            if not first.done() and self._has_replicas(asked, indices, others):
                if not self.nodes.may_hedge():  # too many were sent twice: only what seems to be stuck is now
                    stuck = max(_stuck_seconds, _stuck_factor * hedge_after)
                    await asyncio.wait({first}, timeout=max(0.0, min(began + stuck, asked.until) - self.monotonic()))
                if not first.done():
                    return await self._hedged(asked, indices, first, others)
            answer = await first
        except BaseException:
            first.cancel()
            raise
        if answer is not None:
            return answer
        self.counters.failovers += 1
        if not asked.replaced.isdisjoint(indices):
            await self._paced(asked, indices)
        asked.replaced.update(indices)
        return await self._resolved(asked, indices, others)

    async def _paced(self, asked: _Asked, indices: Sequence[int]) -> None:
        """Before a call is sent a third time or more: at once within the budget, later beyond it.

        So the death of one node costs no wait, whoever else died lately, and a swarm that fails is not flooded.
        """
        left = asked.until - self.monotonic()
        if left > 0 and not self.nodes.may_replace():
            self.counters.held_up += 1
            await asyncio.sleep(min(_again_seconds, left))
        asked.replaced.update(indices)

    def _has_replicas(self, asked: _Asked, indices: Sequence[int], others: frozenset[PublicKey]) -> bool:
        return not self.nodes.plan(asked.model, [asked.specs[index] for index in indices], others).missing

    async def _hedged(
        self,
        asked: _Asked,
        indices: Sequence[int],
        first: asyncio.Future[dict[int, Tensor | Fault] | None],
        others: frozenset[PublicKey],
    ) -> dict[int, Tensor | Fault]:
        """Whoever answers first, the node or its replicas."""
        self.counters.hedges += 1
        second = asyncio.ensure_future(self._resolved(asked, indices, others))
        try:
            await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
            if first.done() and (answer := first.result()) is not None:
                return answer
            found = await second
            if not first.done() and any(isinstance(each, Fault) for each in found.values()):
                return await first or found
            return found
        finally:
            first.cancel()
            second.cancel()

    async def _called(self, asked: _Asked, indices: Sequence[int], node: PublicKey) -> dict[int, Tensor | Fault] | None:
        """A node's answer; None, and the reason is noted, if it gave none that is one."""
        link = self.nodes.link(node)
        seconds = asked.until - self.monotonic()
        if link is None or seconds <= 0:
            if seconds > 0:
                self.nodes.failed(node, "lost", 0)
            return None
        calls = [asked.calls[index] for index in indices]
        specs = [asked.specs[index] for index in indices]
        hidden = calls[0].hidden if len(calls) == 1 else torch.cat([call.hidden for call in calls])
        dtype = tensor_block.dtype_names[hidden.dtype]
        batch = ExpertBatch(
            asked.model,
            specs[0].layer,
            tuple(spec.expert for spec in specs),
            tuple(spec.rows for spec in specs),
            hidden.shape[1],
            dtype,
            self.options.activations,
            max(1, min(int(seconds * 1000), int(limits.request_seconds_max * 1000))),
            self.entropy(nonce_bytes).hex(),
        )
        call = packed(batch, bytes_of(hidden))
        self.counters.messages += 1
        began = self.monotonic()
        self.nodes.began(node, batch.count)
        try:
            message = await link.request(kind, batch.fields(), (call,), seconds=seconds)
            data = read_answer(batch, call, message)
            rows = torch.frombuffer(bytearray(data), dtype=hidden.dtype).view(hidden.shape)
            if not bool(torch.isfinite(rows).all()):
                raise MalformedMessage("expert answer: expected finite numbers, found others")
        except asyncio.CancelledError:
            self.nodes.outrun(node, batch.count, self.monotonic() - began)
            self.nodes.dropped(node, batch.count)
            raise
        except MalformedMessage:
            self.counters.rejected += 1
            self.nodes.failed(node, "corrupt", batch.count)
            return None
        except Refused as reason:
            self.nodes.failed(node, "not_held" if reason.said == NotHeld.code else "refused", batch.count)
            if reason.said == NotHeld.code:
                named: object = reason.about.get("experts")
                lacking = [spec for spec in specs if isinstance(named, list) and spec.expert in named]
                self.nodes.not_held(node, asked.model, lacking or specs)
            return None
        except NoAnswer:
            if asked.cut:
                self.nodes.dropped(node, batch.count)
            else:
                self.nodes.failed(node, "timeout", batch.count)
            return None
        except LinkLost:
            self.nodes.failed(node, "lost", batch.count)
            return None
        self.nodes.answered(node, asked.model, specs, self.monotonic() - began, 2 * batch.data_bytes)
        return dict(zip(indices, torch.split(rows, list(batch.rows)), strict=True))


def _unavailable(spec: CallSpec, seconds: float) -> Fault:
    return ExpertUnavailable(
        f"layer {spec.layer} expert {spec.expert}: expected a node that holds it to answer in {seconds:g} s, "
        "found none",
        detail={"layer": spec.layer, "expert": spec.expert},
        hint="`blyan node peers` shows which nodes are there; ask again when one that holds it is back",
    )
