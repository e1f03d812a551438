"""What one node says that it holds, less what turned out untrue. Pure.

A node that answered that it has not what its summary says is not asked for that until a newer summary says so again,
and not before some seconds, which double with each summary that was contradicted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from blyan.primitives.ids import PayloadId
from blyan.wire.peer import Summary

_doublings_max: Final = 8


@dataclass(slots=True)
class _Doubt:
    bits: int  # experts that it has not
    boot: str
    sequence: int  # of the newest summary that was contradicted
    until: float
    times: int


@dataclass(slots=True)
class Claims:
    """Of one node, on the models that are served."""

    held: dict[PayloadId, bytes] = field(default_factory=dict[PayloadId, bytes])  # what is believed, as bitmaps
    _doubts: dict[PayloadId, _Doubt] = field(default_factory=dict[PayloadId, _Doubt])

    def believe(self, summary: Summary, counts: Mapping[PayloadId, int], now: float) -> dict[PayloadId, bytes]:
        """Take a summary, which may be the same as before; the bitmaps that are others now. `counts`: experts."""
        changed: dict[PayloadId, bytes] = {}
        for manifest, count in counts.items():
            holding = summary.holdings.get(manifest)
            raw = b"" if holding is None else holding.experts[: (count + 7) >> 3]
            doubt = self._doubts.get(manifest)
            if doubt is not None and raw:
                if now >= doubt.until and (summary.boot, summary.sequence) != (doubt.boot, doubt.sequence):
                    doubt.bits = 0
                raw = (int.from_bytes(raw, "little") & ~doubt.bits).to_bytes(len(raw), "little")
            if self.held.get(manifest) != raw:
                self.held[manifest] = changed[manifest] = raw
        return changed

    def has(self, manifest: PayloadId, number: int) -> bool:
        """Whether it is believed to hold the routed expert with that number."""
        raw = self.held.get(manifest, b"")
        return number >> 3 < len(raw) and bool(raw[number >> 3] >> (number & 7) & 1)

    def contradict(
        self, summary: Summary, manifest: PayloadId, number: int, now: float, wait: float, wait_max: float
    ) -> bool:
        """It answered that it has not what `summary` says; whether that is the first of this summary found untrue."""
        doubt = self._doubts.get(manifest)
        if doubt is not None and (doubt.boot, doubt.sequence) == (summary.boot, summary.sequence):
            doubt.bits |= 1 << number
            return False
        times = 0 if doubt is None else min(doubt.times + 1, _doublings_max)
        bits = doubt.bits if doubt is not None and now < doubt.until else 0
        until = now + min(wait_max, wait * 2.0**times)
        self._doubts[manifest] = _Doubt(bits | 1 << number, summary.boot, summary.sequence, until, times)
        return True

    def counts(self) -> dict[PayloadId, int]:
        """How many experts it is believed to hold, by model."""
        return {manifest: int.from_bytes(raw, "little").bit_count() for manifest, raw in self.held.items()}

    def doubted(self) -> frozenset[PayloadId]:
        """Models of which it has not all that it says."""
        return frozenset(manifest for manifest, doubt in self._doubts.items() if doubt.bits)
