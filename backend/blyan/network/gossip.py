"""What this node has heard of others: signed summaries with an age, which of them count, what a partner lacks. Pure.

Anti-entropy with digests (Demers et al. 1987). Life is counted on this node's own clock, from when a newer sequence
of the process came, less the age that whoever passed it on says it had: so clocks of senders do not matter, and passing
something on makes nothing younger. Signatures are checked before a summary gets here (`wire/peer.parse_summary`).
"""

from __future__ import annotations

import functools
import hashlib
import struct
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Final

import numpy as np

from blyan.primitives import limits
from blyan.primitives.errors import MalformedMessage
from blyan.primitives.ids import PublicKey
from blyan.wire.peer import Summary

_line: Final = struct.Struct(">8sQ")  # of a digest: which process, its sequence
_columns: Final = np.dtype([("name", ">u8"), ("sequence", ">u8")])  # the same
_remembered_lives: Final = 10  # so long the sequence of one that expired is known, so that nobody brings it back
_boots_max: Final = 4  # processes of one key
_overlap_seconds: Final = 5.0  # two processes that both said something new for longer than this run at once


@dataclass(frozen=True, slots=True)
class Passed:
    """A summary on its way to a partner."""

    summary: Summary
    age: float  # seconds since its node said it, as far as the sender knows


@dataclass(frozen=True, slots=True)
class Duplicate:
    """One key, spoken for by several processes at once: a copied key, or a node that was started twice."""

    node: PublicKey
    used: str  # boot
    others: tuple[str, ...]


@dataclass(slots=True)
class _Known:
    summary: Summary
    name: bytes  # of its process, in digests
    place: int  # of its line in our digest
    first: float  # when its process was first heard of
    heard: float  # when this summary was said
    linked: float | None = None  # when a handshake proved this process, while its link is up


