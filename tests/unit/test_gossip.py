"""What counts of what was heard: newer sequences, restarts, copies of a key, and nobody lives on hearsay."""

from itertools import pairwise

import pytest

from blyan.network.gossip import Duplicate, SummaryTable, parse_digest
from blyan.primitives import limits
from blyan.primitives.errors import MalformedMessage
from swarms import node, said


def test_a_newer_sequence_replaces_and_an_older_one_never_does() -> None:
    table = SummaryTable()
    assert table.offer(said(1, 2), 0.0)
    assert table.offer(said(1, 3), 1.0)
    assert not table.offer(said(1, 2), 2.0)
    assert table.live(2.0) == (said(1, 3),)


def test_a_node_that_says_nothing_new_for_a_minute_is_gone() -> None:
    table = SummaryTable()
    table.offer(said(1), 0.0)
    assert table.live(59.9) == (said(1),)
    assert table.live(60.0) == ()


def test_hearing_the_same_again_extends_no_life() -> None:
    table = SummaryTable()
    table.offer(said(1), 0.0)
    for second in range(1, 60):
        table.offer(said(1), float(second))
    assert table.live(60.0) == ()


def test_what_expired_is_not_brought_back_by_a_partner() -> None:
    table = SummaryTable()
    table.offer(said(1), 0.0)
    assert table.live(100.0) == ()
    assert not table.offer(said(1), 100.0)
    assert table.live(100.0) == ()


def test_the_age_that_a_bringer_says_counts_against_the_life() -> None:
    table = SummaryTable()
    table.offer(said(1), 0.0, age=50.0)
    assert table.live(9.9) == (said(1),)
    assert table.live(10.0) == ()
    assert not table.offer(said(2), 0.0, age=60.0)


def test_a_summary_passed_on_from_node_to_node_lives_no_longer_than_with_the_first() -> None:
    tables = [SummaryTable() for _ in range(10)]
    tables[0].offer(said(1), 0.0)
    for at, (giver, taker) in enumerate(pairwise(tables)):
        now = 6.0 * (at + 1)
        for passed in giver.lacking(parse_digest(taker.digest()), now):
            taker.offer(passed.summary, now, passed.age)
    assert tables[-1].live(59.0) == (said(1),)
    assert [table.live(60.0) for table in tables] == [()] * 10


@pytest.mark.parametrize("started", [0, 10**12])
def test_the_clock_of_the_sender_does_not_matter(started: int) -> None:
    table = SummaryTable()
    table.offer(said(1, started=started), 0.0)
    assert table.live(59.0) == (said(1, started=started),)
    assert table.live(60.0) == ()


def test_a_process_that_started_later_replaces_at_once() -> None:
    table = SummaryTable()
    table.offer(said(1, 900, boot=1, started=100), 0.0)
    table.offer(said(1, 1, boot=2, started=200), 1.0)
    assert table.live(1.0) == (said(1, 1, boot=2, started=200),)
    assert table.duplicates(1.0) == ()


def test_an_old_process_that_is_replayed_replaces_nobody() -> None:
    table = SummaryTable()
    table.offer(said(1, 1, boot=2, started=200), 0.0)
    table.offer(said(1, 900, boot=1, started=100), 1.0)
    assert table.live(1.0) == (said(1, 1, boot=2, started=200),)
    assert table.duplicates(1.0) == ()


def test_a_restart_whose_clock_went_back_counts_once_it_is_linked() -> None:
    table = SummaryTable()
    table.linked(said(1, 900, boot=1, started=200), 0.0)
    table.unlinked(node(1), said(1, boot=1).boot)
    table.linked(said(1, 1, boot=2, started=100), 1.0)
    assert table.live(1.0) == (said(1, 1, boot=2, started=100),)


def test_hearsay_of_another_process_does_not_replace_one_whose_link_is_up() -> None:
    table = SummaryTable()
    table.linked(said(1, boot=1, started=100), 0.0)
    table.offer(said(1, boot=2, started=200), 1.0)
    assert table.live(1.0) == (said(1, boot=1, started=100),)
    table.unlinked(node(1), said(1, boot=1).boot)
    assert table.live(1.0) == (said(1, boot=2, started=200),)


def test_two_processes_that_speak_at_once_are_reported_and_the_one_linked_last_counts() -> None:
    table = SummaryTable()
    for second in range(0, 20, 2):
        table.linked(said(1, second, boot=1, started=200), float(second))
        table.linked(said(1, second, boot=2, started=100), second + 1.0)
    one, two = said(1, 18, boot=1, started=200), said(1, 18, boot=2, started=100)
    assert table.live(19.0) == (two,)
    assert table.duplicates(19.0) == (Duplicate(node(1), two.boot, (one.boot,)),)


def test_a_full_table_gives_up_the_stalest_and_keeps_those_with_a_link() -> None:
    table = SummaryTable(processes_max=3)
    table.linked(said(1), 0.0)
    table.offer(said(2), 1.0)
    table.offer(said(3), 2.0)
    assert table.offer(said(4), 3.0)
    assert {summary.node for summary in table.live(3.0)} == {node(1), node(3), node(4)}
    assert not table.offer(said(5), 3.0, age=2.5)
    assert len(table) == 3


def test_one_key_cannot_fill_the_table_with_processes() -> None:
    table = SummaryTable()
    for boot in range(100):
        table.offer(said(1, boot=boot, started=boot), boot / 10)
    assert len(table) == 4
    assert table.live(10.0)[0].started == 99


def test_a_partner_gets_what_it_lacks_first_whom_it_does_not_know_then_where_it_is_furthest_behind() -> None:
    ours, theirs = SummaryTable(), SummaryTable()
    for number, theirs_sequence in ((1, 9), (2, 10), (3, 4), (4, None), (5, 8), (6, None)):
        ours.offer(said(number, 3 if number == 6 else 10), float(number))
        if theirs_sequence is not None:
            theirs.offer(said(number, theirs_sequence), float(number))
    passed = ours.lacking(parse_digest(theirs.digest()), 10.0, most=3)
    assert [(each.summary, each.age) for each in passed] == [(said(4, 10), 6.0), (said(6, 3), 4.0), (said(3, 10), 7.0)]


def test_nothing_is_brought_to_a_partner_who_has_something_newer() -> None:
    ours, theirs = SummaryTable(), SummaryTable()
    ours.offer(said(1, 5), 0.0)
    theirs.offer(said(1, 6), 0.0)
    assert ours.lacking(parse_digest(theirs.digest()), 0.0) == ()


@pytest.mark.parametrize("raw", [b"123", b"\0" * 16 * (limits.nodes_known_max + 1)])
def test_a_digest_of_another_form_is_refused(raw: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_digest(raw)


def test_a_table_knows_when_nothing_changed() -> None:
    table = SummaryTable()
    table.offer(said(1), 0.0)
    before = table.version
    table.offer(said(1), 1.0)
    assert table.version == before
    table.offer(said(1, 2), 1.0)
    assert table.version > before
