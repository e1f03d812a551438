"""What this node has measured of each peer that it asked; nothing of it comes from what a peer says. Pure.

The time of a call is kept as a line over its rows (fixed seconds, seconds a row), fitted to the recent calls with
exponential weights, so that long prompts and single tokens tell about each other. What was never measured is None.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from statistics import median
from typing import Final, Literal, TypeAlias

from blyan.primitives import limits
from blyan.primitives.ids import PayloadId, PublicKey

Failure: TypeAlias = Literal["timeout", "lost", "refused", "corrupt", "not_held"]

forget_s: Final = 30.0  # in which a measurement loses half its weight
_weight: Final = 0.15  # of the newest value in a running mean
_ring: Final = 64  # values that a percentile is taken of
_pings: Final = 15  # of the newest, whose middle one is the usual round trip
_share: Final = 0.95
bulk_bytes: Final = 64 * 1024  # below it a transfer tells of latency, not of bandwidth


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of one peer, by this node's own clock."""

    rtt_s: float | None = None  # of a ping, usually: not of one that a node which stood still answered late
    rtt_p95_s: float | None = None
    fixed_s: float | None = None  # of a call, however small
    row_s: float | None = None  # for each of its rows
    spread: float | None = None  # 95th percentile of how many times as long as expected a call took
    call_s: float | None = None  # of a call, on average
    call_p95_s: float | None = None
    rows_per_s: float | None = None
    bytes_per_s: float | None = None  # of transfers that are large enough to tell
    expert_bytes: int | None = None  # of experts that it has computed with
    calls: int = 0  # that it answered
    rows: int = 0
    rows_waiting: int = 0  # sent and not answered
    failures: tuple[tuple[Failure, int], ...] = ()  # by kind, those that happened
    last: float | None = None  # when it last answered anything
    last_call: float | None = None  # a call that was timed
    last_refused: float | None = None  # when its queue was full

    def expected_s(self, rows: int) -> float | None:
        """Seconds that a call of so many rows should take."""
        if self.fixed_s is None or self.row_s is None:
            return None
        return self.fixed_s + self.row_s * rows


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """What a peer took for layers of one model, by the last trial calls."""

    call_s: float  # of each call, round trip aside
    layer_s: float  # for a layer of one row
    row_s: float  # for each row more of a layer
    bytes_per_s: float  # of hidden states there and back; infinite where that was too quick to tell
    at: float  # when it was measured

    def seconds(self, layers: int, rows: int) -> float:
        """What a call should take, round trip aside."""
        return self.call_s + layers * (self.layer_s + self.row_s * (rows - 1))


@dataclass(slots=True)
class _Line:
    """Seconds over rows by exponentially weighted least squares through positive coefficients."""

    count: int = 0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def add(self, rows: int, seconds: float, gap: float) -> None:
        """One more call, `gap` seconds after the last: what was known before counts for less the older it is."""
        self.count += 1
        weight = max(1 - (1 - _weight) * 0.5 ** (gap / forget_s), 1 / self.count)
        self.x += weight * (rows - self.x)
        self.y += weight * (seconds - self.y)
        self.xx += weight * (rows * rows - self.xx)
        self.xy += weight * (rows * seconds - self.xy)

    def fit(self) -> tuple[float, float]:
        """Fixed seconds and seconds a row. Calls of one size only tell of that size: all is fixed then."""
        variance = self.xx - self.x * self.x
        slope = (self.xy - self.x * self.y) / variance if variance > 0.01 * self.x * self.x else 0.0
        slope = min(max(slope, 0.0), self.y / max(self.x, 1.0))
        return self.y - slope * self.x, slope


@dataclass(slots=True)
class _Peer:
    rtts: deque[float] = field(default_factory=lambda: deque[float](maxlen=_ring))
    line: _Line = field(default_factory=_Line)
    seconds: deque[float] = field(default_factory=lambda: deque[float](maxlen=_ring))
    ratios: deque[float] = field(default_factory=lambda: deque[float](maxlen=_ring))
    rows_rate: float | None = None
    bytes_rate: float | None = None
    used: dict[PayloadId, int] = field(default_factory=dict[PayloadId, int])  # experts as bits, by manifest
    used_bytes: int = 0
    calls: int = 0
    rows: int = 0
    waiting: int = 0
    layers: dict[PayloadId, LayerTimes] = field(default_factory=dict[PayloadId, LayerTimes])
    failures: dict[Failure, int] = field(default_factory=dict[Failure, int])
    last: float | None = None
    last_call: float | None = None
    last_refused: float | None = None

    def gap(self, now: float) -> float:
        """Seconds since the last call that was measured."""
        return 0.0 if self.last_call is None else max(0.0, now - self.last_call)


