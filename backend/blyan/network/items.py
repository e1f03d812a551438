"""What is known of one wanted payload while it is fetched, and of what was asked for it; pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from blyan.primitives import limits
from blyan.primitives.ids import PayloadId
from blyan.storage.tile import subtile_count

Stage: TypeAlias = Literal["waiting", "asking", "opening", "open", "finishing", "done", "failed"]

_free, _flying, _here = 0, 1, 2  # what is known of one subtile
_silent_seconds: Final = 2.0


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

    @classmethod
    def of(cls, wanted: Wanted, order: int) -> Item:
        """Of which nothing is here; `InvalidInput` for a length that no payload has."""
        count = subtile_count(wanted.length)
        return cls(wanted, order, bytearray(count), left=count)

    @property
    def bare(self) -> bool:
        """One subtile: it verifies by the payload id alone, and needs no index."""
        return len(self.marks) == 1

    @property
    def has_free(self) -> bool:
        """Whether a subtile is neither here nor asked for."""
        return _free in self.marks

    @property
    def streamed(self) -> bool:
        """Whether a source without ranges sends it."""
        return any(flight.stream for flight in self.flights)

    def bytes_of(self, first: int, end: int) -> int:
        """How long a run of subtiles is."""
        return min(end * limits.subtile_bytes, self.wanted.length) - first * limits.subtile_bytes

    def missing(self, first: int, end: int) -> list[int]:
        """Which subtiles of a run are not here."""
        return [number for number in range(first, end) if self.marks[number] != _here]

    def opened(self, missing: Sequence[int]) -> None:
        """Everything but `missing` is here."""
        self.marks[:] = bytes([_here]) * len(self.marks)
        for number in missing:
            self.marks[number] = _free
        self.left = len(missing)

    def take_run(self, count: int) -> tuple[int, int]:
        """A run of at most `count` free subtiles, which fly from now on; from the end, where a source streams."""
        if self.streamed:
            end = self.marks.rfind(_free) + 1
            first = end - 1
            while first > 0 and end - first < count and self.marks[first - 1] == _free:
                first -= 1
        else:
            first = self.marks.find(_free)
            end = first + 1
            while end < len(self.marks) and end - first < count and self.marks[end] == _free:
                end += 1
        self.marks[first:end] = bytes([_flying]) * (end - first)
        return first, end

    def landed(self, numbers: Sequence[int]) -> int:
        """Subtiles are here; how many bytes that were not."""
        count = 0
        for number in numbers:
            if self.marks[number] != _here:
                self.marks[number] = _here
                self.left -= 1
                count += self.bytes_of(number, number + 1)
        return count

    def ended(self, flight: Flight) -> None:
        """A flight is over: what did not land is free again, unless another one has it."""
        self.flights.remove(flight)
        if not flight.stream:
            for number in self.missing(flight.first, flight.end):
                if not any(other.first <= number < other.end for other in self.flights if not other.stream):
                    self.marks[number] = _free

    def alone(self, flight: Flight) -> bool:
        """Whether nobody else was asked for any of it."""
        return not any(
            other is not flight and not other.stream and other.first < flight.end and flight.first < other.end
            for other in self.flights
        )


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

    @property
    def needless(self) -> bool:
        """Whether all of it is here."""
        return not (self.item.left if self.stream else self.item.missing(self.first, self.end))

    def seconds_left(self, now: float, *, paced: bool) -> float:
        """How long the rest of it will take at the pace so far; 0 if that is not to be judged yet.

        Where rates hold answers up (`paced`) their pace says nothing: there only silence counts.
        """
        age = now - self.began
        rest = self.length - self.got
        if paced and now - max(self.began, self.heard) < _silent_seconds:
            return 0.0
        if not rest or self.stream:
            return 0.0
        return rest * age / self.got if self.got else float("inf")


@dataclass(slots=True, eq=False)
class Ask:
    """A source was asked for a payload's tile index."""

    source: int
    item: Item
    began: float
