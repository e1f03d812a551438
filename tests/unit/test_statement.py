"""Statements page by page and the holds that stand, in both databases."""

import pytest

from blyan.ledger import reading, statement
from blyan.ledger.store import Store
from blyan.ledger.transfers import Hold, Leg, Post, Settle, Void
from blyan.primitives.errors import NotFound
from ledgers import MINT, now, one, post, with_accounts


def page(store: Store, name: str, before: int | None = None, count: int = 100) -> statement.Page:
    with store.session() as session, session.reading():
        return statement.page(session, reading.account(session, name), before, count)


def holds(store: Store, name: str, count: int = 100) -> list[statement.Standing]:
    with store.session() as session, session.reading():
        return statement.holds(session, reading.account(session, name), count)


def test_a_line_says_what_its_record_did_and_what_there_was_after_it(store: Store) -> None:
    with_accounts(store, "a", "b")
    held = one(store, Hold("chat 1", Leg("a", "b", 300), 60, "asked")).number
    assert held is not None
    settled = one(store, Settle("receipt 1", held, 120, "answered")).number
    lines = page(store, "a").lines
    assert [(each.key, each.kind, each.amount, each.held, each.balance) for each in lines] == [
        ("receipt 1", "settle", -120, 0, 880),
        ("chat 1", "hold", 0, 300, 1_000),
        ("fund a", "post", 1_000, 0, 1_000),
    ]
    assert (lines[0].record, lines[0].time, lines[0].note) == (settled, now(), "answered")


@pytest.mark.parametrize("count", [1, 2, 3, 7, 1_000])
def test_pages_follow_each_other_without_gap_or_repetition(store: Store, count: int) -> None:
    """Records with several entries of one account are one line, wherever a page ends."""
    with_accounts(store, "a", "b", "c")
    for number in range(12):
        legs = (Leg("a", "b", 3), Leg("b", "a", 1), Leg("a", "c", 2)) if number % 2 else (Leg("a", "b", 1),)
        one(store, Post(f"p{number}", legs))
    found: list[statement.Line] = []
    before: int | None = None
    while True:
        got = page(store, "a", before, count)
        assert len(got.lines) <= count
        found += got.lines
        if got.following is None:
            break
        before = got.following
    assert [*(f"p{number}" for number in reversed(range(12))), "fund a"] == [each.key for each in found]
    assert sum(each.amount for each in found) == found[0].balance == 1_000 - 6 * 4 - 6


def test_a_page_before_everything_is_empty(store: Store) -> None:
    with_accounts(store, "a")
    assert page(store, "a", before=0) == statement.Page((), None)
    assert page(store, "a", before=10**15).lines == page(store, "a").lines


def test_an_account_that_nothing_happened_to_has_no_lines(store: Store) -> None:
    with_accounts(store, "a", funds=0)
    assert (page(store, "a").lines, holds(store, "a")) == ((), [])
    with pytest.raises(NotFound):
        page(store, "nobody")


def test_holds_that_stand_are_found_behind_many_that_ended(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statement, "_read_at_once", 4)
    with_accounts(store, "a", "b")
    first = one(store, Hold("old", Leg("a", "b", 10), 600, "the first")).number
    for number in range(5):
        ended = one(store, Hold(f"h{number}", Leg("a", "b", 5), 60)).number
        assert ended is not None
        one(store, Void(f"v{number}", ended))
    last = one(store, Hold("new", Leg("a", "b", 20), 60)).number
    assert [(last, 20, 60, ""), (first, 10, 600, "the first")] == [
        (each.record, each.amount, each.until - each.since, each.note) for each in holds(store, "a")
    ]
    assert [last] == [each.record for each in holds(store, "a", 1)]
    assert holds(store, "b") == []  # promised to it, not by it
    one(store, post("more", MINT.name, "b", 1))