class Measurements:
    """Of every peer. The caller says what it saw; durations in seconds, `now` on its monotonic clock."""

    def __init__(self) -> None:
        self._peers: dict[PublicKey, _Peer] = {}

    def ping(self, node: PublicKey, seconds: float, now: float) -> None:
        """A ping was answered after so long."""
        peer = self._peer(node)
        peer.rtts.append(seconds)
        peer.last = now

    def call_began(self, node: PublicKey, rows: int) -> None:
        """A call of so many rows was sent."""
        self._peer(node).waiting += rows

    def call_ended(
        self, node: PublicKey, rows: int, seconds: float, sent: int, now: float, *, opened: bool = False
    ) -> None:
        """A call was answered and verified; `sent` bytes there and back.

        `opened`: of an expert that it had not computed with before. It may have had to read and verify it, which takes
        many times as long as to compute, and tells nothing of the next call.
        """
        peer = self._peer(node)
        peer.waiting = max(0, peer.waiting - rows)
        peer.calls += 1
        peer.rows += rows
        peer.last = now
        if opened:
            return
        if peer.line.count:
            fixed, slope = peer.line.fit()
            peer.ratios.append(seconds / max(fixed + slope * rows, 1e-6))
        peer.line.add(rows, seconds, peer.gap(now))
        peer.seconds.append(seconds)
        peer.rows_rate = _mean(peer.rows_rate, rows / max(seconds, 1e-6))
        if sent >= bulk_bytes:
            peer.bytes_rate = _mean(peer.bytes_rate, sent / max(seconds, 1e-6))
        peer.last_call = now

    def call_dropped(self, node: PublicKey, rows: int) -> None:
        """A call will not be answered, or its answer is not wanted any more: its rows wait no longer."""
        peer = self._peer(node)
        peer.waiting = max(0, peer.waiting - rows)

    def anew(self, node: PublicKey) -> None:
        """It was away and is back: how long its calls took before tells nothing of now, nor what it had open."""
        peer = self._peer(node)
        peer.line = _Line()
        peer.used.clear()
        peer.used_bytes = 0
        peer.seconds.clear()
        peer.ratios.clear()

    def outrun(self, node: PublicKey, rows: int, seconds: float, now: float) -> None:
        """After so many seconds another had answered a call: it would have taken at least that."""
        peer = self._peer(node)
        fixed, slope = peer.line.fit() if peer.line.count else (0.0, 0.0)
        if seconds > fixed + slope * rows:
            peer.line.add(rows, seconds, peer.gap(now))
            peer.last_call = now

    def transferred(self, node: PublicKey, count: int, seconds: float, now: float) -> None:
        """So many bytes of blocks came from it, verified."""
        peer = self._peer(node)
        if count >= bulk_bytes:
            peer.bytes_rate = _mean(peer.bytes_rate, count / max(seconds, 1e-6))
        peer.last = now

    def computed_with(self, node: PublicKey, manifest: PayloadId, number: int, size: int) -> bool:
        """It computed with a routed expert of `size` bytes, by its number in the model: it has the memory for it.

        Whether that was the first time since it is here.
        """
        peer = self._peer(node)
        bits = peer.used.get(manifest, 0)
        if bits >> number & 1:
            return False
        peer.used[manifest] = bits | 1 << number
        peer.used_bytes += size
        return True

    def layers_timed(self, node: PublicKey, model: PayloadId, times: LayerTimes) -> None:
        """Layers of a model were tried at it: earlier trials count no more."""
        peer = self._peer(node)
        peer.layers.pop(model, None)
        peer.layers[model] = times
        if len(peer.layers) > limits.models_timed_max:
            del peer.layers[next(iter(peer.layers))]

    def layers(self, node: PublicKey, model: PayloadId) -> LayerTimes | None:
        """What layers of a model took at it, if that was ever measured."""
        peer = self._peers.get(node)
        return None if peer is None else peer.layers.get(model)

    def failed(self, node: PublicKey, kind: Failure, now: float) -> None:
        """Something that was asked of it failed in this way."""
        peer = self._peer(node)
        peer.failures[kind] = peer.failures.get(kind, 0) + 1
        if kind == "refused":
            peer.last_refused = now

    def forget(self, node: PublicKey) -> None:
        """Drop what is known of a peer that is gone for good."""
        self._peers.pop(node, None)

    def of(self, node: PublicKey) -> Measured:
        """What is known of one peer."""
        peer = self._peers.get(node)
        if peer is None:
            return Measured()
        fixed, slope = peer.line.fit() if peer.line.count else (None, None)
        return Measured(
            _usual(peer.rtts),
            p95(peer.rtts),
            fixed,
            slope,
            p95(peer.ratios),
            peer.line.y if peer.line.count else None,
            p95(peer.seconds),
            peer.rows_rate,
            peer.bytes_rate,
            peer.used_bytes if peer.used else None,
            peer.calls,
            peer.rows,
            peer.waiting,
            tuple(sorted(peer.failures.items())),
            peer.last,
            peer.last_call,
            peer.last_refused,
        )

    def _peer(self, node: PublicKey) -> _Peer:
        peer = self._peers.get(node)
        if peer is None:
            peer = self._peers[node] = _Peer()
        return peer


def _usual(values: deque[float]) -> float | None:
    """The middle one of the newest, None of nothing."""
    return median(islice(reversed(values), _pings)) if values else None


def p95(values: deque[float]) -> float | None:
    """The 95th percentile (nearest rank), None of nothing."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(_share * len(values)) - 1)]


def _mean(before: float | None, value: float) -> float:
    return value if before is None else before + _weight * (value - before)
