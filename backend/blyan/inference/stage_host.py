"""Computes a range of a model's layers for leads: leases of pages, calls in order, and outputs straight on their way.

One thread computes, few calls may wait for it. A lease ends when its lead says so, is silent for long, or has begun
anew; what it took is free then. Everything but the computing is in the network's loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import torch

from blyan.inference.expert_host import bytes_of
from blyan.model.stage_step import OfferLayers, StagedModel
from blyan.model.stepping import KVPages, LayerStepper, Stretch, page_positions
from blyan.network.link import Link
from blyan.network.questions import LinkLost, NoAnswer, Refused
from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import Busy, Denied, Fault, InternalError, InvalidInput, NotHeld
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.storage import tensor_block
from blyan.wire.framing import Message
from blyan.wire.stage_call import (
    Passed,
    StageCall,
    StageOpen,
    close_kind,
    end_kind,
    end_of,
    fault_of,
    kind,
    message_of,
    open_kind,
    parse_call,
    parse_open,
)

_log = logging.getLogger(__name__)
_sweep_seconds: Final = 5.0
_late_seconds: Final = 0.4  # at least so late is a stage that does not say that it took a call
_late_factor: Final = 4.0
_unmeasured_seconds: Final = 1.0
_boot_chars: Final = 16  # of a session: they tell one process of a lead from another

MakeLayers: TypeAlias = Callable[[StagedModel, KVPages, range, OfferLayers], LayerStepper]


@dataclass(slots=True)
class StageCounters:
    """What was computed for leads since the start."""

    calls: int = 0
    rows: int = 0
    refused: int = 0
    expired: int = 0
    seconds: float = 0.0


@dataclass(slots=True, eq=False, weakref_slot=True)
class _Lease:
    """Pages of one lead's session over some layers, and who computes in them."""

    model: StagedModel
    asked: StageOpen
    lead: PublicKey
    bytes: int
    kv: KVPages
    heard: float
    stepper: LayerStepper = field(init=False)
    number: int = 0  # of the last call that was taken
    open: bool = True
    _offered: Callable[[], LayerStepper] | None = None

    @property
    def layers(self) -> range:
        """Those it is over."""
        return range(self.asked.begin, self.asked.end)

    def offer(self, make: Callable[[], LayerStepper]) -> None:
        """Compute with another stepper from the next call on. From any thread."""
        self._offered = make

    def current(self) -> LayerStepper:
        """Who computes now; for the compute thread."""
        if self._offered is not None:
            make, self._offered = self._offered, None
            self.stepper.close()
            self.stepper = make()
        return self.stepper

    def close(self) -> None:
        """For the compute thread: nobody computes in it."""
        self._offered = None
        self.stepper.close()
        self.kv.close()


