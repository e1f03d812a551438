"""Links of a simulated gateway: dialled with growing pauses, pinged, cut when silent, as `network/links` does."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from blyan.inference.registry import Registry
from blyan.primitives.ids import PublicKey
from simulation.world import Process, World

PING_SECONDS = 1.0
SILENT_SECONDS = 4.0
PAUSE_MAX = 30.0
FOUND_AGAIN_SECONDS = 1.25 * PAUSE_MAX + 5.0


@dataclass(eq=False)
class Link:
    """To one process, as the gateway has it."""

    peer: Process
    boot: str
    heard: float
    open: bool = True
    asked: dict[int, Any] = field(default_factory=dict)  # what is not answered yet


class Links:
    """All of one gateway. `lost` is called with what a link that ends leaves unanswered."""

    def __init__(self, world: World, process: Process, registry: Registry, lost: Callable[[Link, Any], None]) -> None:
        self.world = world
        self.process = process
        self.registry = registry
        self._lost = lost
        self._links: dict[PublicKey, list[Link]] = {}
        self._pauses: dict[int, tuple[float, float]] = {}  # process → next pause, not before
        world.links_cut.append(self._ended)
        world.at(0.0, self._dial)
        world.at(0.5, self._ping)

    def to(self, node: PublicKey) -> list[Link]:
        """Open ones to a node, the newest last."""
        return [link for link in self._links.get(node, ()) if link.open]

    def forget(self, message: int) -> None:
        """A message is not waited for any more."""
        for links in self._links.values():
            for link in links:
                link.asked.pop(message, None)

    def _dial(self) -> None:
        self.world.at(0.5, self._dial)
        if not self.process.alive:
            return
        for number in sorted(self.process.heard):
            each = self.world.at_number(number)
            if each in self.world.gateways or self._linked(each):
                continue
            pause, after = self._pauses.get(number, (0.5, 0.0))
            if self.world.now < after:
                continue
            if self.world.reach(self.process, each) and not each.stopped:
                self._pauses.pop(number, None)
                self.world.at(4 * self.world.latency(), lambda each=each, boot=each.boot: self._open(each, boot))
            else:
                wait = pause * (0.75 + 0.5 * self.world.rng.random())
                self._pauses[number] = (min(PAUSE_MAX, 2 * pause), self.world.now + wait)

    def _linked(self, each: Process) -> bool:
        return any(link.open and link.boot == each.boot for link in self._links.get(each.key, ()))

    def _open(self, each: Process, boot: str) -> None:
        if each.boot == boot and self.world.reach(self.process, each) and not self._linked(each):
            self._links.setdefault(each.key, []).append(Link(each, boot, self.world.now))
            self.registry.linked(each.summary(), self.world.now)

    def _close(self, link: Link) -> None:
        link.open = False
        self._links[link.peer.key].remove(link)
        self.registry.unlinked(link.peer.key, link.boot)
        for message in list(link.asked.values()):
            self._lost(link, message)

    def _ended(self, each: Process, reset: bool) -> None:
        boot = each.boot
        if each.group == self.process.group:
            self.world.at(self.world.latency(), lambda: self._cut(each.key, boot))

    def _cut(self, key: PublicKey, boot: str) -> None:
        for link in list(self._links.get(key, ())):
            if link.boot == boot:
                self._close(link)

    def _ping(self) -> None:
        self.world.at(PING_SECONDS, self._ping)
        now = self.world.now
        for links in list(self._links.values()):
            for link in list(links):
                each = link.peer
                if each.boot == link.boot and self.world.reach(self.process, each) and not each.stopped:
                    link.heard = now
                    self.registry.pinged(each.key, 2 * self.world.latency(), now)
                    if int(now) % 2 == 0:
                        self.registry.heard(each.summary(), now)
                elif now - link.heard > SILENT_SECONDS:
                    self._close(link)
