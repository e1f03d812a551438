"""What peers hold beyond what fits into their summaries: asked for over their links, in pages, and held to a digest.

The digest stands in the signed summary, so that what is told is as good as signed. It is asked for once; until what is
new has come, what a process told before counts. What is known is bounded, and each node has its share of that. For the
network's loop.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from blyan.network.gossip import SummaryTable
from blyan.network.link import Link
from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import InvalidInput, MalformedEncoding, MalformedMessage, NotFound, PeerFault
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.wire.framing import Message, WireTensor
from blyan.wire.peer import Holding, Summary, parse_holdings, parse_summary

_log = logging.getLogger(__name__)
kind: Final = "holdings"
_ask_seconds: Final = 4.0  # for one page
_again_seconds: Final = 15.0  # before a node that did not tell is asked for the same again
_pause_seconds: Final = 1.0  # before it is asked for anything else


class Hearer(Protocol):
    """Who keeps account of what nodes say."""

    def heard(self, summary: Summary, now: float) -> bool:
        """A node said something of itself over its link; whether it was news."""
        ...


@dataclass(frozen=True, slots=True)
class _Told:
    boot: str
    digest: str
    holdings: Mapping[PayloadId, Holding]
    count: int  # bytes that it took


@dataclass(slots=True, eq=False)
class MoreHeld:
    """Of all peers."""

    monotonic: Monotonic
    _told: dict[PublicKey, _Told] = field(default_factory=dict[PublicKey, _Told])
    _asked: dict[PublicKey, tuple[str, float]] = field(default_factory=dict[PublicKey, "tuple[str, float]"])  # and when
    _sizes: dict[PublicKey, tuple[str, int]] = field(default_factory=dict[PublicKey, "tuple[str, int]"])  # for no room

    def filled(self, summary: Summary) -> Summary:
        """The same with what is known beside it."""
        told = self._told.get(summary.node)
        if told is None or told.boot != summary.boot or not summary.rest:
            return summary
        return replace(summary, holdings={**told.holdings, **summary.holdings})

    def lacks(self, summary: Summary) -> bool:
        """Whether its node is to be asked for more, now."""
        told = self._told.get(summary.node)
        if not summary.rest or (told is not None and told.digest == summary.rest):
            return False
        refused, size = self._sizes.get(summary.node, ("", 0))
        if refused == summary.rest and not self._has_room(summary.node, size):
            return False
        digest, when = self._asked.get(summary.node, ("", -math.inf))
        pause = _again_seconds if digest == summary.rest else _pause_seconds
        return self.monotonic() >= when + pause

    def forget(self, node: PublicKey) -> None:
        """It has no link any more."""
        self._told.pop(node, None)
        self._asked.pop(node, None)
        self._sizes.pop(node, None)

    async def fill(self, link: Link, table: SummaryTable, hearer: Hearer) -> None:
        """Ask a peer for what its summary does not say; what it tells counts as if it stood there."""
        if await self._ask(link):
            link.peer = self.filled(parse_summary(link.peer.signed))  # without what was told before
            table.fill(link.peer)
            hearer.heard(link.peer, self.monotonic())

    async def _ask(self, link: Link) -> bool:
        node, digest, boot = link.peer.node, link.peer.rest, link.peer.boot
        self._asked[node] = digest, self.monotonic()
        try:
            raw = await _pages(link, digest, lambda size: self._has_room(node, size))
            if isinstance(raw, int):
                _log.info("peer %s holds more than is remembered here", node[:12])
                self._sizes[node] = digest, raw
                return False
            if hashlib.sha256(raw).hexdigest() != digest:
                raise MalformedMessage("holdings: expected those of the summary, found others")
            told = _Told(boot, digest, parse_holdings(raw), len(raw))
        except (PeerFault, InvalidInput, MalformedEncoding, MalformedMessage) as reason:
            _log.info("peer %s does not tell all that it holds: %s", node[:12], reason.message)
            return False
        if node not in self._asked or not self._has_room(node, told.count):  # as it is by now
            return False
        self._sizes.pop(node, None)
        self._told.pop(node, None)
        while self._known_bytes() + told.count > limits.holdings_known_bytes_max:
            largest = max(self._told, key=lambda each: self._told[each].count)
            gone = self._told.pop(largest)
            self._sizes[largest] = gone.digest, gone.count
        self._told[node] = told
        return True

    def _known_bytes(self) -> int:
        return sum(each.count for each in self._told.values())

    def _has_room(self, node: PublicKey, size: int) -> bool:
        """Whether so much of a node may be known: there is room for it, or it is within its share.

        For that there is room, as of what others told most goes that is beyond theirs.
        """
        before = self._told.get(node)
        known = self._known_bytes() - (0 if before is None else before.count)
        share = limits.holdings_known_bytes_max // max(1, len(self._asked.keys() | {node}))
        return known + size <= limits.holdings_known_bytes_max or size <= share


async def _pages(link: Link, digest: str, has_room: Callable[[int], bool]) -> bytes | int:
    """What it tells, or how many bytes that would be if there is no room for them."""
    raw = bytearray()
    while True:
        answer = await link.request(kind, {"rest": digest, "from": len(raw)}, seconds=_ask_seconds)
        total = answer.fields.get("bytes")
        page = bytes(answer.tensors[0].data) if answer.tensors else b""
        if type(total) is not int or not 0 < total <= limits.holdings_rest_bytes_max:
            raise MalformedMessage(f"holdings: expected at most {limits.holdings_rest_bytes_max} bytes, found {total}")
        if not has_room(total):
            return total
        if len(page) != min(limits.holdings_page_bytes_max, total - len(raw)):
            raise MalformedMessage(f"holdings: expected a whole page, found {len(page)} bytes")
        raw += page
        if len(raw) == total:
            return bytes(raw)


def page_of(raw: bytes, digest: str, message: Message) -> Message:
    """One page of what does not fit into our summary; `NotFound` if that is something else by now."""
    begin = message.fields.get("from")
    if not raw or message.fields.get("rest") != digest or type(begin) is not int or not 0 <= begin < len(raw):
        raise NotFound("holdings: expected those of the summary of now, found others")
    page = raw[begin : begin + limits.holdings_page_bytes_max]
    return Message({"bytes": len(raw)}, (WireTensor("page", "U8", (len(page),), page),))
