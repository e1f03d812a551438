"""Who is asked for what: the table alone, with a clock of the test's."""

from __future__ import annotations

import pytest

from blyan.network.items import Ask, Flight, Wanted
from blyan.network.pieces import PieceTable
from blyan.primitives.errors import InvalidInput
from blyan.primitives.ids import PayloadId, payload_id
from blyan.primitives.limits import payloads_open_max, peer_attempts_max, subtile_bytes, subtiles_per_tile


def payload(number: int) -> PayloadId:
    return payload_id(f"{number:064x}")


def table(*subtiles: int, sources: int = 1, **more: int) -> PieceTable:
    wanted = [Wanted(payload(order), count * subtile_bytes) for order, count in enumerate(subtiles)]
    return PieceTable(wanted, [None] * sources, **more)


def opened(pieces: PieceTable, source: int = 0, now: float = 0.0) -> None:
    """The next payload's index comes from a source."""
    ask = pieces.take(source, now)
    assert isinstance(ask, Ask)
    assert pieces.answered(ask)
    pieces.opened(ask.item, range(len(ask.item.marks)))


def flight(pieces: PieceTable, source: int = 0, now: float = 0.0) -> Flight:
    found = pieces.take(source, now)
    assert isinstance(found, Flight)
    return found


def land(pieces: PieceTable, landed: Flight) -> int:
    landed.got = landed.length
    count = pieces.landed(landed.item, range(landed.first, landed.end))
    pieces.ended(landed)
    return count


def test_a_piece_is_what_a_source_sends_in_about_a_second() -> None:
    """A tile at most, one subtile at least; of one whose speed nobody knows a little."""
    pieces = table(100)
    opened(pieces)
    first = flight(pieces)
    assert first.end - first.first == 4
    for seconds, expected in ((4.0, 1), (0.001, subtiles_per_tile)):
        pieces.sources[0].speed = 0.0
        pieces.sources[0].served(first.length, seconds)
        piece = flight(pieces)
        assert piece.end - piece.first == expected
        land(pieces, piece)


def test_nothing_is_asked_for_twice_while_there_is_something_to_begin() -> None:
    """Each subtile once, and the payload is whole in the end."""
    pieces = table(30, sources=3)
    opened(pieces)
    asked: list[int] = []
    for turn in range(8):
        piece = flight(pieces, turn % 3)
        asked += range(piece.first, piece.end)
        land(pieces, piece)
    assert sorted(asked) == list(range(30))
    assert pieces.items[0].stage == "finishing"
    assert pieces.take(0, 9.0) is None
    pieces.done(pieces.items[0])
    assert pieces.finished


def test_what_did_not_land_is_asked_of_another() -> None:
    """And what did is not."""
    pieces = table(4, sources=2)
    opened(pieces)
    first = flight(pieces)
    assert pieces.landed(first.item, [first.first]) == subtile_bytes
    pieces.ended(first)
    second = flight(pieces, 1)
    assert (second.first, second.end) == (1, 4)


def test_payloads_that_few_have_come_first() -> None:
    """As far as it is known who has what."""
    wanted = [Wanted(payload(order), 2 * subtile_bytes) for order in range(3)]
    holds = frozenset({payload(0), payload(1)})
    pieces = PieceTable(wanted, [None, holds, holds, None])
    pieces.close(3, pieces.items[1], "not there")
    order: list[int] = []
    for _ in range(3):
        ask = pieces.take(0, 0.0)
        assert isinstance(ask, Ask)
        order.append(ask.item.order)
    assert order == [2, 1, 0]
    assert pieces.take(1, 0.0) is None, "others are asking for what it has"


def test_a_slow_piece_is_asked_of_a_second_source_and_the_first_answer_counts() -> None:
    """Only once the pace is known, only of one that is quicker, and of one only."""
    pieces = table(4, sources=3)
    opened(pieces)
    slow = flight(pieces)
    stopped: list[str] = []
    slow.stop = lambda: stopped.append("slow")
    pieces.sources[1].speed = 100 * subtile_bytes
    assert pieces.take(1, 0.1) is None
    slow.got = subtile_bytes
    assert pieces.take(1, 0.2) is not None
    second = slow.item.flights[-1]
    assert (second.source, second.first, second.end) == (1, 0, 4)
    assert pieces.take(2, 5.0) is None, "two are enough"
    assert land(pieces, second) == 4 * subtile_bytes
    assert stopped == ["slow"]
    pieces.ended(slow)
    assert pieces.items[0].stage == "finishing"


