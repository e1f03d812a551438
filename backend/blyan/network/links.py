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
from typing import Any, Final, Protocol, TypeVar, cast

from blyan.network.answers import Bulky, Handler, Prompt
from blyan.network.dialling import Dialler
from blyan.network.gossip import SummaryTable, parse_digest
from blyan.network.link import Link
from blyan.network.more_held import Hearer, MoreHeld
from blyan.network.questions import LinkFull, LinkLost, NoAnswer
from blyan.network.targets import Target, Targets
from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import Fault, IntegrityFault, MalformedMessage, PeerFault
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.wire.framing import Message, WireTensor
from blyan.wire.peer import Summary, parse_passed_on, parse_summary

_Parsed = TypeVar("_Parsed")
_log = logging.getLogger(__name__)
_look_seconds: Final = 0.5  # between two looks at who is to be dialled
_gossip_seconds: Final = 2.0
_rare_seconds: Final = 10.0  # while news comes another way too
_partners: Final = 3  # with whom all that is known is compared, each time
_ping_seconds: Final = 1.0
_ping_late_seconds: Final = 4.0  # a link that answers no ping for so long is cut


class Watcher(Hearer, Protocol):
    """Who keeps account of links. `now` is the monotonic clock's."""

    def linked(self, summary: Summary, now: float) -> None:
        """One more link to a process is up."""
        ...

    def unlinked(self, node: PublicKey, boot: str) -> None:
        """One link to a process is gone."""
        ...

    def pinged(self, node: PublicKey, seconds: float, now: float) -> None:
        """A ping came back."""
        ...


@dataclass(slots=True, eq=False)
class GossipPace:
    """How often all is told: rarely while news comes another way too."""

    rare: bool = False
    _hurry: asyncio.Event = field(default_factory=asyncio.Event)

    def turn(self, rare: bool) -> None:
        """When the other way ends all is told at once, and as often as before."""
        self.rare = rare
        if not rare:
            self._hurry.set()

    async def rest(self, factor: float) -> None:
        """Until it is time to tell."""
        async with _or_nothing(factor * (_rare_seconds if self.rare else _gossip_seconds)):
            await self._hurry.wait()
        self._hurry.clear()


