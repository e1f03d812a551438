"""One session of a pipeline: its stages, what is waited for, how long calls take, its leases, and who is stuck.

For the network's loop, but for what says otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blyan.model.config import ModelConfig
from blyan.network.link import Link
from blyan.network.questions import LinkLost, NoAnswer, Refused
from blyan.primitives import limits
from blyan.primitives.errors import MalformedMessage
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.wire.framing import Message
from blyan.wire.stage_call import StageCall, read_end
from blyan.wire.stage_draws import not_finite
from blyan.wire.stage_draws import nothing as nothing_drawn
from blyan.wire.stage_lease import (
    Progress,
    StageOpen,
    bytes_left,
    close_kind,
    given_pages,
    gives_ends,
    look_kind,
    open_kind,
    parse_progress,
)
from blyan.wire.stage_shapes import Hop

_pong_seconds: Final = 0.25  # that a stage which is alive needs at most for saying so
_first_pong_seconds: Final = 0.5  # the same with its first calls: it may be loading jitted code, and then says nothing
_pong_factor: Final = 4.0  # or so many times its round trip
_open_seconds: Final = 0.6  # that a lease takes at most
_open_factor: Final = 8.0  # or so many times the round trip
_close_seconds: Final = 2.0
_heard_seconds: Final = 2.0  # in which who pings every second was heard
_unknown: Final = Progress(limits.canonical_integer_max, 0, 0)  # of a stage that is there: it may be computing
_stuck_milliseconds: Final = 200  # after which what was passed on should have come
_few_rows: Final = 8
_weight: Final = 0.2  # of the newest measurement


class Way(NamedTuple):
    """From a stage to the next one."""

    begin: PublicKey
    end: PublicKey


class StageLost(Exception):
    """A stage of a pipeline is gone, or has not what it had: nothing of the session serves any more."""

    def __init__(self, message: str, nodes: frozenset[PublicKey] = frozenset(), way: Way | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.nodes = nodes  # whose fault it was, as far as this node saw itself
        self.way = way  # between two stages, that does not go by the word of one of them: either may be at fault


class Granted(NamedTuple):
    """What a stage answers who asks it for a lease."""

    pages: int
    ends: bool  # whether it embeds, if the first layer is its, and draws, if the last one is


class Outcome(NamedTuple):
    """What came of a call."""

    chosen: NDArray[Any]  # [moe layers, n, top_k]
    hidden: Tensor | None = None  # [n, hidden] after the last layer, where nothing was drawn
    tokens: Sequence[int] = ()  # that were drawn, one for each run


class StageNodes(Protocol):
    """What the lead needs to know of others."""

    def route(self, model: PayloadId, config: ModelConfig, without: frozenset[PublicKey]) -> tuple[Hop, ...] | None:
        """Which nodes take which layers, all of them in order; None where some have nobody.

        The lead itself may take the first ones.
        """
        ...

    def link(self, node: PublicKey) -> Link | None:
        """An open link to a node."""
        ...

    def round_trip(self, node: PublicKey) -> float:
        """Seconds of a ping, as far as was measured."""
        ...

    def granted(self, model: PayloadId, hop: Hop, *, ends: bool) -> None:
        """It gave a lease, and said whether it embeds or draws, where the first or the last layer is among these."""
        ...

    def has_room(self, node: PublicKey, left: object) -> None:
        """It gave a lease, or none, and said how many bytes this lead can have there for pages."""
        ...


@dataclass(slots=True, eq=False)
class Passage:
    """One call on its way through the stages. `came` may be waited for in another thread."""

    call: StageCall
    began: float
    came: Future[Message] = field(default_factory=Future[Message])
    timer: asyncio.TimerHandle | None = None

    def settle(self, outcome: Message | StageLost) -> None:
        """What came of it."""
        if self.timer is not None:
            self.timer.cancel()
        if isinstance(outcome, StageLost):
            self.came.set_exception(outcome)
        else:
            self.came.set_result(outcome)


@dataclass(slots=True, eq=False)
class Session:
    """Leases at the stages of one route, for one engine of the lead."""

    id: str
    model: PayloadId
    config: ModelConfig
    dtype: torch.dtype
    own: range  # layers that the lead computes itself, the first ones
    hops: tuple[Hop, ...]  # of others
    asked: int = 1  # pages that would be of use
    pages: int = 0  # that there are at every stage
    embeds: bool = False  # whether the first stage takes tokens
    draws: bool = False  # whether the last one draws them
    rings: bool = False  # whether it may tell the first one, too
    distrusted: bool = False  # whether it refused to draw what could be drawn
    lost: StageLost | None = None
    number: int = 0  # of the last call; the compute thread's
    fixed: float | None = None  # seconds of a call of few rows
    row: float = 0.0  # of each row more
    rows: int = 0  # under way
    used: float = 0.0  # when the last call began
    keeping: asyncio.Task[None] | None = None
    looking: bool = False
    leaving: int = 0  # calls that could not be sent at once, and go out one after the other
    computing: bool = False  # whether the lead is at its own layers; the compute thread's to say
    waiting: dict[int, Passage] = field(default_factory=dict[int, Passage])

    def know_ends(self, given: Sequence[Granted | BaseException], goes: Callable[[Way], bool]) -> None:
        """What the first and the last stage may do besides, by what they said; whether a way `goes`."""
        granted = [each for each in given if isinstance(each, Granted)]
        if granted:
            first, last = self.hops[0], self.hops[-1]
            self.embeds, self.draws = first.begin == 0 and granted[0].ends, granted[-1].ends
            self.draws = self.draws and not self.distrusted
            self.rings = self.embeds and self.draws and goes(Way(last.node, first.node))

    def distrust_draws(self) -> None:
        """The lead draws all tokens of this session itself from now on. From any thread."""
        self.distrusted, self.draws, self.rings = True, False, False

    def expected(self) -> float:
        """Seconds that what is under way should take, by the calls before it.

        Nothing before there was one: a call that is looked for too early is none the worse for that, and a stage that
        fell in the first one is noticed as soon as in any other.
        """
        return (self.fixed or 0.0) + self.row * self.rows

    def pong_s(self) -> float:
        """Seconds that a stage which is alive may take to say so, its way aside."""
        return _first_pong_seconds if self.fixed is None else _pong_seconds

    def moving_s(self) -> float:
        """Seconds more that what is under way may take for its bytes: a long prompt's are seconds on a slow link."""
        return self.rows * self.config.hidden * self.dtype.itemsize / limits.stage_bytes_per_second

    def add(self, passage: Passage) -> None:
        """One more call is under way."""
        self.waiting[passage.call.number] = passage
        self.used = passage.began
        self.rows += passage.call.count

    def take(self, number: int, message: Message, now: float) -> None:
        """What the last stage gave for a call; nothing if nobody waits for it."""
        passage = self.waiting.pop(number, None)
        if passage is not None:
            self.rows -= passage.call.count
            self._took(passage.call.count, now - passage.began)
            passage.settle(message)

    def end(self, reason: StageLost) -> None:
        """Everybody who waits is told."""
        if self.lost is None:
            self.lost = reason
        waiting, self.waiting, self.rows = self.waiting, {}, 0
        for passage in waiting.values():
            passage.settle(reason)

    def _took(self, rows: int, seconds: float) -> None:
        """A call of so many rows took so long, those that were before it included."""
        if rows <= _few_rows:
            self.fixed = seconds if self.fixed is None else self.fixed + _weight * (seconds - self.fixed)
            return
        row = max(0.0, seconds - (self.fixed or 0.0)) / rows
        self.row = row if not self.row else self.row + _weight * (row - self.row)


