"""Carries a plan out: expert calls of one layer to the nodes that hold the experts, and their answers back in order.

One message a node, all at once. A node that is slow for what it was is hedged by another replica; one that fails is
replaced. An answer is taken if it is the answer to this very call, of the right shape and finite; nothing else is ever
computed with. Where no live node holds an expert it is waited for, a while, and then refused.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TypeAlias

from torch import Tensor

from blyan.inference.call_pieces import bytes_moved, joined, messages_of, pieces_of
from blyan.inference.expert_message import CallsAsked, ExecutorCounters, ExecutorOptions, ExpertMessage, Nodes
from blyan.inference.expert_round import Due, Round
from blyan.inference.hedging import Asking, Outputs, either
from blyan.inference.plan import CallSpec
from blyan.inference.turns import Turn, Work, in_turns
from blyan.model.experts import ExpertCall
from blyan.network.thread import NetworkThread
from blyan.primitives import limits
from blyan.primitives.clock import Entropy, Monotonic
from blyan.primitives.errors import ExpertUnavailable, Fault
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.wire.expert_call import nonce_bytes

_look_seconds: Final = 0.05  # between two looks for a node that holds an expert
_again_seconds: Final = 0.5  # before a call goes out again, beyond the budget
_stuck_seconds: Final = 0.5  # at least so late is a call that is replaced without a budget for it
_silent_seconds: Final = 2.0  # of a node that is sent much, and pings: then it is taken for gone
_stuck_factor: Final = 4.0  # and so many times as late as one that is hedged


_Name: TypeAlias = tuple[PayloadId, int, int]  # model, layer, expert


def _name(asked: CallsAsked, index: int) -> _Name:
    spec = asked.specs[index]
    return asked.model, spec.layer, spec.expert


@dataclass(slots=True, eq=False)
class _Lacks:
    """Experts for which nobody could be asked."""

    known: dict[_Name, tuple[float, float]]  # since when, and when it was wanted last

    def since(self, name: _Name, now: float, seconds: float) -> float:
        """Since when that is so of one that is wanted now; what nobody wanted for so many seconds begins anew."""
        since, wanted = self.known.get(name, (now, now))
        if now - wanted > seconds:
            since = now
        self.known[name] = since, now
        return since


@dataclass(slots=True, eq=False)
class Executor:
    """`begin` from the compute thread; the rest happens in the network's."""

    thread: NetworkThread
    nodes: Nodes
    monotonic: Monotonic
    entropy: Entropy
    options: ExecutorOptions = field(default_factory=ExecutorOptions)
    counters: ExecutorCounters = field(default_factory=ExecutorCounters)
    _lacked: _Lacks = field(default_factory=lambda: _Lacks({}))

    def begin(
        self, model: PayloadId, calls: Sequence[ExpertCall], until: float = math.inf
    ) -> Future[list[Tensor | Fault]]:
        """Ask for the outputs [n, hidden] of calls of one layer, in order; a fault where there is none in time.

        There is more time where much has to be sent. `until`: when they are of no more use, if that is sooner. Who
        cancels the future calls them off at their nodes.
        """
        pieces = [pieces_of(call) for call in calls]
        each = [piece for parts in pieces for piece in parts]
        specs = [CallSpec(call.layer, call.expert, call.hidden.shape[0]) for call in each]
        moved = 2 * sum(call.hidden.nbytes for call in calls) / limits.link_bytes_per_second
        last = self.monotonic() + self.options.call_seconds + moved
        asked = CallsAsked(model, each, specs, min(last, until), cut=until < last)
        return self.thread.promise(_Beginning(self, asked, [len(parts) for parts in pieces]).begin)

    async def _resolved(self, asked: CallsAsked, indices: Sequence[int], without: frozenset[PublicKey]) -> Outputs:
        """The outputs of some of the calls, by index, from any nodes but those left out."""
        return await self.carried_out(asked, Turn({}, *self.dues(asked, indices, without), without))

    def dues(
        self, asked: CallsAsked, indices: Sequence[int], without: frozenset[PublicKey]
    ) -> tuple[list[Due], list[int]]:
        """Who is to give what of these calls, and for which there is nobody."""
        made = self.nodes.plan(asked.model, [asked.specs[index] for index in indices], without)
        for index in (
            [indices[place] for each in made.assignments for place in each.calls] if self._lacked.known else ()
        ):
            self._lacked.known.pop(_name(asked, index), None)
        dues: list[Due] = []
        for each in made.assignments:
            mine = [indices[place] for place in each.calls]
            moving = self.nodes.moving_s(each.node, 2 * bytes_moved(asked, mine))
            late = made.hedge_after[each.node] + moving
            patient = moving > 0 and self.nodes.proven(each.node)
            trial = each.node in made.probes
            dues += [Due(each.node, together, late, patient, trial=trial) for together in messages_of(asked, mine)]
        return dues, [indices[place] for place in made.missing]

    async def carried_out(self, asked: CallsAsked, begun: Turn) -> Outputs:
        """All of it, whatever happens to it on the way."""
        return begun.found | await in_turns(self._work(asked, begun), partial(self._work, asked))

    def _work(self, asked: CallsAsked, turn: Turn) -> Iterator[Work]:
        for due in turn.dues:
            yield self._assigned(asked, due, turn.without)
        if turn.missing:
            yield self._awaited(asked, turn.missing)

    async def _awaited(self, asked: CallsAsked, indices: Sequence[int]) -> Turn:
        """No node is left for these: look again, also for those that failed, until there is one or the time is over.

        It began when the first who asked found nobody: what is gone for long does not hold up each new request, nor
        the others in its step.
        """
        found: Outputs = {}
        dues: Sequence[Due] = ()
        missing = indices
        while missing and not dues:
            waiting: list[int] = []
            now = self.monotonic()
            for index in missing:
                since = self._lacked.since(_name(asked, index), now, self.options.call_seconds)
                if now + _look_seconds < min(asked.until, since + self.options.call_seconds):
                    waiting.append(index)
                else:
                    found[index] = _unavailable(asked.specs[index], self.options.call_seconds)
            if not waiting:
                break
            await asyncio.sleep(_look_seconds)
            if not asked.replaced.isdisjoint(waiting):  # not only nobody was there: some failed
                await self._paced(asked, waiting)
            dues, missing = self.dues(asked, waiting, frozenset())
        return Turn(found, dues, missing if dues else ())

    async def _assigned(self, asked: CallsAsked, due: Due, without: frozenset[PublicKey]) -> Turn:
        """What one node was to give, or that others are to give it."""
        others = without | {due.node}
        if not due.tried:
            await self._send(asked, due)
        if due.sent is not None:
            with due.sent as sent:
                late = min(due.began + due.hedge_after, asked.until)
                if not await self._settled(sent, late, due) and (spare := self._spare(asked, due.indices, others)):
                    # too many were sent twice, or a part is of use only if the rest never comes: if it seems stuck
                    if len(spare) < len(due.indices) or not self.nodes.may_hedge():
                        stuck = max(_stuck_seconds, _stuck_factor * due.hedge_after)
                        await sent.settled(due.began + min(stuck, (asked.until - due.began) / 2))
                    if not sent.is_settled:
                        return Turn(await self._hedged(asked, due, spare, sent, others))
                await sent.settled(asked.until)
                answer = sent.answer()
            if answer is not None:
                return Turn(answer)
        return await self._replaced(asked, due.indices, others)

    async def _settled(self, sent: ExpertMessage, late: float, due: Due) -> bool:
        """Wait until then; for more than an ordinary call's bytes half of the time, if the node says anything at all.

        What takes its time on the way would take it to another too, and twice as much on this node's own way out. That
        a node did answer before is why one thinks so: a newcomer is not waited for.
        """
        last = (due.began + sent.until) / 2
        while not await sent.settled(late):
            if not due.patient or sent.silent_s > _silent_seconds or self.monotonic() >= last:
                return False
            late = min(self.monotonic() + _silent_seconds / 8, max(last, late))
        return True

    async def _replaced(self, asked: CallsAsked, indices: Sequence[int], others: frozenset[PublicKey]) -> Turn:
        """What a node failed to give is to come from another than these."""
        self.counters.failovers += 1
        if not asked.replaced.isdisjoint(indices):
            await self._paced(asked, indices)
        asked.replaced.update(indices)
        return Turn({}, *self.dues(asked, indices, others), others)

    def send_now(self, asked: CallsAsked, due: Due) -> None:
        """Send it if it does not have to wait; what cannot be sent at all is noted, and not tried again."""
        message = self._message(asked, due)
        if message is None:
            return
        due.began = self.monotonic()
        if message.send_now(self.entropy(nonce_bytes)):
            due.sent = message
        due.tried = not message.waits
        self.counters.messages -= message.waits

    async def _send(self, asked: CallsAsked, due: Due) -> None:
        """Send it, or note why it cannot be sent."""
        message = self._message(asked, due)
        if message is None:
            return
        due.began, due.tried = self.monotonic(), True
        patience = min(due.hedge_after, asked.until - due.began)
        if await message.send(patience, self.entropy(nonce_bytes)):
            due.sent = message

    def _message(self, asked: CallsAsked, due: Due) -> ExpertMessage | None:
        link = self.nodes.link(due.node)
        seconds = asked.until - self.monotonic()
        if link is None or seconds <= 0:
            due.tried = True
            if seconds > 0:
                self.nodes.failed(due.node, "lost", 0)
            return None
        self.counters.messages += 1
        return ExpertMessage(link, asked, due.indices, self, trial=due.trial)

    async def _waited(self, sent: ExpertMessage, until: float) -> Outputs | None:
        await sent.settled(until)
        return sent.answer()

    async def _paced(self, asked: CallsAsked, indices: Sequence[int]) -> None:
        """Before a call is sent a third time or more: at once within the budget, later beyond it.

        So the death of one node costs no wait, whoever else died lately, and a swarm that fails is not flooded.
        """
        left = asked.until - self.monotonic()
        if left > 0 and not self.nodes.may_replace():
            self.counters.held_up += 1
            await asyncio.sleep(min(_again_seconds, left))
        asked.replaced.update(indices)

    def _spare(self, asked: CallsAsked, indices: Sequence[int], others: frozenset[PublicKey]) -> list[int]:
        """Those that a node can give which is none of these."""
        made = self.nodes.plan(asked.model, [asked.specs[index] for index in indices], others)
        return [index for place, index in enumerate(indices) if place not in made.missing]

    async def _hedged(
        self,
        asked: CallsAsked,
        due: Due,
        spare: Sequence[int],
        sent: ExpertMessage,
        others: frozenset[PublicKey],
    ) -> Outputs:
        """Whoever answers first, the node or replicas of what others have too; the rest only it can give."""
        self.counters.hedges += 1
        rest = [index for index in due.indices if index not in spare]
        once_more = Turn(dues=[replace(due, indices=rest, tried=True, sent=None)], without=others)
        again = partial(self.carried_out, asked, once_more) if rest else None
        return await either(self._waited(sent, asked.until), self._resolved(asked, spare, others), again)


