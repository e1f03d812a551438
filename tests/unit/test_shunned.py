"""Stages that were lost or would not are taken again last."""

from __future__ import annotations

from blyan.inference.shunned import Shunned
from blyan.primitives.ids import PublicKey

A, B, C = (PublicKey(letter * 64) for letter in "abc")


def test_who_was_lost_just_now_is_taken_last_and_who_only_refused_first() -> None:
    shunned = Shunned()
    shunned.add(A, 1.0, lost=True)
    shunned.add(B, 2.0, lost=False)
    shunned.add(C, 3.0, lost=True)
    everybody = frozenset({A, B, C})
    assert shunned.sets(3.0) == [everybody, frozenset({A, C}), frozenset({C}), frozenset()]


def test_a_node_is_left_out_for_some_seconds_or_until_its_next_link() -> None:
    shunned = Shunned()
    shunned.add(A, 1.0, lost=True)
    shunned.add(B, 2.0, lost=True)
    shunned.linked(A, 0.5)
    assert shunned.nodes(2.0) == (A, B)
    shunned.linked(A, 1.5)
    assert shunned.nodes(2.0) == (B,)
    assert shunned.nodes(7.5) == ()
    assert shunned.sets(7.5) == [frozenset()]
