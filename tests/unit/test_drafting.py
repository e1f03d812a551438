"""Guesses by what stands before: what follows the same tokens, around and around where that is a short loop."""

from __future__ import annotations

from blyan.inference.drafting import Drafter


def test_what_followed_the_same_tokens_is_guessed() -> None:
    assert Drafter([5, 6, 7, 8, 9, 1, 5, 6], 3).guess(8) == (7, 8, 9)
    assert Drafter([5, 6, 7, 8, 9, 1, 5, 6], 8).guess(2) == (7, 8)
    assert Drafter([1, 2, 3, 4], 8).guess(8) == ()


def test_a_short_loop_is_guessed_to_go_on() -> None:
    """For as many tokens as are welcome, though fewer stand since its last turn."""
    assert Drafter([4, 9, 9, 9, 9], 6).guess(8) == (9,) * 6
    assert Drafter([7, 1, 2, 3, 1, 2, 3, 1, 2], 7).guess(8) == (3, 1, 2, 3, 1, 2, 3)
