"""A lead's calls on their way through stages: sent, awaited, and looked after when they are late.

What the last stage gives comes back over its own link, whichever stage the call was sent to. A call that is late has
all stages asked how far they are; one that does not answer is lost, and one that another stage does not reach. For the
network's loop, but for what says otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypeAlias, cast

import torch
from numpy.typing import NDArray
from torch import Tensor

from blyan.inference.expert_host import bytes_of
from blyan.inference.stage_session import Outcome, Passage, Session, StageLost, StageNodes, Way, look, result_of, stuck
from blyan.model.stepping import Stretch
from blyan.network.link import Link
from blyan.network.questions import LinkLost
from blyan.network.thread import NetworkThread
from blyan.primitives import limits
from blyan.primitives.clock import Entropy, Monotonic
from blyan.primitives.errors import Denied, MalformedMessage
from blyan.primitives.ids import PublicKey
from blyan.storage import tensor_block
from blyan.wire.expert_call import Activations
from blyan.wire.framing import Message
from blyan.wire.stage_call import Passed, StageCall, kind, message_of
from blyan.wire.stage_draws import After, Draw
from blyan.wire.stage_shapes import RunShape, nonce_chars

_late_seconds: Final = 0.15  # at least so late is a call for which stages are asked how far they are
_late_factor: Final = 2.5


class Asked(NamedTuple):
    """What a call asks of the last stage, and whose tokens it has."""

    draws: tuple[Draw | None, ...] = ()
    after: After | None = None


plain: Final = Asked()
Chosen: TypeAlias = NDArray[Any] | None


@dataclass(frozen=True, slots=True)
class LeadOptions:
    """How calls go out."""

    activations: Activations = "exact"
    call_seconds: float = 10.0  # for one call, everything included


@dataclass(slots=True)
class PeerCounters:
    """What one stage did for this lead."""

    calls: int = 0
    rows: int = 0
    lost: int = 0  # sessions that ended because of it


@dataclass(slots=True)
class LeadCounters:
    """What happened since the start."""

    calls: int = 0
    sessions: int = 0
    lost: int = 0  # sessions that ended because a stage did
    rejected: int = 0  # ends that were none
    peers: dict[PublicKey, PeerCounters] = field(default_factory=dict[PublicKey, PeerCounters])

    def of(self, node: PublicKey) -> PeerCounters:
        """What is counted of a stage; of those asked longest ago nothing is known any more."""
        found = self.peers.pop(node, None) or PeerCounters()
        self.peers[node] = found
        if len(self.peers) > limits.nodes_known_max:
            del self.peers[next(iter(self.peers))]
        return found


@dataclass(slots=True, eq=False)
class StageCalls:
    """Those of one lead."""

    thread: NetworkThread
    nodes: StageNodes
    own: PublicKey
    monotonic: Monotonic
    entropy: Entropy
    options: LeadOptions
    lose: Callable[[Session, StageLost], None]  # what is done with a session of which a stage is lost
    counters: LeadCounters = field(default_factory=LeadCounters)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set["asyncio.Task[Any]"])

    def begin(
        self, session: Session, given: Tensor, runs: Sequence[Stretch], chosen: Chosen = None, asked: Asked = plain
    ) -> Passage:
        """Send hidden states [n, hidden] through the layers of all stages; `chosen`: the experts of earlier layers.

        Or tokens I32 [n], where the first stage embeds; none where `asked` says whose tokens they will be.

        Calls of a session come out in the order in which they begin. `StageLost` ends the session; `InvalidInput` is
        raised for more than one call may hold, and leaves it as it was.
        """
        first = session.hops[0]
        call = StageCall(
            session.model,
            session.id,
            session.number + 1,
            first.begin,
            first.end,
            session.hops[1:],
            self.own,
            tuple(RunShape(run.rows, run.start, run.pages, run.reach) for run in runs),
            session.config.hidden,
            tensor_block.dtype_names[session.dtype],
            self.options.activations,
            max(1, int(self.options.call_seconds * 1000)),
            self.entropy(nonce_chars // 2).hex(),
            "tokens" if given.dtype == torch.int32 else "hidden",
            asked.draws,
            asked.after,
            first.node if asked.draws and session.rings else None,
        )
        before = b"" if chosen is None else chosen.astype("<u2").tobytes()
        passage = Passage(call, self.monotonic())
        there = bytes_of(given)
        passed = Passed(there, before) if call.given == "hidden" else Passed(b"", before, bytes(there))
        message = message_of(call, passed)
        session.number = call.number  # only now: stages take no number after one that never came
        self.thread.loop.call_soon_threadsafe(self._sent, session, passage, message)
        return passage

    def finish(self, session: Session, passage: Passage) -> Outcome:
        """Wait for what comes out. Raises `StageLost`."""
        message = passage.came.result()
        try:
            return result_of(session, passage.call, message)
        except MalformedMessage as reason:
            self.counters.rejected += 1
            lost = StageLost(reason.message, frozenset((session.hops[-1].node,)))
            self.thread.loop.call_soon_threadsafe(self.lose, session, lost)
            raise lost from None

    def ended(self, session: Session, number: int, sender: PublicKey, message: Message) -> None:
        """What a stage says of a call that is waited for. `Denied` if it is another's to say.

        Who could not compute it is at fault. Where it names a stage beside it that is its word alone, and counts for
        the way between them.
        """
        fault = cast("dict[str, Any] | None", message.fields.get("fault"))
        if fault is None and sender == session.hops[-1].node:
            count = session.waiting[number].call.count
            now = self.monotonic()
            session.take(number, message, now)
            for passage in session.waiting.values():
                after = passage.call.after
                if after is not None and after.number == number:
                    passage.began = now  # now the first stage may begin with it
                    self._wait(session, passage)
                elif after is None and passage.call.number == number + 1:
                    passage.began = now  # it came behind that one
            self.counters.calls += 1
            for hop in session.hops:
                theirs = self.counters.of(hop.node)
                theirs.calls += 1
                theirs.rows += count
        elif isinstance(fault, dict) and any(sender == hop.node for hop in session.hops):
            way, said = _way(session, sender, fault.get("node")), str(fault.get("message"))[:200]
            blamed = frozenset((sender,)) if way is None else frozenset[PublicKey]()
            said = said if said.isprintable() else "a fault"
            self.lose(session, StageLost(f"stage {sender[:12]}: {said}", blamed, way))
        else:
            self.counters.rejected += 1
            raise Denied("stage end: expected it of the last stage of its session, found another's")

    def _sent(self, session: Session, passage: Passage, message: Message) -> None:
        """To the first stage."""
        if session.lost is not None:
            passage.settle(session.lost)
            return
        session.add(passage)
        after = passage.call.after
        if after is None or after.number not in session.waiting:  # else it is waited for once that one came
            self._wait(session, passage)
        node = session.hops[0].node
        link = self.nodes.link(node)
        try:
            if link is None:
                raise LinkLost(f"peer {node[:12]}: expected a link, found none")
            if session.leaving or not link.tell_now(kind, message.fields, message.tensors):
                session.leaving += 1
                self.task(self._send(session, link, message))
        except LinkLost as reason:
            self.lose(session, StageLost(reason.message, frozenset((node,))))

    async def _send(self, session: Session, link: Link, message: Message) -> None:
        try:
            await link.tell(kind, message.fields, message.tensors)
        except LinkLost as reason:
            self.lose(session, StageLost(reason.message, frozenset((session.hops[0].node,))))
        finally:
            session.leaving -= 1

    def _wait(self, session: Session, passage: Passage) -> None:
        late = max(_late_seconds, _late_factor * session.expected())
        passage.timer = self.thread.loop.call_later(late, self._late, session, passage)

    def _late(self, session: Session, passage: Passage) -> None:
        if session.looking:
            self._wait(session, passage)
        else:
            session.looking = True
            self.task(self._look(session, passage))

    async def _look(self, session: Session, passage: Passage) -> None:
        """A call is late: the session ends if that is somebody's fault, or it was waited for long enough."""
        try:
            lost = await self._at_fault(session, passage.call.number)
        except StageLost as reason:
            lost = reason
        finally:
            session.looking = False
        if passage.call.number not in session.waiting:
            return  # it came meanwhile
        waited = self.monotonic() - passage.began
        seconds = self.options.call_seconds + session.moving_s()
        if lost is None and waited > seconds:
            lost = StageLost(f"stages: expected an answer in {seconds:.0f} s, found none")
        if lost is None:
            self._wait(session, passage)
        else:
            self.lose(session, lost)

    async def _at_fault(self, session: Session, number: int) -> StageLost | None:
        """Which stages say nothing, or are not reached by the one before."""
        looks = await asyncio.gather(*(look(self.nodes, session, hop.node) for hop in session.hops))
        seen = {hop.node: found for hop, found in zip(session.hops, looks, strict=True) if found is not None}
        silent = frozenset(hop.node for hop in session.hops) - seen.keys()
        if silent:
            return StageLost(f"stages: expected {len(silent)} of {len(looks)} to answer, found them silent", silent)
        return stuck(session.hops, seen, number, session.moving_s())

    def task(self, work: Coroutine[Any, Any, None]) -> None:
        """Something that nobody waits for."""
        task = self.thread.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _way(session: Session, sender: PublicKey, named: object) -> Way | None:
    """Between who says something and the stage before or after it that it names; None for any other."""
    nodes = [hop.node for hop in session.hops]
    if session.rings and sender == nodes[-1] and named == nodes[0] != sender:
        return Way(sender, nodes[0])
    return next((Way(*pair) for pair in pairwise(nodes) if sender in pair and named in pair and named != sender), None)
