"""Which links there are: who is dialled and when, what is told to whom, who has gone silent. For the network's loop.

Two nodes may have a link each way; either serves. A node whose summary is known is dialled until a link is up, with
pauses that grow; the configured addresses and those of before are tried for ever.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast

from blyan.network.dialling import Dialler, Expected
from blyan.network.gossip import SummaryTable, parse_digest
from blyan.network.link import Handler, Link, NoAnswer
from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import Denied, Fault, IntegrityFault, MalformedMessage, PeerFault
from blyan.primitives.ids import PublicKey
from blyan.wire.framing import Message, WireTensor
from blyan.wire.peer import Summary, parse_summary

_log = logging.getLogger(__name__)
_look_seconds: Final = 0.5  # between two looks at who is to be dialled
_gossip_seconds: Final = 2.0
_ping_seconds: Final = 1.0
_ping_late_seconds: Final = 4.0  # a link that answers no ping for so long is cut
_pause_first: Final = 0.5
_pause_max: Final = 30.0
_dials_at_once: Final = 16


class Watcher(Protocol):
    """Who keeps account of links. `now` is the monotonic clock's."""

    def linked(self, summary: Summary, now: float) -> None:
        """One more link to a process is up."""
        ...

    def heard(self, summary: Summary, now: float) -> bool:
        """A node said something of itself over its link; whether it was news."""
        ...

    def unlinked(self, node: PublicKey, boot: str) -> None:
        """One link to a process is gone."""
        ...

    def pinged(self, node: PublicKey, seconds: float, now: float) -> None:
        """A ping came back."""
        ...


@dataclass(slots=True)
class _Target:
    """Somebody to be dialled."""

    url: str
    expected: Expected
    pause: float = _pause_first
    after: float = 0.0  # not before this moment
    busy: bool = False
    why: str = ""  # of the last failure