class SummaryTable:
    """The newest summary of each process, bounded; the stalest goes first, and those with a link go last.

    `version` rises whenever another summary would be read, expiry aside.
    """

    def __init__(
        self, seconds: float = limits.summary_seconds_max, processes_max: int = limits.nodes_known_max
    ) -> None:
        assert seconds > 0 and processes_max > 0, "a table that can hold something"
        self._seconds = seconds
        self._max = processes_max
        self._nodes: dict[PublicKey, dict[str, _Known]] = {}
        self._named: dict[bytes, _Known] = {}
        self._places: list[_Known] = []  # in the order of the lines
        self._names: list[bytes] = []
        self._heard = array("d")
        self._lines = bytearray()  # the digest: changed where a summary changes, not made anew for each partner
        self.version = 0

    def __len__(self) -> int:
        return len(self._named)

    def offer(self, summary: Summary, now: float, age: float = 0.0) -> bool:
        """Hear `summary`, `age` seconds old as its bringer says; whether it was newer than what is known."""
        if not age < self._seconds:
            return False
        said = now - age if age > 0.0 else now
        boots = self._nodes.get(summary.node)
        known = boots.get(summary.boot) if boots else None
        if known is not None:
            sequence = summary.sequence
            if sequence <= known.summary.sequence:
                return False
            known.summary = summary
            _line.pack_into(self._lines, known.place * _line.size, known.name, sequence)
            if said > known.heard:
                known.heard = self._heard[known.place] = said
        elif not self._make_room(summary.node, said):
            return False
        else:
            known = _Known(summary, _name(summary.node, summary.boot), len(self._places), said, said)
            self._nodes.setdefault(summary.node, {})[summary.boot] = self._named[known.name] = known
            self._places.append(known)
            self._names.append(known.name)
            self._heard.append(said)
            self._lines += bytes(_line.size)
            self._write(known)
        self.version += 1
        return True

    def fill(self, summary: Summary) -> None:
        """More is known of what this very summary stands for."""
        known = self._nodes.get(summary.node, {}).get(summary.boot)
        if known is not None and known.summary.sequence == summary.sequence:
            known.summary = summary
            self.version += 1

    def linked(self, summary: Summary, now: float) -> bool:
        """Its node itself gave this over a link whose handshake proved its key; whether it was news.

        While the link is up, what others pass on of another process of the same key does not replace this one; of two
        with links, the one that came last counts.
        """
        news = self.offer(summary, now)
        known = self._nodes.get(summary.node, {}).get(summary.boot)
        if known is not None and known.linked is None:
            self.version += 1
            known.linked = now
        return news

    def unlinked(self, node: PublicKey, boot: str) -> None:
        """The last link to this process ended."""
        known = self._nodes.get(node, {}).get(boot)
        if known is not None and known.linked is not None:
            known.linked = None
            self.version += 1

    def live(self, now: float) -> tuple[Summary, ...]:
        """One summary of each node that said something new in time; forgets what is long gone."""
        self._forget(now - self._seconds * _remembered_lives)
        found: list[Summary] = []
        for boots in self._nodes.values():
            alive = self._alive(boots, now)
            if alive:
                found.append(max(alive, key=_standing).summary)
        return tuple(found)

    def get(self, node: PublicKey, now: float) -> Summary | None:
        """The summary of one node that counts, None when it is gone."""
        alive = self._alive(self._nodes.get(node, {}), now)
        return max(alive, key=_standing).summary if alive else None

    def age(self, node: PublicKey, now: float) -> float | None:
        """Seconds since the node last said something new, as far as is known."""
        boots = self._nodes.get(node)
        return max(0.0, now - max(known.heard for known in boots.values())) if boots else None

    def duplicates(self, now: float) -> tuple[Duplicate, ...]:
        """Keys that several live processes speak for. One that ended as the other began is a restart, not this."""
        found: list[Duplicate] = []
        for node, boots in self._nodes.items():
            alive = sorted(self._alive(boots, now), key=_standing, reverse=True)
            others = tuple(known.summary.boot for known in alive[1:] if any(_overlap(known, each) for each in alive))
            if others:
                found.append(Duplicate(node, alive[0].summary.boot, others))
        return tuple(found)

    def digest(self) -> bytes:
        """What is known, for a partner: 16 bytes a process (see `parse_digest`), also of those that expired."""
        return bytes(self._lines)

    def lacking(
        self, theirs: Mapping[bytes, int], now: float, most: int = limits.gossip_summaries_max
    ) -> tuple[Passed, ...]:
        """Live summaries that a partner with this digest has not, at most so many.

        Processes that it has never heard of come first, then those of which it is furthest behind: what is freshest
        here would else crowd out what comes from afar.
        """
        if not self._places:
            return ()
        # all lines at once: in a swarm of a thousand this is asked for a thousand times a second. A sequence is
        # exact as a float (canonical numbers are below 2^53), and what a digest says beyond that is more than any
        ours = np.frombuffer(bytes(self._lines), _columns)
        said = np.fromiter(map(theirs.get, self._names, repeat(-1)), np.float64, len(self._names))
        sequences = ours["sequence"].astype(np.float64)
        (behind,) = ((said < sequences) & (np.frombuffer(self._heard) > now - self._seconds)).nonzero()
        theirs_too = said[behind] >= 0
        gaps = np.maximum(said[behind], 0) - sequences[behind]
        order = behind[np.lexsort((ours["name"][behind], gaps, theirs_too))[:most]]
        chosen = [self._places[int(place)] for place in order]
        return tuple([Passed(known.summary, max(0.0, now - known.heard)) for known in chosen])

    def _write(self, known: _Known) -> None:
        _line.pack_into(self._lines, known.place * _line.size, known.name, known.summary.sequence)

    def _alive(self, boots: Mapping[str, _Known], now: float) -> list[_Known]:
        return [known for known in boots.values() if now - known.heard < self._seconds]

    def _make_room(self, node: PublicKey, said: float) -> bool:
        """Whether one more process has a place; may take that of the stalest, never of one said later."""
        boots = self._nodes.get(node, {})
        if len(boots) >= _boots_max:
            crowd = list(boots.values())
        elif len(self._named) >= self._max:
            crowd = list(self._named.values())
        else:
            return True
        stalest = min(crowd, key=lambda known: (known.linked is not None, known.heard))
        if stalest.linked is not None or stalest.heard > said:
            return False
        self._remove(stalest.summary)
        return True

    def _forget(self, before: float) -> None:
        for known in [known for known in self._named.values() if known.heard < before]:
            self._remove(known.summary)

    def _remove(self, summary: Summary) -> None:
        boots = self._nodes[summary.node]
        known = boots.pop(summary.boot)
        del self._named[known.name]
        last, name, heard = self._places.pop(), self._names.pop(), self._heard.pop()
        if last is not known:  # the last line takes its place
            at = last.place = known.place
            self._places[at], self._names[at], self._heard[at] = last, name, heard
            self._write(last)
        del self._lines[-_line.size :]
        if not boots:
            del self._nodes[summary.node]
        self.version += 1


def parse_digest(raw: bytes) -> dict[bytes, int]:
    """Read `SummaryTable.digest`: sequence by name of a process; `MalformedMessage` for what is none."""
    if len(raw) % _line.size or len(raw) > _line.size * limits.nodes_known_max:
        raise MalformedMessage(
            f"gossip digest: expected at most {limits.nodes_known_max} lines of {_line.size} bytes, "
            f"found {len(raw)} bytes"
        )
    return dict(_line.iter_unpack(raw))


def _standing(known: _Known) -> tuple[float, int, str]:
    """Which process of a key counts: the one proven last over a link that is up, else the one started last."""
    proven = float("-inf") if known.linked is None else known.linked
    return proven, known.summary.started, known.summary.boot


def _overlap(one: _Known, other: _Known) -> bool:
    """Whether both said something new while the other ran."""
    return one is not other and min(one.heard, other.heard) > max(one.first, other.first) + _overlap_seconds


@functools.lru_cache(limits.nodes_known_max)
def _name(node: PublicKey, boot: str) -> bytes:
    """Eight bytes for one process: enough that none is missed by accident, and a miss costs one round."""
    return hashlib.blake2b(f"{node}{boot}".encode("ascii"), digest_size=8).digest()
