"""A lead's side of its pipelines: leases at stages, calls on their way, and who of the stages is gone.

What the last stage gives comes back over its own link, whichever stage the call was sent to. A call that is late has
all stages asked whether they are alive; one that does not answer is lost, as is one whose link ended, and one that
another stage could not reach. For the network's loop, but for what says otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, cast

import torch
from numpy.typing import NDArray
from torch import Tensor

from blyan.inference.expert_host import bytes_of
from blyan.inference.stage_session import (
    Session,
    StageLost,
    StageNodes,
    give_back,
    is_alive,
    leases,
    result_of,
)
from blyan.model.config import ModelConfig
from blyan.model.stepping import Stretch
from blyan.network.link import Link
from blyan.network.questions import LinkLost, NoAnswer, Refused
from blyan.network.thread import NetworkThread
from blyan.primitives import limits
from blyan.primitives.clock import Entropy, Monotonic
from blyan.primitives.errors import Denied, Fault, MalformedMessage, StageUnavailable
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.storage import tensor_block
from blyan.wire.expert_call import Activations
from blyan.wire.framing import Message
from blyan.wire.stage_call import (
    Passed,
    RunShape,
    StageCall,
    end_names,
    kind,
    message_of,
    nonce_chars,
    session_chars,
)

_late_seconds: Final = 0.25  # at least so late is a call for which stages are asked whether they are alive
_late_factor: Final = 4.0
_renew_seconds: Final = limits.stage_lease_seconds / 3
_shun_seconds: Final = 5.0  # for which a stage that was lost is taken only if there is no other


@dataclass(frozen=True, slots=True)
class LeadOptions:
    """How calls go out."""

    activations: Activations = "exact"
    call_seconds: float = 10.0  # for one call, everything included


@dataclass(slots=True)
class LeadCounters:
    """What happened since the start."""

    calls: int = 0
    sessions: int = 0
    lost: int = 0  # sessions that ended because a stage did
    rejected: int = 0  # ends that were none


@dataclass(slots=True, eq=False)
class StageLead:
    """One for all models that this node leads."""

    thread: NetworkThread
    nodes: StageNodes
    own: PublicKey
    boot: str
    monotonic: Monotonic
    entropy: Entropy
    options: LeadOptions = field(default_factory=LeadOptions)
    counters: LeadCounters = field(default_factory=LeadCounters)
    sessions: dict[str, Session] = field(default_factory=dict[str, Session])
    _shunned: dict[PublicKey, float] = field(default_factory=dict[PublicKey, float])  # until when
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set["asyncio.Task[Any]"])

    # from the compute thread

    def open(self, model: PayloadId, config: ModelConfig, dtype: torch.dtype, pages: int) -> Future[Session]:
        """Leases of so many pages at the stages of a route; `StageUnavailable` or `StageLost` if there are none now."""
        return self.thread.run(self._open(model, config, dtype, pages))

    def begin(self, session: Session, hidden: Tensor, runs: Sequence[Stretch]) -> Future[tuple[Tensor, NDArray[Any]]]:
        """Send hidden states [n, hidden] through all layers: what comes out, and the experts chosen [moe, n, top_k].

        Calls of a session come out in the order in which they begin. `StageLost` ends the session.
        """
        session.number += 1
        call = StageCall(
            session.model,
            session.id,
            session.number,
            session.hops[0].begin,
            session.hops[0].end,
            session.hops[1:],
            self.own,
            tuple(RunShape(run.rows, run.start, run.pages, run.reach) for run in runs),
            hidden.shape[1],
            tensor_block.dtype_names[hidden.dtype],
            self.options.activations,
            max(1, int(self.options.call_seconds * 1000)),
            self.entropy(nonce_chars // 2).hex(),
        )
        message = message_of(call, Passed(bytes_of(hidden), b""))
        return self.thread.run(self._passed(session, call, message))

    def close(self, session: Session) -> Future[None]:
        """Give its leases back."""
        return self.thread.run(self._close(session))

    # the handler of `stage_end`

    async def ended(self, link: Link, message: Message) -> Message:
        """What the last stage gave, or why a stage gave nothing."""
        name, number = end_names(message.fields)
        session = self.sessions.get(name)
        answer = None if session is None else session.waiting.get(number)
        if session is None or answer is None or answer.done():
            return Message({}, ())  # too late: nobody waits for it
        sender = link.peer.node
        fault = cast("dict[str, Any] | None", message.fields.get("fault"))
        if fault is None and sender == session.hops[-1].node:
            answer.set_result(message)
        elif isinstance(fault, dict) and any(sender == hop.node for hop in session.hops):
            named = fault.get("node")
            blamed = frozenset(hop.node for hop in session.hops if hop.node == named)
            said = str(fault.get("message"))[:200]
            session.end(StageLost(f"stage {sender[:12]}: {said if said.isprintable() else 'a fault'}", blamed))
        else:
            self.counters.rejected += 1
            raise Denied("stage end: expected it of the last stage of its session, found another's")
        return Message({}, ())

    # in the network's loop

    async def _open(self, model: PayloadId, config: ModelConfig, dtype: torch.dtype, pages: int) -> Session:
        now = self.monotonic()
        self._shunned = {node: until for node, until in self._shunned.items() if until > now}
        hops = self.nodes.route(model, config, frozenset(self._shunned)) or self.nodes.route(model, config, frozenset())
        if hops is None:
            raise StageUnavailable(
                f"pipeline: expected linked stages that hold all {config.layers} layers, found none",
                hint="`blyan node peers` shows which nodes are there; start more with --role stage",
            )
        name = self.boot[: session_chars // 2] + self.entropy(session_chars // 4).hex()
        session = Session(name, model, config, dtype, hops)
        reasons = await asyncio.gather(*leases(self.nodes, self.own, session, pages), return_exceptions=True)
        for hop, reason in zip(hops, reasons, strict=True):
            if isinstance(reason, Fault):
                self._shun((hop.node,))
                await self._close(session)
                raise StageLost(f"stage {hop.node[:12]}: {reason.message}", frozenset((hop.node,)))
            if isinstance(reason, BaseException):
                raise reason
        self.sessions[name] = session
        session.keeping = asyncio.create_task(self._kept(session, pages))
        self.counters.sessions += 1
        return session

    async def _kept(self, session: Session, pages: int) -> None:
        """Renew the leases now and then, and see when a link ends, until the session does."""
        renewed = self.monotonic()
        while session.lost is None:
            links = [self.nodes.link(hop.node) for hop in session.hops]
            gone = frozenset(hop.node for hop, link in zip(session.hops, links, strict=True) if link is None)
            if gone:
                self._lose(session, StageLost("stage: expected its link, found it ended", gone))
                return
            ends = [asyncio.ensure_future(link.closed.wait()) for link in links if link is not None]
            try:
                left = max(0.0, renewed + _renew_seconds - self.monotonic())
                done, _ = await asyncio.wait(ends, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in ends:
                    each.cancel()
            if not done:
                renewed = self.monotonic()
                for reason in await asyncio.gather(
                    *leases(self.nodes, self.own, session, pages), return_exceptions=True
                ):
                    if isinstance(reason, Fault):
                        self._lose(session, StageLost(f"stage: its lease did not go on: {reason.message}"))

    async def _passed(self, session: Session, call: StageCall, message: Message) -> tuple[Tensor, NDArray[Any]]:
        if session.lost is not None:
            raise session.lost
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        session.waiting[call.number] = answer
        session.rows += call.count
        began = self.monotonic()
        sending = asyncio.create_task(self._sent(session, call, message))
        self._tasks.add(sending)
        sending.add_done_callback(self._tasks.discard)
        try:
            while True:
                late = max(_late_seconds, _late_factor * session.expected())
                done, _ = await asyncio.wait({answer}, timeout=late)
                if done:
                    break
                await self._look(session, began)
            found = result_of(session, call, answer.result())
        except MalformedMessage as reason:
            self.counters.rejected += 1
            lost = StageLost(reason.message, frozenset((session.hops[-1].node,)))
            self._lose(session, lost)
            raise lost from None
        except StageLost as reason:
            self._lose(session, reason)
            raise
        finally:
            del session.waiting[call.number]
            session.rows -= call.count
        session.took(call.count, self.monotonic() - began)
        self.counters.calls += 1
        return found

    async def _sent(self, session: Session, call: StageCall, message: Message) -> None:
        """To the first stage; whoever waits is told if it does not take it."""
        node = session.hops[0].node
        link = self.nodes.link(node)
        try:
            if link is None:
                raise LinkLost(f"peer {node[:12]}: expected a link, found none")
            await link.request(kind, message.fields, message.tensors, seconds=call.milliseconds / 1000)
        except (LinkLost, NoAnswer) as reason:
            session.end(StageLost(reason.message, frozenset((node,))))
        except Refused as reason:
            session.end(StageLost(reason.message))

    async def _look(self, session: Session, began: float) -> None:
        """A call is late: `StageLost` names the stages that say nothing, or all if it was waited for long enough."""
        pongs = await asyncio.gather(*(is_alive(self.nodes, hop.node) for hop in session.hops))
        silent = frozenset(hop.node for hop, alive in zip(session.hops, pongs, strict=True) if not alive)
        if silent:
            raise StageLost(f"stages: expected {len(silent)} of {len(pongs)} to answer, found them silent", silent)
        if self.monotonic() - began > self.options.call_seconds:
            raise StageLost(f"stages: expected an answer in {self.options.call_seconds:g} s, found none")

    def _lose(self, session: Session, reason: StageLost) -> None:
        if session.lost is None:
            self.counters.lost += 1
        self._shun(reason.nodes)
        session.end(reason)

    def _shun(self, nodes: Sequence[PublicKey] | frozenset[PublicKey]) -> None:
        for node in nodes:
            self._shunned[node] = self.monotonic() + _shun_seconds

    async def _close(self, session: Session) -> None:
        """Who cannot be told finds out by the lease's end."""
        self.sessions.pop(session.id, None)
        session.end(StageLost("session: expected it open, found it closed"))
        if session.keeping is not None:
            session.keeping.cancel()
        for hop in session.hops:
            link = self.nodes.link(hop.node)
            if link is not None:
                task = asyncio.create_task(give_back(link, session.id))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
