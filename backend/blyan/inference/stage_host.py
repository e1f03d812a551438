"""Computes a range of a model's layers for leads: calls in order, and outputs straight on their way.

One thread computes, few calls may wait for it; what is done sooner than a thread would begin with it is computed in
the network's loop. Nobody waits for a call to be taken: its lead is told of what went wrong, and looks where it is
(`stage_leases`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch

from blyan.inference.expert_host import bytes_of
from blyan.inference.head_in_turn import MakeHead, plain_head
from blyan.inference.job import attempted
from blyan.inference.layers_in_turn import MakeLayers
from blyan.inference.quick_work import QuickWork
from blyan.inference.stage_carrying import Carrying
from blyan.inference.stage_ends import tokens_of
from blyan.inference.stage_leases import Find, Lease, Leases
from blyan.inference.stage_passing import Passing
from blyan.inference.stage_telling import Telling
from blyan.inference.stage_turns import Given, Held
from blyan.model.stepping import Stretch
from blyan.network.answers import Prompt
from blyan.network.link import Link
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import Busy, Denied, Fault, InvalidInput, NotHeld
from blyan.primitives.ids import PublicKey
from blyan.wire.framing import Message
from blyan.wire.stage_call import Passed, StageCall, fault_of, kind, parse_call
from blyan.wire.stage_draws import kind as drawn_kind
from blyan.wire.stage_draws import parse_drawn
from blyan.wire.stage_lease import close_kind, look_kind, open_kind

_log = logging.getLogger(__name__)
_sweep_seconds: Final = 5.0
_quick_seconds: Final = 0.0015  # what is computed in the network's loop itself
_news: Final = 0.2  # weight of the last call


@dataclass(slots=True)
class StageCounters:
    """What was computed for leads since the start."""

    calls: int = 0
    rows: int = 0
    drawn: int = 0  # tokens
    refused: int = 0
    seconds: float = 0.0


class StageHost:
    """`handlers` are for links. `find` says which model a manifest is, `link` gives an open link to a node."""

    def __init__(
        self,
        find: Find,
        link: Callable[[PublicKey], Link | None],
        make: MakeLayers,
        kv_bytes: int,
        monotonic: Monotonic,
        allow: Callable[[PublicKey, int], bool],
        quick: QuickWork | None = None,
        make_head: MakeHead = plain_head,
    ) -> None:
        """`kv_bytes`: for the pages of all leases together. `allow`: whether a lead may have so many rows computed.

        `quick`: what is computed in the loop, of others too. `make_head`: who scores where tokens are drawn here.
        """
        self._quick = QuickWork() if quick is None else quick
        self._allow, self._monotonic = allow, monotonic
        self._thread = ThreadPoolExecutor(1, "blyan-stage")
        self.leases = Leases(find, make, make_head, kv_bytes, monotonic, self._let_go)
        self.handlers = {
            open_kind: self.leases.opened,
            close_kind: self.leases.closed,
            look_kind: self.leases.looked,
            kind: Prompt(self._begin),
            drawn_kind: Prompt(self._drawn),
        }
        self._carrying = Carrying()
        self._telling = Telling(link)
        self._passing = Passing(self._telling, monotonic, self._go_on)
        self.queue = 0  # calls that the thread has, or that wait for it
        self.counters = StageCounters()

    async def run(self) -> None:
        """End leases whose leads are silent, until it is cancelled."""
        while True:
            await asyncio.sleep(_sweep_seconds)
            self.leases.sweep()

    def close(self) -> None:
        """Compute no more."""
        for lease in self.leases:
            self.leases.end(lease)
        self._thread.shutdown(wait=True)

    def _let_go(self, lease: Lease) -> None:
        self._carrying.call_off(lease)
        self._thread.submit(lease.close)

    def _begin(self, link: Link, message: Message) -> Message | Callable[[], Awaitable[Message]]:
        """The handler of `stage`: computes a call, and sends its outputs to the next stage or the lead.

        Calls are taken in the order in which they come.
        """
        call, passed = parse_call(message)
        try:
            lease = self._taken(link.peer.node, call, passed)
        except Denied:
            raise  # of whoever else knows the session: the lead is not to be troubled by him
        except Fault as reason:
            whose = self._whose(reason, link)
            if self._telling.now(call, fault_of(call, reason.code, reason.message, whose)):
                raise  # also if who sent it calls it off
            return partial(self._refused, call, reason, whose)
        lease.under_way += 1
        if lease.turns.came(call):
            carried = self._carried(lease, call, passed, lease.turns.hold(call, passed, self._monotonic()))
            self._go_on(lease)
            return carried
        if not self._is_quick(lease, call):
            return self._carried(lease, call, passed, self._by_thread(lease, call, passed))
        given = self._now(lease, call, passed)
        if given is not None:
            return self._carried(lease, call, passed, _known(given))
        lease.under_way -= 1
        return Message({}, ())

    def _drawn(self, link: Link, message: Message) -> Message:
        """The handler of `stage_drawn`: the tokens for which a call waits, or one that will come."""
        drawn = parse_drawn(message)
        lease = self.leases.find_open(drawn.session)
        lease.ends.want_tokens(drawn.tokens)
        lease.turns.told(link.peer.node, drawn)
        self._go_on(lease)
        return Message({}, ())

    def _go_on(self, lease: Lease) -> None:
        """With calls whose tokens are there."""
        for held in lease.turns.ready():
            if self._is_quick(lease, held.call):
                held.given.set_result(self._now(lease, held.call, held.passed))
            else:
                self.queue += 1
                self._thread.submit(self._in_thread, asyncio.get_running_loop(), lease, held)

    def _in_thread(self, loop: asyncio.AbstractEventLoop, lease: Lease, held: Held) -> None:
        """What is given is known in as many turns of the loop as that of other calls: all leave in their order."""
        given = _outcome(self._compute, lease, held.call, held.passed)

        def known() -> None:
            self.queue -= 1
            if not held.given.done():
                held.given.set_result(given)

        with suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(known)

    def _now(self, lease: Lease, call: StageCall, passed: Passed) -> Given:
        """Compute in this turn of the loop, and pass on; what is left to pass on if that could not be done."""
        with self._quick.timed(self._monotonic):
            given = _outcome(self._compute, lease, call, passed)
        return None if isinstance(given, Passed) and self._passing.now(lease, call, given) else given

    async def _refused(self, call: StageCall, reason: Fault, whose: str) -> Message:
        await self._telling.lead(call, fault_of(call, reason.code, reason.message, whose))
        raise reason

    def _whose(self, reason: Fault, link: Link) -> str:
        """Who sent what does not fit, whether it is changed on its way or never was right; nobody for what is ours."""
        return link.peer.node if isinstance(reason, InvalidInput) else ""

    def _taken(self, sender: PublicKey, call: StageCall, passed: Passed) -> Lease:
        """The lease of a call, which counts from now on; a fault for one that is not meant for it, or too many."""
        lease = self.leases.find_open(call.session)
        lease.want(sender, call, passed)
        try:
            lease.turns.want_place()
            self._carrying.want_room(lease.lead, call.bytes + passed.size)
            if not self._allow(lease.lead, call.count * lease.rows):
                raise Busy("stage calls: expected fewer rows a minute of one lead, found more")
        except Busy:
            self.counters.refused += 1
            raise
        lease.number, lease.heard = call.number, self._monotonic()
        return lease

    def _is_quick(self, lease: Lease, call: StageCall) -> bool:
        """Whether it is computed about as soon as a thread would begin with it, and nothing goes before it."""
        if self.queue or self._quick.over or lease.under_way > 1:
            return False
        expected = lease.expected_s(call)
        return expected is not None and expected <= _quick_seconds

    def _by_thread(self, lease: Lease, call: StageCall, passed: Passed) -> asyncio.Future[Given]:
        self.queue += 1
        loop = asyncio.get_running_loop()
        computing: asyncio.Future[Given] = loop.run_in_executor(
            self._thread, _outcome, self._compute, lease, call, passed
        )
        computing.add_done_callback(self._left)
        return computing

    def _left(self, _done: object) -> None:
        self.queue -= 1

    def _carried(
        self, lease: Lease, call: StageCall, passed: Passed, computing: asyncio.Future[Given]
    ) -> Callable[[], Awaitable[Message]]:
        """Pass on what is computed: by a task of its own, which ends as it began whoever else is called off."""
        carrying = asyncio.ensure_future(self._passing.after(lease, call, computing))
        self._carrying.begin(carrying, lease, call.bytes + passed.size)

        def over(_done: object) -> None:
            lease.under_way -= 1

        carrying.add_done_callback(over)
        return partial(_nothing_after, carrying)

    @torch.inference_mode()
    def _compute(self, lease: Lease, call: StageCall, passed: Passed) -> Passed:
        if not lease.open:
            raise NotHeld("stage call: expected a session with a lease here, found it ended")
        settled, began = lease.layers.settled, self._monotonic()
        if call.given == "tokens":
            lease.ends.want_tokens(passed.tokens)
            if len(passed.tokens) != 4 * call.count:
                raise InvalidInput(f"stage call: expected tokens of {call.count} runs that were drawn, found others")
            hidden = lease.ends.embedded(passed.tokens)
        else:
            hidden = torch.frombuffer(bytearray(passed.hidden), dtype=lease.model.dtype).view(call.count, call.width)
        runs = [Stretch(run.rows, run.start, run.pages, run.reach) for run in call.runs]
        given, experts = lease.layers.current().through(hidden, runs)
        chosen = passed.chosen + experts.astype("<u2").tobytes()
        through = self._monotonic() - began
        draws = call.draws and not call.route
        result = Passed(b"", chosen, lease.ends.drawn(call, given)) if draws else Passed(bytes_of(given), chosen)
        seconds, count = self._monotonic() - began, sum(token >= 0 for token in tokens_of(result.tokens))
        self.counters.calls += 1
        self.counters.rows += call.count
        self.counters.drawn += count
        self.counters.seconds += seconds
        if settled:
            lease.row_seconds = _mean(lease.row_seconds, through / call.count)
            if count:
                lease.draw_seconds = _mean(lease.draw_seconds, (seconds - through) / count)
        return result


def _mean(usual: float | None, found: float) -> float:
    return found if usual is None else usual + _news * (found - usual)


async def _nothing_after(carrying: asyncio.Future[None]) -> Message:
    await asyncio.shield(carrying)
    return Message({}, ())


def _known(given: Given) -> asyncio.Future[Given]:
    found: asyncio.Future[Given] = asyncio.get_running_loop().create_future()
    found.set_result(given)
    return found


def _outcome(
    compute: Callable[[Lease, StageCall, Passed], Passed], lease: Lease, call: StageCall, passed: Passed
) -> Given:
    """What computing gave, or raised."""
    given: list[Passed] = []
    reason = attempted(lambda: given.append(compute(lease, call, passed)))
    return given[0] if reason is None else reason
