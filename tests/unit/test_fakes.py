"""The fakes behave as the real thing would."""

from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from batches import CONFIG
from blyan.model.stepping import Run
from fakes import SlowNode, TokenPages


def test_token_pages_score_by_what_lies_in_the_pages() -> None:
    """In one run or in several, in whichever pages; never what was not written."""
    kv: Any = SimpleNamespace(pages=4)
    stepper = TokenPages(CONFIG, kv)
    tokens = tuple(range(40))
    whole = stepper.step([Run(tokens, 0, (2, 0), scored=1)])[0]
    stepper.step([Run(tokens[:33], 0, (3, 1))])
    pieces = stepper.step([Run(tokens[33:], 33, (3, 1), scored=2, hidden=True)])[0]
    assert np.array_equal(whole.scores[0], pieces.scores[1])
    assert np.array_equal(pieces.scores[0], TokenPages.scores(CONFIG, tokens[:39]))
    assert pieces.hidden is not None
    assert pieces.hidden[:, 0].tolist() == list(range(33, 40))
    with pytest.raises(AssertionError, match="written"):
        TokenPages(CONFIG, kv).step([Run((1,), 5, (0,), scored=1)])


def test_a_slow_node_notes_questions_and_answers_them_in_pieces() -> None:
    """Broken, it closes the connection."""
    with SlowNode(["a", "b"], pause_seconds=0) as node:
        answer = httpx.post(f"{node.url}/v1/chat/completions", json={"messages": []})
        assert answer.text.count("data: ") == 3
        node.broken = True
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.post(f"{node.url}/v1/chat/completions", json={})
    assert node.asked == [{"messages": []}, {}]