@dataclass(slots=True, eq=False)
class Links:
    """All links of this process. `run` until it is cancelled."""

    dialler: Dialler
    table: SummaryTable
    ours: Callable[[], Summary]
    watcher: Watcher
    monotonic: Monotonic
    draw: Callable[[], float]
    wanted: Callable[[Summary], bool] = lambda _: True  # whether a link to a node is of use
    open: dict[PublicKey, list[Link]] = field(default_factory=dict[PublicKey, "list[Link]"])
    _targets: dict[str, _Target] = field(default_factory=dict[str, _Target])
    _tasks: set[asyncio.Task[None]] = field(default_factory=set["asyncio.Task[None]"])

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """What links answer by themselves."""
        return {"ping": self._pong, "gossip": self._gossiped}

    def link(self, node: PublicKey) -> Link | None:
        """An open link to a node: the one that came last."""
        return next((link for link in reversed(self.open.get(node, ())) if link.open), None)

    def why_not(self, url: str) -> str:
        """Why there is no link to an address that was given, empty if nothing is known."""
        target = self._targets.get(url)
        return "" if target is None else target.why

    def seek(self, urls: Iterable[tuple[str, PublicKey | None]]) -> None:
        """Addresses that are tried for ever, of nodes that may be known by their key."""
        for url, node in urls:
            self._targets.setdefault(url, _Target(url, Expected(node)))

    def joined(self, link: Link) -> None:
        """A link is up: it is the caller's, or this object's own, to read it."""
        node = link.peer.node
        links = self.open.setdefault(node, [])
        if not links:
            _log.info("peer %s is linked", node[:12])
        links.append(link)
        self.watcher.linked(link.peer, self.monotonic())
        self._begin(self._watched(link))

    async def run(self) -> None:
        """Dial and tell until it is cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._dialling())
                group.create_task(self._gossiping())
        finally:
            for links in list(self.open.values()):
                for link in list(links):
                    await link.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def tell(self) -> None:
        """Say our summary to all linked nodes now."""
        await asyncio.gather(*(self._exchange(link) for link in self._newest()))

    def _newest(self) -> list[Link]:
        return [link for node in list(self.open) if (link := self.link(node)) is not None]

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watched(self, link: Link) -> None:
        """Ping a link until it ends, and note that."""
        try:
            await self._exchange(link)
            while link.open:
                began = self.monotonic()
                try:
                    await link.request("ping", {}, seconds=_ping_late_seconds)
                    self.watcher.pinged(link.peer.node, self.monotonic() - began, self.monotonic())
                except NoAnswer:
                    if self.monotonic() - link.heard > _ping_late_seconds:
                        _log.info("peer %s is silent: link cut", link.peer.node[:12])
                        await link.close()
                except Fault:
                    pass
                async with _or_nothing(_ping_seconds):
                    await link.closed.wait()
        finally:
            self._left(link)

    def _left(self, link: Link) -> None:
        node = link.peer.node
        links = self.open.get(node, [])
        if link in links:
            links.remove(link)
            self.watcher.unlinked(node, link.peer.boot)
        if not links and self.open.pop(node, None) is not None:
            _log.info("peer %s is linked no more", node[:12])

    async def _dialling(self) -> None:
        while True:
            now = self.monotonic()
            for target in self._wanted(now):
                target.busy = True
                self._begin(self._dialled(target))
            await asyncio.sleep(_look_seconds)

    def _wanted(self, now: float) -> list[_Target]:
        """Whom to dial now: those given, and those known, without a link."""
        ours = self.dialler.identity
        for summary in self.table.live(now):
            if summary.node == ours.key.public or not self.wanted(summary) or self.link(summary.node) is not None:
                continue
            for url in summary.peer_urls:
                target = self._targets.setdefault(url, _Target(url, Expected(summary.node)))
                target.expected = Expected(summary.node, summary.certificate)
        ready = [
            target
            for target in self._targets.values()
            if not target.busy and target.after <= now and not self._reached(target)
        ]
        return ready[: max(0, _dials_at_once - sum(target.busy for target in self._targets.values()))]

    def _reached(self, target: _Target) -> bool:
        if target.expected.node is not None:
            return target.expected.node == self.dialler.identity.key.public or bool(
                self.link(PublicKey(target.expected.node))
            )
        return any(target.url in link.peer.peer_urls for link in self._newest())

    async def _dialled(self, target: _Target) -> None:
        try:
            link = await self.dialler.dial(target.url, target.expected, self.ours())
        except (PeerFault, Denied, IntegrityFault) as reason:
            target.why = reason.message
            target.after = self.monotonic() + target.pause * (0.75 + 0.5 * self.draw())
            target.pause = min(_pause_max, 2 * target.pause)
            target.expected = Expected(target.expected.node)  # the process may be another one by now
            return
        finally:
            target.busy = False
        target.why, target.pause, target.after = "", _pause_first, 0.0
        if link.peer.node == self.dialler.identity.key.public:
            target.expected = Expected(link.peer.node)  # that is us
            await link.close()
            return
        self.joined(link)
        await link.run()

    async def _gossiping(self) -> None:
        while True:
            await asyncio.sleep(_gossip_seconds * (0.75 + 0.5 * self.draw()))
            await self.tell()

    async def _exchange(self, link: Link) -> None:
        """Ours and what we know there, theirs and what they know here."""
        digest = WireTensor("digest", "U8", (len(raw := self.table.digest()),), raw)
        try:
            answer = await link.request(
                "gossip", {"summary": _text(self.ours())}, (digest,), seconds=_ping_late_seconds
            )
            theirs = answer.fields.get("summary")
            self._from_itself(link, theirs)
            self._passed_on(answer.fields.get("known"))
            lacked = self.table.lacking(parse_digest(_bytes(answer)), self.monotonic())
            if lacked:
                known = [[_text(each.summary), each.age] for each in lacked]
                await link.request("gossip", {"known": known}, seconds=_ping_late_seconds)
        except (PeerFault, MalformedMessage) as reason:
            _log.debug("gossip with %s: %s", link.peer.node[:12], reason.message)

    async def _pong(self, _link: Link, _message: Message) -> Message:
        return Message({}, ())

    async def _gossiped(self, link: Link, message: Message) -> Message:
        self._from_itself(link, message.fields.get("summary"))
        self._passed_on(message.fields.get("known"))
        fields: dict[str, Any] = {"summary": _text(self.ours())}
        if message.tensors:
            lacked = self.table.lacking(parse_digest(_bytes(message)), self.monotonic())
            fields["known"] = [[_text(each.summary), each.age] for each in lacked]
        raw = self.table.digest()
        return Message(fields, (WireTensor("digest", "U8", (len(raw),), raw),))

    def _from_itself(self, link: Link, text: object) -> None:
        """What a node says of itself over its own link."""
        if not isinstance(text, str):
            return
        summary = _parsed(text)
        if (summary.node, summary.boot) != (link.peer.node, link.peer.boot):
            raise MalformedMessage("gossip: expected the peer's own summary, found another's")
        if summary.sequence > link.peer.sequence:
            link.peer = summary
            self.watcher.heard(summary, self.monotonic())

    def _passed_on(self, known: object) -> None:
        """What a node has heard of others."""
        pairs = cast("list[object]", known) if isinstance(known, list) else []
        if len(pairs) > limits.gossip_summaries_max:
            raise MalformedMessage(f"gossip: expected at most {limits.gossip_summaries_max} summaries, found more")
        ours = self.dialler.identity.key.public
        for pair in pairs:
            given = cast("list[object]", pair) if isinstance(pair, list) else []
            text, age = given if len(given) == 2 else (None, None)
            if not isinstance(text, str) or not isinstance(age, int | float) or not 0 <= age < math.inf:
                raise MalformedMessage("gossip: expected summaries with their age, found something else")
            summary = _parsed(text)
            if summary.node != ours and summary.swarm == self.dialler.swarm.tag:
                self.table.offer(summary, self.monotonic(), float(age))


def _parsed(text: str) -> Summary:
    try:
        return parse_summary(text.encode("utf-8"))
    except IntegrityFault as reason:
        raise MalformedMessage(f"gossip: {reason.message}") from None


def _text(summary: Summary) -> str:
    return summary.signed.decode("utf-8")


def _bytes(message: Message) -> bytes:
    return bytes(message.tensors[0].data) if message.tensors else b""


@asynccontextmanager
async def _or_nothing(seconds: float) -> AsyncGenerator[None]:
    """Wait so long and no longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        pass