async def _pinged(link: Link, watcher: Watcher, monotonic: Monotonic) -> None:
    """Ping a link once, and end it where that shows that nobody is there."""
    began = monotonic()
    try:
        await link.request("ping", {}, seconds=_ping_late_seconds)
        watcher.pinged(link.peer.node, monotonic() - began, monotonic())
    except NoAnswer:
        if monotonic() - link.heard > _ping_late_seconds and not link.holds_up:
            _log.info("peer %s is silent: link cut", link.peer.node[:12])
            await link.close()
    except LinkFull:
        pass
    except LinkLost:  # nothing can be sent any more
        await link.close()
    except Fault:
        pass


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
    pace: GossipPace = field(default_factory=GossipPace)
    more: MoreHeld = field(init=False)
    targets: Targets = field(default_factory=Targets)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set["asyncio.Task[None]"])

    def __post_init__(self) -> None:
        self.more = MoreHeld(self.monotonic)

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """What links answer by themselves."""
        return {"ping": Prompt(_pong), "gossip": Bulky(self._gossiped)}

    def link(self, node: PublicKey) -> Link | None:
        """An open link to a node: the one that came last."""
        return next((link for link in reversed(self.open.get(node, ())) if link.open), None)

    def any_holds(self, manifest: PayloadId) -> bool:
        """Whether a node that is linked says that it holds something of a model. From any thread."""
        links = [link for each in list(self.open.values()) for link in list(each)]
        return any(link.open and manifest in link.peer.holdings for link in links)

    def seek(self, urls: Iterable[tuple[str, PublicKey | None]]) -> None:
        """Addresses that are tried for ever, of nodes that may be known by their key."""
        self.targets.seek(urls)

    def joined(self, link: Link) -> None:
        """A link is up: it is the caller's, or this object's own, to read it."""
        node = link.peer.node
        links = self.open.setdefault(node, [])
        if not links:
            _log.info("peer %s is linked", node[:12])
        links.append(link)
        link.peer = self.more.filled(link.peer)
        self.watcher.linked(link.peer, self.monotonic())
        self._begin(self._watched(link))

    async def run(self) -> None:
        """Dial and tell until it is cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._dialling())
                group.create_task(self._gossiping())
        finally:
            await asyncio.gather(*(link.close() for links in self.open.values() for link in links))
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def told(self, summary: Summary, age: float) -> None:
        """Somebody passed on what another node signed, so many seconds ago as far as is known."""
        if summary.node == self.dialler.identity.key.public or summary.swarm != self.dialler.swarm.tag:
            return
        summary = self.more.filled(summary)
        self.table.offer(summary, self.monotonic(), age)
        for link in self.open.get(summary.node, ()):
            if link.peer.boot == summary.boot and link.peer.sequence < summary.sequence:
                link.peer = summary
                self._ask_more(link)

    async def tell(self) -> None:
        """Say our summary to all linked nodes now, and hear from a few what else is known."""
        links = sorted(self._newest(), key=lambda _link: self.draw())
        work = (self._exchange(link, full=place < _partners) for place, link in enumerate(links))
        for reason in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(reason, Exception):  # a mistake of ours with one of them: the others are told
                _log.error("gossip failed", exc_info=reason)

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
                await _pinged(link, self.watcher, self.monotonic)
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
            self.more.forget(node)

    async def _dialling(self) -> None:
        ours = self.dialler.identity.key.public
        while True:
            now = self.monotonic()
            live = self.table.live(now)
            self.targets.follow(each for each in live if each.node != ours and self.wanted(each))
            for target in self.targets.ready(now, self._reached):
                target.busy = True
                self._begin(self._dialled(target))
            await asyncio.sleep(_look_seconds)

    def _reached(self, target: Target) -> bool:
        if target.node is not None:
            return target.node == self.dialler.identity.key.public or self.link(target.node) is not None
        return any(target.url in (link.url, *link.peer.peer_urls) for link in self._newest())

    async def _dialled(self, target: Target) -> None:
        try:
            link = await self.dialler.dial(target.url, target.expected, self.ours())
        except (Fault, OSError, ValueError) as reason:  # ValueError: an address that no resolver takes
            target.failed(str(reason), self.monotonic(), self.draw())
            return
        finally:
            target.busy = False
        target.answered(link.peer.node)
        if link.peer.node == self.dialler.identity.key.public:
            await link.close()
            return
        self.joined(link)
        await link.run()

    async def _gossiping(self) -> None:
        while True:
            await self.pace.rest(0.75 + 0.5 * self.draw())
            await self.tell()

    async def _exchange(self, link: Link, *, full: bool = True) -> None:
        """Ours there and theirs here; if `full`, also what either knows of others."""
        raw = self.table.digest() if full else b""
        digest = (WireTensor("digest", "U8", (len(raw),), raw),) if full else ()
        try:
            answer = await link.request("gossip", {"summary": _text(self.ours())}, digest, seconds=_ping_late_seconds)
            theirs = answer.fields.get("summary")
            self._from_itself(link, theirs)
            self._passed_on(answer.fields.get("known"))
            lacked = self.table.lacking(parse_digest(_bytes(answer)), self.monotonic()) if answer.tensors else ()
            if lacked:
                known = [[_text(each.summary), each.age] for each in lacked]
                await link.request("gossip", {"known": known}, seconds=_ping_late_seconds)
        except (PeerFault, MalformedMessage) as reason:
            _log.debug("gossip with %s: %s", link.peer.node[:12], reason.message)

    async def _gossiped(self, link: Link, message: Message) -> Message:
        self._from_itself(link, message.fields.get("summary"))
        self._passed_on(message.fields.get("known"))
        fields: dict[str, Any] = {"summary": _text(self.ours())}
        if not message.tensors:
            return Message(fields, ())
        lacked = self.table.lacking(parse_digest(_bytes(message)), self.monotonic())
        fields["known"] = [[_text(each.summary), each.age] for each in lacked]
        raw = self.table.digest()
        return Message(fields, (WireTensor("digest", "U8", (len(raw),), raw),))

    def _from_itself(self, link: Link, text: object) -> None:
        """What a node says of itself over its own link."""
        if not isinstance(text, str):
            return
        summary = _read(parse_summary, text)
        if (summary.node, summary.boot) != (link.peer.node, link.peer.boot):
            raise MalformedMessage("gossip: expected the peer's own summary, found another's")
        if summary.sequence > link.peer.sequence:
            link.peer = self.more.filled(summary)
            self.watcher.heard(link.peer, self.monotonic())
        self._ask_more(link)

    def _ask_more(self, link: Link) -> None:
        if link.open and self.more.lacks(link.peer):
            self._begin(self.more.fill(link, self.table, self.watcher))

    def _passed_on(self, known: object) -> None:
        """What a node has heard of others."""
        for summary, age in _with_ages(known):
            self.told(summary, age)


def _pong(_link: Link, _message: Message) -> Message:
    return Message({}, ())


def _with_ages(known: object) -> list[tuple[Summary, float]]:
    """Summaries and their ages in seconds; `MalformedMessage` for what is none, or too many."""
    pairs = cast("list[object]", known) if isinstance(known, list) else []
    if len(pairs) > limits.gossip_summaries_max:
        raise MalformedMessage(f"gossip: expected at most {limits.gossip_summaries_max} summaries, found more")
    found: list[tuple[Summary, float]] = []
    for pair in pairs:
        given = cast("list[object]", pair) if isinstance(pair, list) else []
        text, age = given if len(given) == 2 else (None, None)
        if not isinstance(text, str) or not isinstance(age, int | float) or not 0 <= age < math.inf:
            raise MalformedMessage("gossip: expected summaries with their age, found something else")
        summary = _read(parse_passed_on, text)
        if summary is not None:
            found.append((summary, float(age)))
    return found


def _read(parse: Callable[[bytes], _Parsed], text: str) -> _Parsed:
    try:
        return parse(text.encode("utf-8"))
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
