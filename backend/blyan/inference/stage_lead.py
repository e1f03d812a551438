"""A lead's side of its pipelines: sessions over leases at stages, and who of the stages is gone.

A stage whose link ended is lost, as is one that a call got stuck at (`stage_calls`): for a while others are taken
instead. For the network's loop, but for what says otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from blyan.inference.lease_returns import LeaseReturns
from blyan.inference.shunned import Shunned
from blyan.inference.stage_calls import Asked, Chosen, LeadCounters, LeadOptions, StageCalls, plain
from blyan.inference.stage_probe import StageProbe
from blyan.inference.stage_session import Granted, Outcome, Passage, Session, StageLost, StageNodes, leases
from blyan.model.config import ModelConfig
from blyan.model.stepping import Stretch
from blyan.network.link import Link
from blyan.network.questions import NoAnswer, Refused
from blyan.network.thread import NetworkThread
from blyan.primitives import limits
from blyan.primitives.clock import Entropy, Monotonic
from blyan.primitives.errors import Busy, Fault, StageUnavailable
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.wire.framing import Message
from blyan.wire.stage_call import end_names
from blyan.wire.stage_shapes import Hop, session_chars

_renew_seconds: Final = limits.stage_lease_seconds / 3


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
    calls: StageCalls = field(init=False)
    probe: StageProbe = field(init=False)
    _sessions: dict[str, Session] = field(default_factory=dict[str, Session])
    _returns: LeaseReturns = field(init=False)
    _shunned: Shunned = field(default_factory=Shunned)
    _tried: set[tuple[Hop, ...]] = field(default_factory=set["tuple[Hop, ...]"])  # since a session was last opened

    def __post_init__(self) -> None:
        chance = self.monotonic, self.entropy
        self.calls = StageCalls(self.thread, self.nodes, self.own, *chance, self.options, self._lose)
        self.probe = StageProbe(self.nodes, self.own, self.boot, *chance, self.options.activations)
        self._returns = LeaseReturns(self.nodes, self.calls.task)

    @property
    def counters(self) -> LeadCounters:
        """What happened since the start."""
        return self.calls.counters

    @property
    def sessions(self) -> list[Session]:
        """Those that are open. From any thread."""
        return list(self._sessions.values())

    # from the compute thread

    def open(
        self, model: PayloadId, config: ModelConfig, dtype: torch.dtype, pages: int, least: int
    ) -> Future[Session]:
        """Leases of so many pages or fewer at a route's stages; `StageUnavailable` or `StageLost` if there are none."""
        return self.thread.run(self._open(model, config, dtype, pages, least))

    def grow(self, session: Session, least: int) -> Future[None]:
        """Ask for more pages; those that there are then are `session.pages`."""
        return self.thread.run(self._grow(session, least))

    def close(self, session: Session) -> Future[None]:
        """Give its leases back."""
        return self.thread.run(self._close(session))

    def test(self, session: Session) -> Future[None]:
        """Have its stages compute ordinary rows: a session ends of which one gives what is no number for them."""
        return self.thread.run(self._test(session))

    def begin(
        self, session: Session, given: Tensor, runs: Sequence[Stretch], chosen: Chosen = None, asked: Asked = plain
    ) -> Passage:
        """See `StageCalls.begin`."""
        return self.calls.begin(session, given, runs, chosen, asked)

    def finish(self, session: Session, passage: Passage) -> Outcome:
        """See `StageCalls.finish`."""
        return self.calls.finish(session, passage)

    # the handler of `stage_end`

    def ended(self, link: Link, message: Message) -> Message:
        """What the last stage gave, or why a stage gave nothing; also of trial calls."""
        if self.probe.ended(link, message):
            return Message({}, ())
        name, number = end_names(message.fields)
        session = self._sessions.get(name)
        if session is not None and number in session.waiting:  # else it is too late: nobody waits for it
            self.calls.ended(session, number, link.peer.node, message)
        return Message({}, ())

    # in the network's loop

    async def _open(self, model: PayloadId, config: ModelConfig, dtype: torch.dtype, pages: int, least: int) -> Session:
        hops = self._route(model, config)
        if hops is None:
            raise StageUnavailable(
                f"pipeline: expected linked stages that hold all {config.layers} layers, found none",
                hint="`blyan node peers` shows which nodes are there; start more with --role stage",
            )
        self._tried.add(hops)
        name = self.boot[: session_chars // 2] + self.entropy(session_chars // 4).hex()
        own = range(hops[0].end) if hops[0].node == self.own else range(0)
        hops = hops[1:] if own else hops
        session = Session(name, model, config, dtype, own, hops, pages, used=self.monotonic())
        for hop in hops:
            await self._returns.say_again(hop.node)
        given = await asyncio.gather(*leases(self.nodes, self.own, session, least), return_exceptions=True)
        for hop, reason in zip(hops, given, strict=True):
            if isinstance(reason, Fault):
                self._shunned.add(hop.node, self.monotonic(), lost=not isinstance(reason, Refused))
                if isinstance(reason, Refused):
                    self.nodes.has_room(hop.node, reason.about.get("bytes"))
                await self._close(session)
                raise StageLost(f"stage {hop.node[:12]}: {reason.message}", frozenset((hop.node,)))
            if isinstance(reason, BaseException):
                raise reason
        session.pages = _least(given, pages)
        session.know_ends(given, lambda way: self._shunned.goes(way, self.monotonic()))
        self._sessions[name] = session
        self._tried.clear()
        if hops:
            session.keeping = asyncio.create_task(self._kept(session))
        self.counters.sessions += 1
        return session

    def _route(self, model: PayloadId, config: ModelConfig) -> tuple[Hop, ...] | None:
        """One that was not tried lately if there is such, without those that were lost as far as that goes."""
        now = self.monotonic()
        for node in self._shunned.nodes(now):
            link = self.nodes.link(node)
            if link is not None:
                self._shunned.linked(node, link.since)
        routes = (self.nodes.route(model, config, without) for without in self._shunned.sets(now))
        found = _first(
            (route for route in routes if route is not None),
            self._tried,
            lambda route: self._shunned.goes([hop.node for hop in route], now),
        )
        if found in self._tried:
            self._tried.clear()
        return found

    async def _grow(self, session: Session, least: int) -> None:
        """A stage that has no room leaves all as it is; one that does not answer, or has its lease no more, is lost."""
        given = await asyncio.gather(*leases(self.nodes, self.own, session, least), return_exceptions=True)
        for hop, reason in zip(session.hops, given, strict=True):
            if isinstance(reason, Fault) and not (isinstance(reason, Refused) and reason.said == Busy.code):
                why = f"stage {hop.node[:12]}: its lease did not grow: {reason.message}"
                self._lose(session, StageLost(why, frozenset((hop.node,))))
            elif isinstance(reason, BaseException) and not isinstance(reason, Fault):
                raise reason
        session.pages = max(session.pages, _least(given, 0))

    async def _kept(self, session: Session) -> None:
        """Renew the leases now and then, and see when a link ends, until the session does, or was idle for long."""
        renewed, late = self.monotonic(), frozenset[PublicKey]()
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
            if done:
                continue
            renewed = self.monotonic()
            if not session.waiting and renewed - session.used > limits.stage_idle_seconds:
                await self._close(session)
                return
            late = await self._renewed(session, late)

    async def _renewed(self, session: Session, late: frozenset[PublicKey]) -> frozenset[PublicKey]:
        """Renew the leases; which stages said nothing. Twice in a row ends the session: a lease lasts for three."""
        given = await asyncio.gather(*leases(self.nodes, self.own, session, session.pages), return_exceptions=True)
        session.pages = max(session.pages, _least(given, 0))
        silent: set[PublicKey] = set()
        for hop, reason in zip(session.hops, given, strict=True):
            if isinstance(reason, NoAnswer) and hop.node not in late:
                silent.add(hop.node)
            elif isinstance(reason, Fault):
                why = f"stage {hop.node[:12]}: its lease did not go on: {reason.message}"
                self._lose(session, StageLost(why, frozenset((hop.node,))))
        return frozenset(silent)

    async def _test(self, session: Session) -> None:
        broken = await self.probe.broken(session)
        if broken:
            self._lose(session, StageLost("stage: expected finite numbers for ordinary ones, found others", broken))

    def _lose(self, session: Session, reason: StageLost) -> None:
        if session.lost is None:
            self.counters.lost += 1
            for node in reason.nodes:
                self.counters.of(node).lost += 1
        for node in reason.nodes:
            self._shunned.add(node, self.monotonic(), lost=True)
        if reason.way is not None:
            self._shunned.add_way(*reason.way, self.monotonic())
        session.end(reason)

    async def _close(self, session: Session) -> None:
        """Its leases are of no use any more."""
        self._sessions.pop(session.id, None)
        session.end(StageLost("session: expected it open, found that its leases were given back"))
        if session.keeping is not None:
            session.keeping.cancel()
        self._returns.owe(session)


def _least(given: Sequence[Granted | BaseException], otherwise: int) -> int:
    """Of the pages that stages gave; otherwise so many, where none was asked or not all gave some."""
    pages = [each.pages for each in given if isinstance(each, Granted)]
    return min(pages) if pages and len(pages) == len(given) else otherwise


def _first(
    routes: Iterable[tuple[Hop, ...]], tried: set[tuple[Hop, ...]], goes: Callable[[tuple[Hop, ...]], bool]
) -> tuple[Hop, ...] | None:
    """One that was not tried and goes, else that was not tried, else that goes. Each is worked out in milliseconds."""
    fresh = going = other = None
    for route in routes:
        if route not in tried:
            if goes(route):
                return route
            fresh = fresh or route
        elif goes(route):
            going = going or route
        other = other or route
    return fresh or going or other
