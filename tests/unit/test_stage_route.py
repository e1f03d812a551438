"""Which nodes take which layers, and which layers a node should hold."""

from __future__ import annotations

from blyan.inference.stage_route import Candidate, even_split, layers_to_hold
from blyan.primitives.ids import PublicKey

A, B, C = (PublicKey(letter * 64) for letter in "abc")
ALL = frozenset(range(6))


def test_two_of_many_share_the_layers_evenly() -> None:
    assert even_split(6, [Candidate(A, ALL), Candidate(B, ALL), Candidate(C, ALL)]) == ((A, 0, 3), (B, 3, 6))
    assert even_split(6, [Candidate(A, ALL)]) == ((A, 0, 6),)


def test_what_nodes_hold_decides_and_a_gap_is_no_pipeline() -> None:
    first, last = frozenset({0, 1, 2, 3}), frozenset({4, 5})
    assert even_split(6, [Candidate(A, last), Candidate(B, first)]) == ((B, 0, 4), (A, 4, 6))
    three = [Candidate(A, frozenset({4, 5})), Candidate(B, frozenset({0, 1})), Candidate(C, frozenset({2, 3}))]
    assert even_split(6, three) == ((B, 0, 2), (C, 2, 4), (A, 4, 6))
    assert even_split(6, three[:2]) is None
    assert even_split(6, []) is None


def test_the_lead_takes_an_even_share_of_the_first_layers_itself() -> None:
    lead = Candidate(C, ALL)
    assert even_split(6, [Candidate(A, ALL), Candidate(B, ALL)], lead) == ((C, 0, 3), (A, 3, 6))
    assert even_split(6, [], lead) == ((C, 0, 6),)
    assert even_split(6, [Candidate(A, ALL)], Candidate(C, frozenset({0}))) == ((C, 0, 1), (A, 1, 6))


def test_the_lead_takes_more_or_less_where_nobody_else_can() -> None:
    last, most = Candidate(A, frozenset({5})), Candidate(A, frozenset(range(1, 6)))
    assert even_split(6, [last], Candidate(C, ALL)) == ((C, 0, 5), (A, 5, 6))
    assert even_split(6, [last], Candidate(C, frozenset({3, 4, 5}))) is None
    assert even_split(6, [most], Candidate(C, frozenset({0, 1, 2, 3}))) == ((C, 0, 3), (A, 3, 6))
    assert even_split(6, [Candidate(A, ALL)], Candidate(C, frozenset({3, 4, 5}))) == ((A, 0, 6),)


def test_nodes_that_come_one_after_the_other_cover_all_layers() -> None:
    """Whatever is drawn."""
    for draw in (0.0, 0.3, 0.6, 0.99):
        others = [0] * 6
        for _ in range(3):
            for layer in layers_to_hold([10] * 6, others, (), 25, draw):
                others[layer] += 1
        assert others == [1] * 6


def test_what_nobody_else_has_stays_and_no_more_is_held_than_fits() -> None:
    assert layers_to_hold([10] * 6, [0, 0, 1, 1, 1, 1], (0, 1), 20, 0.9) == range(2)
    assert layers_to_hold([10] * 6, [1, 1, 0, 0, 1, 1], (0, 1), 20, 0.9) == range(2, 4)
    assert layers_to_hold([10] * 6, [0] * 6, (), 9, 0.5) == range(0)
    assert layers_to_hold([10] * 6, [0] * 6, (), 1 << 62, 0.5) == range(6)