def leases(nodes: StageNodes, own: PublicKey, session: Session, least: int) -> list[Coroutine[Any, Any, Granted]]:
    """Ask each stage for its lease, or that it goes on, and what it grants: what is on its way may go first.

    `least`: fewer pages are of no use.
    """
    before = [own, *(hop.node for hop in session.hops)]
    return [
        _asked(
            nodes,
            hop.node,
            StageOpen(session.model, session.id, hop.begin, hop.end, session.asked, least, previous),
            session.moving_s(),
        )
        for hop, previous in zip(session.hops, before, strict=False)
    ]


async def _asked(nodes: StageNodes, node: PublicKey, asked: StageOpen, moving_s: float) -> Granted:
    link = nodes.link(node)
    if link is None:
        raise LinkLost(f"peer {node[:12]}: expected a link, found none")
    seconds = max(_open_seconds, _open_factor * nodes.round_trip(node)) + moving_s
    fields = (await link.request(open_kind, asked.fields(), seconds=seconds)).fields
    granted = Granted(given_pages(asked, fields), gives_ends(fields))
    nodes.granted(asked.model, Hop(node, asked.begin, asked.end), ends=granted.ends)
    nodes.has_room(node, bytes_left(fields))
    return granted


async def give_back(link: Link, session: str) -> bool:
    """Tell a stage that its lease is of no use any more; whether it heard that."""
    try:
        await link.request(close_kind, {"session": session}, seconds=_close_seconds)
    except (LinkLost, NoAnswer):
        return False
    except Refused:
        pass  # it has none
    return True


