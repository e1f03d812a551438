"""Whom to dial, and when: addresses that were given, and those that summaries name. Pure.

What is given is tried for ever, with pauses that grow; what a summary names, as long as its node is there. An address
belongs to the node that named it: another that names the same one does not come between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from blyan.network.dialling import Expected
from blyan.primitives.ids import PublicKey
from blyan.wire.peer import Summary

_pause_first: Final = 0.5
_pause_max: Final = 30.0
_pause_live: Final = 5.0  # to a node that others say is there: a partition may have healed
_dials_at_once: Final = 16


@dataclass(slots=True)
class Target:
    """Somebody to be dialled."""

    url: str
    expected: Expected
    given: bool
    heard: bool = False  # on the local network
    certificate: str | None = None  # that its node's summary names: another one is another process
    found: PublicKey | None = None  # who answered there last
    pause: float = _pause_first
    after: float = 0.0  # not before this moment
    busy: bool = False
    why: str = ""  # of the last failure

    @property
    def node(self) -> PublicKey | None:
        """Who is there, as far as is known."""
        return self.found if self.expected.node is None else PublicKey(self.expected.node)

    @property
    def kept(self) -> bool:
        """Whether it is one without a summary that names it."""
        return self.given or self.heard or self.busy

    def failed(self, why: str, now: float, draw: float) -> None:
        """Nobody answered, or not who was expected; `draw` in [0, 1) spreads the dials of many."""
        self.why = why
        self.after = now + self.pause * (0.75 + 0.5 * draw)
        self.pause = min(_pause_max if self.certificate is None else _pause_live, 2 * self.pause)
        self.expected = Expected(self.expected.node)  # the process may be another one by now

    def answered(self, node: PublicKey) -> None:
        """A link is up."""
        self.why, self.pause, self.after, self.found = "", _pause_first, 0.0, node


class Targets:
    """See the module. `now` is a monotonic clock's."""

    def __init__(self) -> None:
        self._targets: dict[tuple[str, str | None], Target] = {}

    def seek(self, urls: Iterable[tuple[str, PublicKey | None]]) -> None:
        """Addresses that are tried for ever, of nodes that may be known by their key."""
        for url, node in urls:
            self._targets.setdefault((url, node), Target(url, Expected(node), given=True)).given = True

    def heard(self, urls: Iterable[tuple[str, PublicKey]]) -> None:
        """Somebody on the local network says that these nodes are there."""
        for url, node in urls:
            self._targets.setdefault((url, node), Target(url, Expected(node), given=False)).heard = True

    def unheard(self, urls: Iterable[tuple[str, PublicKey]]) -> None:
        """Nobody says so any more: they are dialled no more, unless they are known otherwise."""
        for key in urls:
            if key in self._targets:
                self._targets[key].heard = False

    def follow(self, live: Iterable[Summary]) -> None:
        """These are there and of use: theirs are all the addresses beside those that were given."""
        known: set[tuple[str, str | None]] = set()
        for summary in live:
            for url in summary.peer_urls:
                key = (url, summary.node)
                known.add(key)
                target = self._targets.setdefault(key, Target(url, Expected(summary.node), given=False))
                if target.certificate != summary.certificate:  # not tried yet
                    target.certificate = summary.certificate
                    target.expected = Expected(summary.node, summary.certificate)
                    target.pause, target.after = _pause_first, 0.0
        for key in [key for key, target in self._targets.items() if not target.kept and key not in known]:
            del self._targets[key]

    def ready(self, now: float, reached: Callable[[Target], bool]) -> list[Target]:
        """Whom to dial now, if that is not reached."""
        waiting = [
            target
            for target in self._targets.values()
            if not target.busy and target.after <= now and not reached(target)
        ]
        waiting.sort(key=lambda target: target.after)  # who waited longest: many that never answer hold up no others
        return waiting[: max(0, _dials_at_once - sum(target.busy for target in self._targets.values()))]

    def why_not(self, url: str) -> str:
        """Why nobody is reached at an address, empty if nothing is known."""
        return next((target.why for target in self._targets.values() if target.url == url and target.why), "")