class StageHost:
    """`handlers` are for links. `find` says which model a manifest is, `link` gives an open link to a node."""

    def __init__(
        self,
        find: Callable[[PayloadId], StagedModel | None],
        link: Callable[[PublicKey], Link | None],
        make: MakeLayers,
        kv_bytes: int,
        monotonic: Monotonic,
        allow: Callable[[PublicKey, int], bool],
    ) -> None:
        """`kv_bytes`: for the pages of all leases together. `allow`: whether a lead may have so many rows computed."""
        self._find, self._link, self._make, self._monotonic = find, link, make, monotonic
        self._allow = allow
        self._kv_bytes = kv_bytes
        self._leases: dict[str, _Lease] = {}
        self._thread = ThreadPoolExecutor(1, "blyan-stage")
        self._tasks: set[asyncio.Task[None]] = set()
        self._usual: dict[PublicKey, float] = {}  # seconds until the next stage said that it took a call
        self.handlers = {open_kind: self.opened, close_kind: self.closed, kind: self.called}
        self.queue = 0
        self.counters = StageCounters()

    @property
    def leases(self) -> int:
        """How many there are."""
        return len(self._leases)

    @property
    def leased_bytes(self) -> int:
        """What they may take together."""
        return sum(lease.bytes for lease in self._leases.values())

    async def run(self) -> None:
        """End leases whose leads are silent, until it is cancelled."""
        while True:
            await asyncio.sleep(_sweep_seconds)
            self.sweep()

    def sweep(self) -> None:
        """End leases whose leads are silent."""
        now = self._monotonic()
        for lease in list(self._leases.values()):
            if now - lease.heard > limits.stage_lease_seconds:
                self.counters.expired += 1
                self._end(lease)

    def close(self) -> None:
        """Compute no more."""
        for lease in list(self._leases.values()):
            self._end(lease)
        self._thread.shutdown(wait=True)

    async def opened(self, link: Link, message: Message) -> Message:
        """The handler of `stage_open`. `NotHeld` and `Busy` say why there is no lease; one that is there goes on."""
        asked, lead = parse_open(message.fields), link.peer.node
        held = self._leases.get(asked.session)
        if held is not None:
            if (held.lead, held.asked) != (lead, asked):
                raise Denied("stage lease: expected the session's own lead and terms, found others")
            held.heard = self._monotonic()
            return Message({}, ())
        model = self._find(asked.model)
        layers = range(asked.begin, asked.end)
        if model is None or asked.end > model.config.layers or not model.holds(layers):
            raise NotHeld(f"layers {asked.begin} to {asked.end}: expected them here, found they are not held")
        self._forget_earlier(lead, asked.session)
        size = asked.pages * KVPages.page_bytes(model.config, model.dtype, len(layers))
        theirs = sum(lease.lead == lead for lease in self._leases.values())
        full = len(self._leases) >= limits.stage_leases_max or theirs >= limits.stage_leases_node_max
        if full or self.leased_bytes + size > self._kv_bytes:
            self.counters.refused += 1
            left = self._kv_bytes - self.leased_bytes
            raise Busy(
                f"stage lease: expected at most {left} bytes of pages and few leases, found {size} and {theirs}",
                detail={"bytes": left},
            )
        kv = KVPages(model.config, model.dtype, asked.pages, layers)
        lease = _Lease(model, asked, lead, size, kv, self._monotonic())
        lease.stepper = self._make(model, kv, layers, lease.offer)
        self._leases[asked.session] = lease
        return Message({}, ())

    async def closed(self, link: Link, message: Message) -> Message:
        """The handler of `stage_close`."""
        lease = self._leases.get(str(message.fields.get("session")))
        if lease is not None and lease.lead == link.peer.node:
            self._end(lease)
        return Message({}, ())

    async def called(self, link: Link, message: Message) -> Message:
        """The handler of `stage`: takes a call, or says why not. Its outputs go to the next stage or the lead."""
        call, passed = parse_call(message)  # nothing is awaited until its number is taken: calls are taken in order
        lease = self._wanted(link.peer.node, call)
        if self.queue >= limits.stage_queue_max:
            self.counters.refused += 1
            raise Busy(f"stage calls: expected fewer than {limits.stage_queue_max} waiting, found {self.queue}")
        if not self._allow(lease.lead, call.count * _rows_of(lease)):
            self.counters.refused += 1
            raise Busy("stage calls: expected fewer rows a minute of one lead, found more")
        lease.number, lease.heard = call.number, self._monotonic()
        self.queue += 1
        # begun before the sender is told that it was taken: that is on nobody's way
        computing = asyncio.get_running_loop().run_in_executor(self._thread, self._compute, lease, call, passed)
        task = asyncio.create_task(self._carried(lease, call, computing))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return Message({}, ())

    def _wanted(self, sender: PublicKey, call: StageCall) -> _Lease:
        """The lease of a call; a fault for one that is not meant for it as it is now."""
        lease = self._leases.get(call.session)
        if lease is None:
            raise NotHeld("stage call: expected a session with a lease here, found none")
        if self._find(call.model) is None:
            raise NotHeld(f"model {call.model[:12]}: expected its layers here, found they are not held any more")
        asked = lease.asked
        if sender != asked.before or call.lead != lease.lead:
            raise Denied("stage call: expected it of the stage before, for the session's lead")
        if call.number != lease.number + 1:
            raise InvalidInput(f"stage call: expected number {lease.number + 1}, found {call.number}")
        if not _fits(call, lease):
            raise InvalidInput("stage call: expected the lease's model, layers and pages, and rows of its hidden size")
        return lease

    async def _carried(self, lease: _Lease, call: StageCall, computing: asyncio.Future[Passed]) -> None:
        """Compute, and pass on. A mistake of ours is no reason to leave the lead waiting."""
        (given,) = await asyncio.gather(computing, return_exceptions=True)
        self.queue -= 1
        if isinstance(given, Passed):
            if call.route:
                await self._pass_on(call.route[0].node, call.onward(), given)
            else:
                await self._tell(call, end_of(call, given))
        elif isinstance(given, Fault):
            await self._tell(call, fault_of(call, given.code, given.message, ""))
        else:
            _log.error("computing layers %d to %d for %s", call.begin, call.end, lease.lead[:12], exc_info=given)
            await self._tell(call, fault_of(call, InternalError.code, "internal error", ""))

    async def _pass_on(self, node: PublicKey, call: StageCall, passed: Passed) -> None:
        """To the next stage, whose call it is; the lead is told if that does not take it."""
        link = self._link(node)
        if link is None:
            await self._tell(call, fault_of(call, LinkLost.code, "expected a link to the next stage, found none", node))
            return
        message = message_of(call, passed)
        usual = self._usual.get(node, _unmeasured_seconds)
        began = self._monotonic()
        try:
            seconds = max(_late_seconds, _late_factor * usual)
            await link.request(kind, message.fields, message.tensors, seconds=seconds)
        except (LinkLost, NoAnswer, Refused) as reason:
            await self._tell(call, fault_of(call, reason.code, reason.message, node))
            return
        self._usual[node] = 0.8 * self._usual.pop(node, self._monotonic() - began) + 0.2 * (self._monotonic() - began)
        if len(self._usual) > limits.nodes_known_max:
            del self._usual[next(iter(self._usual))]

    @torch.inference_mode()
    def _compute(self, lease: _Lease, call: StageCall, passed: Passed) -> Passed:
        if not lease.open:
            raise NotHeld("stage call: expected a session with a lease here, found it ended")
        began = self._monotonic()
        hidden = torch.frombuffer(bytearray(passed.hidden), dtype=lease.model.dtype).view(call.count, call.width)
        runs = [Stretch(run.rows, run.start, run.pages, run.reach) for run in call.runs]
        given, experts = lease.current().through(hidden, runs)
        self.counters.calls += 1
        self.counters.rows += call.count
        self.counters.seconds += self._monotonic() - began
        return Passed(bytes_of(given), passed.chosen + experts.astype("<u2").tobytes())

    async def _tell(self, call: StageCall, message: Message) -> None:
        """The lead, if it can be reached; else it finds out by itself."""
        link = self._link(call.lead)
        if link is None:
            _log.debug("no link to lead %s", call.lead[:12])
            return
        try:
            await link.request(end_kind, message.fields, message.tensors, seconds=call.milliseconds / 1000)
        except (LinkLost, NoAnswer, Refused) as reason:
            _log.debug("lead %s: %s", call.lead[:12], reason.message)

    def _forget_earlier(self, lead: PublicKey, session: str) -> None:
        """What an earlier process of a lead had is of no use."""
        for lease in list(self._leases.values()):
            if lease.lead == lead and lease.asked.session[:_boot_chars] != session[:_boot_chars]:
                self._end(lease)

    def _end(self, lease: _Lease) -> None:
        del self._leases[lease.asked.session]
        lease.open = False
        self._thread.submit(lease.close)


def _rows_of(lease: _Lease) -> int:
    """What a position takes, in rows of experts; the attention of all layers counts as one."""
    config = lease.model.config
    return 1 + len(set(config.moe_layers) & set(lease.layers)) * config.experts_per_token


def _fits(call: StageCall, lease: _Lease) -> bool:
    """Whether a call is about what the lease is."""
    asked, config = lease.asked, lease.model.config
    return (
        (call.model, call.begin, call.end) == (asked.model, asked.begin, asked.end)
        and call.width == config.hidden
        and tensor_block.dtypes[call.dtype] == lease.model.dtype
        and all(len(run.pages) * page_positions >= run.start + run.rows for run in call.runs)
        and all(page < asked.pages for run in call.runs for page in run.pages)
        and all(run.start + run.rows <= config.context_length for run in call.runs)
    )