async def look(nodes: StageNodes, session: Session, node: PublicKey) -> Progress | None:
    """How far a stage is; None for one that says nothing. `StageLost` if it has no lease any more.

    Where much is on its way its answer may lie behind that: then it is enough that it says anything.
    """
    link = nodes.link(node)
    if link is None:
        return None
    began = link.heard
    try:
        seconds = max(session.pong_s(), _pong_factor * nodes.round_trip(node)) + min(_heard_seconds, session.moving_s())
        found = await link.request(look_kind, {"session": session.id}, seconds=seconds)
        return parse_progress(found.fields)
    except Refused as reason:
        raise StageLost(f"stage {node[:12]}: {reason.message}") from None
    except NoAnswer:
        return _unknown if session.moving_s() > _heard_seconds and link.heard > began else None
    except (LinkLost, MalformedMessage):
        return None


def stuck(
    hops: Sequence[Hop], seen: Mapping[PublicKey, Progress], number: int, moving_s: float = 0.0
) -> StageLost | None:
    """Where a call was passed on and did not come; None while somebody may be computing it.

    Between two stages either may be at fault; between one and this node it is that one. `moving_s`: seconds that its
    bytes may take from one to the next.
    """
    late_milliseconds = _stuck_milliseconds + 1000 * moving_s
    awaited, last = seen[hops[0].node].awaits if hops else 0, hops[-1].node if hops else None
    if awaited and last is not None and last != hops[0].node and seen[last].passed >= awaited:
        why = f"stages {last[:12]} to {hops[0].node[:12]}: tokens that were drawn did not come through"
        return StageLost(why, way=Way(last, hops[0].node)) if seen[last].milliseconds >= late_milliseconds else None
    before: tuple[Hop, Progress] | None = None  # else the lead, which sent it long ago
    for hop in hops:
        here = seen[hop.node]
        if here.taken < number:
            if before is None:
                return StageLost(f"stage {hop.node[:12]}: a call did not come", frozenset((hop.node,)))
            way = Way(before[0].node, hop.node)
            why = f"stages {way.begin[:12]} to {way.end[:12]}: a call did not come through"
            return StageLost(why, way=way) if before[1].milliseconds >= late_milliseconds else None
        if here.passed < number:
            return None
        before = hop, here
    if before is None or before[1].milliseconds < late_milliseconds:
        return None
    return StageLost(f"stage {before[0].node[:12]}: what it gave did not come", frozenset((before[0].node,)))


def result_of(session: Session, call: StageCall, message: Message) -> Outcome:
    """What an end says; `MalformedMessage` unless it is this call's. From any thread.

    The states may be no numbers, where something overflowed.
    """
    config = session.config
    shape = (len(config.moe_layers), call.count, config.experts_per_token)
    passed = read_end(call, message)
    chosen = np.frombuffer(passed.chosen, "<u2").astype(np.int32)
    if chosen.size != shape[0] * shape[1] * shape[2] or (chosen.size and int(chosen.max()) >= config.experts):
        raise MalformedMessage("stage end: expected the experts of each position in each MoE layer")
    if call.draws:
        tokens = np.frombuffer(passed.tokens, "<i4").tolist()
        for token, draw in zip(tokens, call.draws, strict=True):
            if token != not_finite and (token == nothing_drawn) is not (draw is None):
                raise MalformedMessage("stage end: expected a token for each run that asked for one")
        if max(tokens) >= config.vocab_size:
            raise MalformedMessage(f"stage end: expected tokens below {config.vocab_size}, found others")
        return Outcome(chosen.reshape(shape), None, tokens)
    hidden = torch.frombuffer(bytearray(passed.hidden), dtype=session.dtype).view(call.count, call.width)
    return Outcome(chosen.reshape(shape), hidden)