@dataclass(slots=True, eq=False)
class _Beginning:
    """The way of calls that were just asked for: sent at once, and a task only where something is not as it should be.

    Implements `expert_round.Ends`.
    """

    executor: Executor
    asked: CallsAsked
    counts: Sequence[int]  # pieces of each call
    dues: list[Due] = field(default_factory=list[Due])
    promised: Future[list[Tensor | Fault]] = field(default_factory=Future[list["Tensor | Fault"]])

    def begin(self, promised: Future[list[Tensor | Fault]]) -> None:
        """Send them."""
        self.promised = promised
        if promised.cancelled():
            return
        begun = False
        try:
            executor, asked = self.executor, self.asked
            self.dues, missing = executor.dues(asked, range(len(asked.calls)), frozenset())
            for due in self.dues:
                executor.send_now(asked, due)
            if self.dues and not missing and all(due.sent for due in self.dues):
                first = min(due.began + due.hedge_after for due in self.dues)
                seconds = min(first, asked.until) - executor.monotonic()
                self._unless_cancelled(Round(self.dues, seconds, self).leave)
            else:
                self._go_on(executor.carried_out(asked, Turn({}, self.dues, missing)))
            begun = True
        finally:
            if not begun:  # a mistake of ours, which the loop says: nobody is to wait for it
                promised.cancel()

    def given(self, found: Outputs) -> None:
        """All outputs."""
        if self.promised.set_running_or_notify_cancel():
            indices = iter(range(len(self.asked.calls)))
            self.promised.set_result([joined([found[next(indices)] for _ in range(count)]) for count in self.counts])

    def late(self) -> None:
        """Some did not answer yet."""
        self._go_on(self.executor.carried_out(self.asked, Turn({}, self.dues)))

    def failed(self, dues: Sequence[Due], found: Outputs) -> None:
        """Some answered nothing that counts."""
        for due in dues:
            due.sent = None
        self._go_on(self.executor.carried_out(self.asked, Turn(found, dues)))

    def _go_on(self, work: Asking) -> None:
        """By a task from here on."""
        task = asyncio.get_running_loop().create_task(work)

        def over(done: asyncio.Task[Outputs]) -> None:
            reason = None if done.cancelled() else done.exception()
            if done.cancelled():
                for due in self.dues:  # of which some may have been sent, and their part of the work not have begun
                    if due.sent is not None:
                        due.sent.drop()
                self.promised.cancel()
            elif reason is None:
                self.given(done.result())
            elif self.promised.set_running_or_notify_cancel():
                self.promised.set_exception(reason)

        task.add_done_callback(over)
        self._unless_cancelled(task.cancel)

    def _unless_cancelled(self, leave: Callable[[], object]) -> None:
        """Whoever asked may give it up, in the thread that asked."""
        loop = asyncio.get_running_loop()

        def over(promised: Future[list[Tensor | Fault]]) -> None:
            if promised.cancelled() and not loop.is_closed():
                loop.call_soon_threadsafe(leave)

        self.promised.add_done_callback(over)


def _unavailable(spec: CallSpec, seconds: float) -> Fault:
    return ExpertUnavailable(
        f"layer {spec.layer} expert {spec.expert}: expected a node that holds it to answer in {seconds:g} s, "
        "found none",
        detail={"layer": spec.layer, "expert": spec.expert},
        hint="`blyan node peers` shows which nodes are there; ask again when one that holds it is back",
    )
