"""Who fetches what next: which subtiles of which payload a source is asked for. Pure: no clock, no socket, no disk.

Sources pull work, so a fast one does more. A piece is as long as a source sends in about a second, a tile at most.
Payloads that few sources have come first. When nothing is left to begin, a free source takes over the piece of one that
needs longer: the first answer counts. What each method is told is a fact (these subtiles were verified, that source
failed); what it answers is a decision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from blyan.network.items import Ask, Flight, Item, Wanted
from blyan.network.standing import Standing
from blyan.primitives import limits
from blyan.primitives.ids import PayloadId

absent: Final = "not there"
no_index: Final = "no tile index of it"
not_said: Final = "not said to be there"
_paced_seconds: Final = 0.2
_overtaken_after: Final = 0.2  # seconds that a piece is left alone with its source
_asked_again_after: Final = 1.0  # seconds until a second source is asked for a tile index


class _RarestFirst:
    """Payloads that nobody was asked for yet."""

    def __init__(self) -> None:
        self._items: dict[int, dict[int, Item]] = {}  # givers → order → item

    def add(self, item: Item) -> None:
        """It waits."""
        self._items.setdefault(item.givers, {})[item.order] = item

    def remove(self, item: Item) -> None:
        """It does not, if it did; before its `givers` change."""
        self._items.get(item.givers, {}).pop(item.order, None)

    def first_for(self, number: int) -> Item | None:
        """The one that fewest sources have and this one may have, with its index."""
        for givers in sorted(self._items):
            for item in self._items[givers].values():
                if number not in item.closed and number not in item.without_index:
                    return item
        return None


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
        self.sources = [Standing() for _ in holds]
        self._paced = bool(rate)
        self._piece_max = limits.subtiles_per_tile
        if rate:  # pieces that come within a moment, so that all sources share what there is
            self._piece_max = max(1, min(round(rate * _paced_seconds / limits.subtile_bytes), self._piece_max))
        self.items = [Item.of(each, order) for order, each in enumerate(wanted)]
        self._unfinished = len(self.items)
        self._open: dict[int, Item] = {}  # by order: whatever is neither waiting nor over
        self._waiting = _RarestFirst()
        for item in self.items:
            for number, held in enumerate(holds):
                lacks = held is not None and item.wanted.payload not in held
                if (why := not_said if lacks else why_not(number, item.wanted.payload)) is not None:
                    item.closed[number] = why
            item.givers = len(self.sources) - len(item.closed)
            self._wait(item)
            self._fail_if_nobody(item)

    @property
    def finished(self) -> bool:
        """Whether every payload is here or cannot be had."""
        return self._unfinished == 0

    def why(self, number: int, item: Item) -> str:
        """Why a payload did not come from a source."""
        if (why := item.closed.get(number)) is not None:
            return why
        if not self.sources[number].alive:
            return self.sources[number].why
        return no_index if number in item.without_index else "not given"

    # -- decisions

    def take(self, number: int, now: float) -> Flight | Ask | None:
        """What this source is to be asked for now; None if for nothing."""
        source = self.sources[number]
        if not source.alive or now < source.not_before:
            return None
        able = [item for item in self._open.values() if item.stage == "open" and number not in item.closed]
        fitting = [item for item in able if (item.has_free if source.ranges else not item.streamed)]
        if fitting:
            return self._fly(number, min(fitting, key=lambda item: (item.givers, item.order)), now)
        if len(self._open) < limits.payloads_open_max and (item := self._waiting.first_for(number)) is not None:
            return self._open_one(number, item, now)
        if (ask := self._ask_again(number, now)) is not None or not source.ranges:
            return ask
        last = _last_to_come(able, number, source.speed, now, paced=self._paced)
        return None if last is None else _flight(number, last.item, last.first, last.end, now)

    def pause(self, number: int, now: float) -> float:
        """Seconds for which there is nothing to ask of this source, unless others change it."""
        return max(self.sources[number].not_before - now, 0.0) or _overtaken_after / 2

    def _fly(self, number: int, item: Item, now: float) -> Flight:
        source = self.sources[number]
        if source.ranges:
            first, end = item.take_run(min(source.piece(), self._piece_max))
            return _flight(number, item, first, end, now)
        return _flight(number, item, 0, len(item.marks), now, stream=True)

    def _open_one(self, number: int, item: Item, now: float) -> Flight | Ask:
        self._waiting.remove(item)
        self._open[item.order] = item
        if item.bare:
            item.stage = "open"
            return self._fly(number, item, now)
        item.stage = "asking"
        return self._ask(number, item, now)

    def _ask(self, number: int, item: Item, now: float) -> Ask:
        ask = Ask(number, item, now)
        item.asks.append(ask)
        return ask

    def _ask_again(self, number: int, now: float) -> Ask | None:
        """A tile index that another source is long asked for."""
        for item in self._open.values():
            if item.stage == "asking" and len(item.asks) == 1:
                able = number not in item.closed and number not in item.without_index
                if able and item.asks[0].source != number and now - item.asks[0].began > _asked_again_after:
                    return self._ask(number, item, now)
        return None

    # -- facts

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
        if ask.item.stage != "asking":
            return False
        ask.item.stage = "opening"
        return True

    def opened(self, item: Item, missing: Sequence[int]) -> None:
        """The tile index is here, and so is every subtile that is not `missing`."""
        item.opened(missing)
        item.stage = "open" if missing else "finishing"
        self._fail_if_nobody(item)

    def refused(self, item: Item) -> None:
        """The tile index that came was not the payload's: another source is to be asked."""
        self._wait(item)
        self._fail_if_nobody(item)

    def landed(self, item: Item, numbers: Sequence[int]) -> int:
        """Subtiles were verified and written; how many bytes of the payload are here that were not.

        Every flight that nobody needs any more is stopped.
        """
        count = item.landed(numbers)
        if not item.left and item.stage == "open":
            item.stage = "finishing"
        for flight in item.flights:
            if flight.needless:
                flight.stop()
        return count

    def ended(self, flight: Flight) -> None:
        """The source is done with it, or gave up."""
        item = flight.item
        item.ended(flight)
        if item.bare and item.stage == "open" and not item.flights:
            self._wait(item)
        self._fail_if_nobody(item)

    def close(self, number: int, item: Item, why: str) -> None:
        """This source is not asked for this payload again."""
        if number not in item.closed:
            item.closed[number] = why
            if self.sources[number].alive:
                self._one_giver_less(item)

    def failed(self, number: int, why: str, now: float, pause: float | None = None) -> None:
        """A source did not answer, or broke off; it may ask for a pause."""
        source = self.sources[number]
        was_alive = source.alive
        source.failed(why, now, pause)
        if was_alive and not source.alive:
            for item in self.items:
                if item.stage not in ("done", "failed") and number not in item.closed:
                    self._one_giver_less(item)

    def done(self, item: Item) -> None:
        """The payload is a blob."""
        item.stage = "done"
        self._unfinished -= 1
        del self._open[item.order]

    def _wait(self, item: Item) -> None:
        item.stage = "waiting"
        self._open.pop(item.order, None)
        self._waiting.add(item)

    def _one_giver_less(self, item: Item) -> None:
        self._waiting.remove(item)
        item.givers -= 1
        if item.stage == "waiting":
            self._waiting.add(item)
        self._fail_if_nobody(item)

    def _fail_if_nobody(self, item: Item) -> None:
        """A payload that nobody can give and nobody is giving cannot be had now."""
        if item.stage not in ("waiting", "asking", "open") or item.flights or item.asks:
            return
        for number, source in enumerate(self.sources):
            if (
                source.alive
                and number not in item.closed
                and (item.stage == "open" or number not in item.without_index)
            ):
                return
        self._waiting.remove(item)
        self._open.pop(item.order, None)
        item.stage = "failed"
        self._unfinished -= 1


def _flight(number: int, item: Item, first: int, end: int, now: float, *, stream: bool = False) -> Flight:
    flight = Flight(number, item, first, end, now, stream)
    item.flights.append(flight)
    return flight


def _last_to_come(able: Sequence[Item], number: int, speed: float, now: float, *, paced: bool) -> Flight | None:
    """The piece that would come last, if this source is quicker with all of it than the other with its rest."""
    seconds = {
        flight: flight.seconds_left(now, paced=paced)
        for item in able
        for flight in item.flights
        if flight.source != number and now - flight.began >= _overtaken_after and item.alone(flight)
    }
    last = max(seconds, key=seconds.__getitem__, default=None)
    if last is None or seconds[last] <= (2 * last.length / speed if speed else 0.0):
        return None
    return last
