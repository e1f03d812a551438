"""One generation: what goes out is right, whatever the stop strings are and wherever tokens end."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batches import CONFIG
from blyan.inference.needs import Answer, Need
from blyan.inference.reader import Output, Reader
from blyan.inference.session import Delta, Finished, GenerationRequest, run
from blyan.model.choosing import Step
from blyan.model.sampling import Sampling


@given(
    pieces=st.lists(st.text("ab€", max_size=4), max_size=12),
    stop=st.lists(st.text("ab€", min_size=1, max_size=4), max_size=3),
)
def test_text_ends_before_the_first_stop_string_however_it_is_cut(pieces: list[str], stop: list[str]) -> None:
    """Held back where a stop string may begin, let go where it did not, cut where it did."""
    output = Output(tuple(stop))
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


def test_without_a_tokenizer_each_token_goes_out_as_it_is_chosen() -> None:
    """There is no text to wait for, whether or not experts and log-probabilities are asked for."""
    generation = SimpleNamespace(eos=())
    model: Any = SimpleNamespace(manifest=SimpleNamespace(config=CONFIG, generation=generation), tokenizer=None)
    greedy = Sampling(temperature=0.0)
    work = run(model, GenerationRequest((1, 2), greedy, tokens_max=3, told=False, routed=False))
    order: list[type[object]] = []
    answer = None
    for _ in range(7):
        item = work.send(answer)
        order.append(type(item))
        answer = None
        if isinstance(item, Need):
            scores = np.zeros((item.scored, CONFIG.vocab_size), np.float32)
            answer = Answer(scores, np.zeros((len(item.tokens), 2, 2), np.int16), (0, 1))
        if isinstance(item, Finished):
            break
    assert order == [Need, Delta, Need, Delta, Need, Delta, Finished]


def test_a_stop_string_that_the_last_unfinished_bytes_complete_is_not_sent() -> None:
    stream: Any = SimpleNamespace(feed=lambda _token: "ab", finish=lambda: "\ufffd")
    reader = Reader(stream, frozenset(), ("b\ufffd",), 1)
    events = [reader.feed(Step(1, None, (), ())), *reader.end(stopped=False)]
    assert "".join(each.text for each in events if isinstance(each, Delta)) == "a"
    assert events[-1] == Finished("stop", 1, 1)