def test_a_quick_piece_is_left_with_its_source() -> None:
    """Whoever would take as long does not ask for it too."""
    pieces = table(4, sources=2)
    opened(pieces)
    quick = flight(pieces)
    quick.got = 3 * subtile_bytes
    pieces.sources[1].speed = subtile_bytes
    assert pieces.take(1, 0.5) is None


def test_where_rates_hold_pieces_up_only_silence_counts() -> None:
    """Their pace says nothing of the source."""
    pieces = table(4, sources=2, rate=10 * subtile_bytes)
    opened(pieces)
    held = flight(pieces)
    assert held.end - held.first == 2
    flight(pieces, 1)
    held.heard = 10.0
    assert pieces.take(1, 11.0) is None
    assert pieces.take(1, 12.5) is not None


def test_a_source_that_fails_is_set_back_and_given_up_in_the_end() -> None:
    """Longer each time; what several connections of it say at once counts once; a success begins anew."""
    pieces, now = table(4), 0.0
    opened(pieces)
    for attempt in range(peer_attempts_max):
        piece = flight(pieces, now=now)
        pieces.failed(0, "reset", now)
        pieces.failed(0, "reset", now)
        pieces.ended(piece)
        assert pieces.take(0, now + 0.4) is None
        assert pieces.finished is (attempt == peer_attempts_max - 1)
        now += 30
    assert pieces.items[0].stage == "failed"
    assert pieces.why(0, pieces.items[0]) == f"reset in {peer_attempts_max} attempts"


def test_a_pause_that_a_source_asks_for_is_heeded_within_limits() -> None:
    """`Retry-After`: 30 s at most."""
    pieces = table(4)
    pieces.failed(0, "busy", 0.0, 20.0)
    assert pieces.take(0, 19.0) is None
    assert pieces.take(0, 20.0) is not None
    pieces.failed(0, "busy", 20.0, 9_999.0)
    assert pieces.take(0, 51.0) is None, "it was asked already"
    assert pieces.sources[0].not_before == 50.0


def test_a_tile_index_is_asked_of_a_second_source_when_it_takes_long() -> None:
    """Whichever comes first is taken."""
    pieces = table(4, sources=2)
    first = pieces.take(0, 0.0)
    assert pieces.take(1, 0.9) is None
    second = pieces.take(1, 1.1)
    assert isinstance(first, Ask)
    assert isinstance(second, Ask)
    assert pieces.answered(second)
    pieces.opened(second.item, range(4))
    assert not pieces.answered(first)
    assert isinstance(pieces.take(1, 1.2), Flight)


@pytest.mark.parametrize("given", [True, False])
def test_bytes_are_taken_of_a_source_without_indexes(given: bool) -> None:
    """Once another gave the index; if nobody has one, it cannot be had."""
    pieces = table(4, sources=2)
    ask = pieces.take(0, 0.0)
    assert isinstance(ask, Ask)
    pieces.unanswered(ask, absent=True)
    assert pieces.take(0, 0.0) is None
    if given:
        opened(pieces, source=1)
        assert isinstance(pieces.take(0, 0.0), Flight)
        return
    ask = pieces.take(1, 0.0)
    assert isinstance(ask, Ask)
    pieces.unanswered(ask, absent=True)
    assert pieces.items[0].stage == "failed"
    assert pieces.why(1, pieces.items[0]) == "no tile index of it"


def test_a_source_without_ranges_streams_and_others_work_from_the_end() -> None:
    """So that they meet."""
    pieces = table(40, sources=2)
    opened(pieces)
    pieces.sources[0].ranges = False
    stream = flight(pieces)
    assert (stream.stream, stream.first, stream.end) == (True, 0, 40)
    assert pieces.take(0, 0.0) is None
    piece = flight(pieces, 1)
    assert (piece.first, piece.end) == (36, 40)


def test_only_so_many_payloads_are_open_at_once() -> None:
    """Each takes its room on the disk at once."""
    pieces = table(*[2] * (payloads_open_max + 5), sources=2)
    for _ in range(payloads_open_max):
        assert isinstance(pieces.take(0, 0.0), Ask)
    assert pieces.take(0, 0.0) is None


def test_a_payload_that_nobody_may_give_is_over_at_once() -> None:
    """By what is said to be held, or is remembered."""
    wanted = [Wanted(payload(1), 5), Wanted(payload(2), 5)]
    pieces = PieceTable(wanted, [frozenset()], lambda _source, which: "bad" if which == payload(2) else None)
    assert pieces.finished
    assert [pieces.why(0, item) for item in pieces.items] == ["not said to be there", "not said to be there"]
    with pytest.raises(InvalidInput, match="expected 1 to"):
        PieceTable([Wanted(payload(1), 0)], [None])
