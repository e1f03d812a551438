"""One generation: what goes out is right, whatever the stop strings are and wherever tokens end."""

from hypothesis import given
from hypothesis import strategies as st

from blyan.inference.session import _Output


@given(
    pieces=st.lists(st.text("ab€", max_size=4), max_size=12),
    stop=st.lists(st.text("ab€", min_size=1, max_size=4), max_size=3),
)
def test_text_ends_before_the_first_stop_string_however_it_is_cut(pieces: list[str], stop: list[str]) -> None:
    """Held back where a stop string may begin, let go where it did not, cut where it did."""
    output = _Output(tuple(stop))
    sent, given_text = "", ""
    for piece in pieces:
        given_text += piece
        sent += output.add(piece)
        assert given_text.startswith(sent)
        if output.stopped:
            break
    sent += output.release(0)
    # the earliest end of a stop string decides, as text arrives piece by piece; within one piece the earliest start
    starts = [at for word in stop if (at := given_text.find(word)) >= 0]
    assert sent == (given_text[: min(starts)] if starts else given_text)
    assert output.stopped == bool(starts)
