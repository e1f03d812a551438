"""Who fetches what next: which subtiles of which payload a source is asked for. Pure: no clock, no socket, no disk.

Sources pull work, so a fast one does more. A piece is as long as a source sends in about a second, a tile at most.
Payloads that few sources have come first. When nothing is left to begin, a free source takes over the piece of one that
needs longer: the first answer counts. What each method is told is a fact (these subtiles were verified, that source
failed); what it answers is a decision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from blyan.primitives import limits
from blyan.primitives.ids import PayloadId
from blyan.storage.tile import subtile_count

Stage: TypeAlias = Literal["waiting", "asking", "opening", "open", "finishing", "done", "failed"]

absent: Final = "not there"
no_index: Final = "no tile index of it"
not_said: Final = "not said to be there"
_free, _flying, _here = 0, 1, 2  # what is known of one subtile
_first_subtiles: Final = 4  # asked of a source whose speed nobody knows
_piece_seconds: Final = 1.0
_paced_seconds: Final = 0.2
_overtaken_after: Final = 0.2  # seconds that a piece is left alone with its source
_silent_seconds: Final = 2.0  # the same where rates hold answers up, so that their pace says nothing of a source
_asked_again_after: Final = 1.0  # seconds until a second source is asked for a tile index
_pause_seconds: Final = 0.5  # after a first failure, twice as long after each other


@dataclass(frozen=True, slots=True)
class Wanted:
    """A payload to fetch."""

    payload: PayloadId
    length: int  # bytes


@dataclass(slots=True, eq=False)
class Item:
    """What is known of one wanted payload."""

    wanted: Wanted
    order: int
    marks: bytearray  # one of _free, _flying, _here for each subtile
    givers: int = 0  # sources that may have it
    stage: Stage = "waiting"
    left: int = 0  # subtiles that are not here
    flights: list[Flight] = field(default_factory=list["Flight"])
    asks: list[Ask] = field(default_factory=list["Ask"])
    closed: dict[int, str] = field(default_factory=dict[int, str])  # sources that are not asked for it: why
    without_index: set[int] = field(default_factory=set[int])

    @property
    def bare(self) -> bool:
        """One subtile: it verifies by the payload id alone, and needs no index."""
        return len(self.marks) == 1

    def bytes_of(self, first: int, end: int) -> int:
        """How long a run of subtiles is."""
        return min(end * limits.subtile_bytes, self.wanted.length) - first * limits.subtile_bytes


@dataclass(slots=True, eq=False)
class Flight:
    """A run of subtiles that one source was asked for; `stream`: from the payload's start, by one without ranges."""

    source: int
    item: Item
    first: int
    end: int
    began: float
    stream: bool = False
    got: int = 0  # bytes that came
    heard: float = 0.0  # when the last came, or will be asked for
    stop: Callable[[], None] = lambda: None  # called when nobody needs it any more

    @property
    def length(self) -> int:
        """Bytes of the run."""
        return self.item.bytes_of(self.first, self.end)


@dataclass(slots=True, eq=False)
class Ask:
    """A source was asked for a payload's tile index."""

    source: int
    item: Item
    began: float


@dataclass(slots=True)
class _Source:
    holds: frozenset[PayloadId] | None
    alive: bool = True
    why: str = ""  # the last failure
    failures: int = 0  # in a row
    not_before: float = 0.0
    speed: float = 0.0  # bytes a second of one connection; 0: unknown
    ranges: bool = True


