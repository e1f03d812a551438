"""How often what gave bad numbers is tried again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blyan.inference.trying import Doubt, doubt, drawn, share, share_max


@given(st.sampled_from(["cold", "few", "stale"]), st.floats(1.0, 1e6))
def test_little_is_lost_by_trying_and_something_is_always_tried(why: Doubt, times: float) -> None:
    """Of the time that answers take, beside what the best would: a twentieth at most, if nothing has changed."""
    found = share(why, times)
    assert 0 < found <= share_max
    assert found * (times - 1) <= 0.05 + 1e-12


def test_what_is_known_for_sure_is_not_tried() -> None:
    assert share(None, 1.0) == 0
    assert (doubt(4, jitted=False), doubt(59, jitted=True)) == (None, None)
    assert (doubt(6, jitted=False), doubt(61, jitted=False), doubt(61, jitted=True)) == ("cold", "cold", "stale")


def test_what_few_answers_say_is_in_doubt() -> None:
    """One that was measured while something else ran is tried again, so that its mistake does not stay."""
    found = [doubt(0, jitted=True, answers=answers) for answers in (0, 1, 3, 4)]
    assert found == ["few", "few", "few", None]
    assert doubt(6, jitted=False, answers=1) == "cold"
    assert doubt(61, jitted=True, answers=1) == "few"


def test_each_is_drawn_for_its_share() -> None:
    options = [("a", 0.1), ("b", 0.0), ("c", 0.2)]
    assert [drawn(options, at) for at in (0.0, 0.09, 0.11, 0.29, 0.31, 0.99)] == ["a", "a", "c", "c", None, None]
    assert drawn(list[tuple[str, float]](), 0.0) is None
    assert share("stale", 1.0) == pytest.approx(share_max)