class PieceTable:
    """All payloads of one fetch and all sources, by their number in the order they were given."""

    def __init__(
        self,
        wanted: Sequence[Wanted],
        holds: Sequence[frozenset[PayloadId] | None],
        why_not: Callable[[int, PayloadId], str | None] = lambda _number, _payload: None,
        *,
        rate: int = 0,  # bytes a second that a source may be asked for; 0: any
    ) -> None:
        self._sources = [_Source(each) for each in holds]
        self._paced = bool(rate)
        self._piece_max = limits.subtiles_per_tile
        if rate:  # pieces that come within a moment, so that all sources share what there is
            self._piece_max = max(1, min(round(rate * _paced_seconds / limits.subtile_bytes), self._piece_max))
        self.items = [Item(each, order, bytearray(subtile_count(each.length))) for order, each in enumerate(wanted)]
        self._unfinished = len(self.items)
        self._open: dict[int, Item] = {}  # open or finishing, by order
        self._waiting: dict[int, dict[int, Item]] = {}  # givers → order → item
        for item in self.items:
            for number, source in enumerate(self._sources):
                if source.holds is not None and item.wanted.payload not in source.holds:
                    item.closed[number] = not_said
                elif (why := why_not(number, item.wanted.payload)) is not None:
                    item.closed[number] = why
            item.givers = len(self._sources) - len(item.closed)
            item.left = len(item.marks)
            self._waiting.setdefault(item.givers, {})[item.order] = item
            self._fail_if_nobody(item)

    @property
    def finished(self) -> bool:
        """Whether every payload is here or cannot be had."""
        return self._unfinished == 0

    def why(self, source: int, item: Item) -> str:
        """Why a payload did not come from a source."""
        if (why := item.closed.get(source)) is not None:
            return why
        if not self._sources[source].alive:
            return self._sources[source].why
        return no_index if source in item.without_index else "not given"

    # -- decisions

    def take(self, number: int, now: float) -> Flight | Ask | None:
        """What this source is to be asked for now; None if for nothing."""
        source = self._sources[number]
        if not source.alive or now < source.not_before:
            return None
        able = [item for item in self._open.values() if item.stage == "open" and self._may_give(number, item)]
        if (flight := self._begin(number, source, able, now)) is not None:
            return flight
        if len(self._open) < limits.payloads_open_max:
            for givers in sorted(self._waiting):
                for item in self._waiting[givers].values():
                    if self._may_give(number, item) and number not in item.without_index:
                        return self._open_one(number, source, item, now)
        return self._overtake(number, source, able, now)

    def pause(self, number: int, now: float) -> float:
        """Seconds for which there is nothing to ask of this source, unless others change it."""
        return max(self._sources[number].not_before - now, 0.0) or _overtaken_after / 2

    def _begin(self, number: int, source: _Source, able: Sequence[Item], now: float) -> Flight | None:
        fitting = [
            item
            for item in able
            if (_free in item.marks if source.ranges else not any(each.stream for each in item.flights))
        ]
        if not fitting:
            return None
        return self._fly(number, source, min(fitting, key=lambda item: (item.givers, item.order)), now)

    def _fly(self, number: int, source: _Source, item: Item, now: float) -> Flight:
        if not source.ranges:
            flight = Flight(number, item, 0, len(item.marks), now, stream=True)
        else:
            first, end = self._run(source, item)
            item.marks[first:end] = bytes([_flying]) * (end - first)
            flight = Flight(number, item, first, end, now)
        item.flights.append(flight)
        return flight

    def _run(self, source: _Source, item: Item) -> tuple[int, int]:
        """A run of free subtiles; from the end, where another source streams from the beginning."""
        count = round(source.speed * _piece_seconds / limits.subtile_bytes) if source.speed else _first_subtiles
        count = max(1, min(count, self._piece_max))
        if any(flight.stream for flight in item.flights):
            end = item.marks.rfind(_free) + 1
            first = end - 1
            while first > 0 and end - first < count and item.marks[first - 1] == _free:
                first -= 1
            return first, end
        first = item.marks.find(_free)
        end = first + 1
        while end < len(item.marks) and end - first < count and item.marks[end] == _free:
            end += 1
        return first, end

    def _open_one(self, number: int, source: _Source, item: Item, now: float) -> Flight | Ask:
        del self._waiting[item.givers][item.order]
        self._open[item.order] = item
        if item.bare:
            item.stage = "open"
            return self._fly(number, source, item, now)
        item.stage = "asking"
        return self._ask(number, item, now)

    def _ask(self, number: int, item: Item, now: float) -> Ask:
        ask = Ask(number, item, now)
        item.asks.append(ask)
        return ask

    def _overtake(self, number: int, source: _Source, able: Sequence[Item], now: float) -> Flight | Ask | None:
        """The piece that would come last, if this source is quicker with all of it than the other with its rest."""
        for item in self._open.values():
            if item.stage == "asking" and len(item.asks) == 1 and self._may_give(number, item):
                other = item.asks[0]
                elsewhere = other.source != number and number not in item.without_index
                if elsewhere and now - other.began > _asked_again_after:
                    return self._ask(number, item, now)
        slowest, longest = None, 0.0
        for item in able if source.ranges else ():
            for flight in item.flights:
                age = now - flight.began
                if flight.source == number or flight.stream or age < _overtaken_after or self._doubled(flight):
                    continue
                if self._paced and now - max(flight.began, flight.heard) < _silent_seconds:
                    continue
                rest = flight.length - flight.got
                theirs = rest * age / flight.got if flight.got else float("inf")
                mine = flight.length / source.speed if source.speed else 0.0
                if rest and theirs > max(longest, 2 * mine):
                    slowest, longest = flight, theirs
        if slowest is None:
            return None
        flight = Flight(number, slowest.item, slowest.first, slowest.end, now)
        slowest.item.flights.append(flight)
        return flight

    def _doubled(self, flight: Flight) -> bool:
        return any(
            other is not flight and not other.stream and other.first < flight.end and flight.first < other.end
            for other in flight.item.flights
        )

    def _may_give(self, number: int, item: Item) -> bool:
        return number not in item.closed

    # -- facts

    def opened(self, item: Item, missing: Sequence[int]) -> None:
        """The tile index is here, and so is every subtile that is not `missing`."""
        item.marks[:] = bytes([_here]) * len(item.marks)
        for number in missing:
            item.marks[number] = _free
        item.left = len(missing)
        item.stage = "open" if missing else "finishing"

    def unanswered(self, ask: Ask, *, absent: bool) -> None:
        """No tile index came of it; `absent`: because that source has none."""
        item = ask.item
        item.asks.remove(ask)
        if absent:
            item.without_index.add(ask.source)
        if item.stage == "asking" and not item.asks:
            self._wait(item)
        self._fail_if_nobody(item)

    def answered(self, ask: Ask) -> bool:
        """A tile index came; whether it is the first of that payload, so that it is to be `opened` or `refused`."""
        ask.item.asks.remove(ask)
        first = ask.item.stage == "asking"
        if first:
            ask.item.stage = "opening"
        return first

    def refused(self, item: Item) -> None:
        """The tile index that came was not the payload's: another source is to be asked."""
        self._wait(item)
        self._fail_if_nobody(item)

    def alive(self, number: int) -> bool:
        """Whether this source is asked at all."""
        return self._sources[number].alive

    def missing(self, item: Item, first: int, end: int) -> list[int]:
        """Which subtiles of a run are not here."""
        return [number for number in range(first, end) if item.marks[number] != _here]

    def landed(self, item: Item, numbers: Sequence[int]) -> int:
        """Subtiles were verified and written; how many bytes of the payload are here that were not.

        Every flight that nobody needs any more is stopped.
        """
        count = 0
        for number in numbers:
            if item.marks[number] != _here:
                item.marks[number] = _here
                item.left -= 1
                count += item.bytes_of(number, number + 1)
        if not item.left and item.stage == "open":
            item.stage = "finishing"
        for flight in item.flights:
            if not (item.left if flight.stream else self.missing(item, flight.first, flight.end)):
                flight.stop()
        return count

    def ended(self, flight: Flight) -> None:
        """The source is done with it, or gave up: what did not land is free again, unless somebody else flies it."""
        item = flight.item
        item.flights.remove(flight)
        if not flight.stream:
            for number in self.missing(item, flight.first, flight.end):
                others = (other for other in item.flights if not other.stream)
                if not any(other.first <= number < other.end for other in others):
                    item.marks[number] = _free
        if item.bare and item.stage == "open" and item.left and not item.flights:
            self._wait(item)
        self._fail_if_nobody(item)

    def close(self, number: int, item: Item, why: str) -> None:
        """This source is not asked for this payload again."""
        if self._may_give(number, item):
            item.closed[number] = why
            if self._sources[number].alive:
                self._one_giver_less(item)

    def served(self, number: int, count: int, seconds: float) -> None:
        """A source gave what it was asked for, at some speed."""
        source = self._sources[number]
        source.failures = 0
        if count >= limits.subtile_bytes:  # less says more of the way there than of the source
            speed = count / max(seconds, 1e-6)
            source.speed = speed if not source.speed else 0.5 * source.speed + 0.5 * speed

    def without_ranges(self, number: int) -> None:
        """A source gives whole payloads only."""
        self._sources[number].ranges = False

    def failed(self, number: int, why: str, now: float, pause: float | None = None) -> None:
        """A source did not answer, or broke off: it is set back, and given up when that happens again and again."""
        source = self._sources[number]
        if not source.alive:
            return
        source.why = why
        if now < source.not_before:
            return  # another connection to it, at the same time
        source.failures += 1
        source.speed /= 2
        own = _pause_seconds * 2 ** (source.failures - 1)
        source.not_before = now + min(max(own, pause or 0.0), limits.source_pause_seconds_max)
        if source.failures >= limits.peer_attempts_max:
            source.alive = False
            source.why = f"{why} in {source.failures} attempts"
            for item in self.items:
                if item.stage not in ("done", "failed") and self._may_give(number, item):
                    self._one_giver_less(item)

    def done(self, item: Item) -> None:
        """The payload is a blob."""
        item.stage = "done"
        self._unfinished -= 1
        self._open.pop(item.order, None)

    def _wait(self, item: Item) -> None:
        item.stage = "waiting"
        self._open.pop(item.order, None)
        self._waiting.setdefault(item.givers, {})[item.order] = item

    def _one_giver_less(self, item: Item) -> None:
        if item.stage == "waiting":
            del self._waiting[item.givers][item.order]
            self._waiting.setdefault(item.givers - 1, {})[item.order] = item
        item.givers -= 1
        self._fail_if_nobody(item)

    def _fail_if_nobody(self, item: Item) -> None:
        """A payload that nobody can give and nobody is giving cannot be had now."""
        if item.stage not in ("waiting", "asking", "open") or item.flights or item.asks:
            return
        able = [
            number
            for number, source in enumerate(self._sources)
            if source.alive
            and self._may_give(number, item)
            and (item.stage == "open" or number not in item.without_index)
        ]
        if not able:
            self._waiting.get(item.givers, {}).pop(item.order, None)
            self._open.pop(item.order, None)
            item.stage = "failed"
            self._unfinished -= 1
