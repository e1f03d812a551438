"""What `blyan chat` makes of a stream's events."""

import pytest

from blyan.cli.chat_client import Answer, _take
from blyan.primitives.errors import PeerFault, Unavailable


def test_an_error_that_ends_an_answer_says_what_its_part_cost() -> None:
    """The salt of its receipt is nowhere else."""
    answer = Answer()
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    usage |= {"cost": {"amount": "0.5", "asset": "USD"}, "receipt": {"id": "ab" * 16, "salt": "cd" * 16}}
    with pytest.raises((Unavailable, PeerFault), match="gone"):
        _take({"error": {"code": "unavailable", "message": "gone"}, "usage": usage}, answer)
    assert (answer.prompt_tokens, answer.completion_tokens) == (3, 2)
    assert answer.cost is not None
    assert answer.cost.amount == "0.5"


def test_an_error_of_a_free_node_costs_nothing() -> None:
    answer = Answer()
    with pytest.raises((Unavailable, PeerFault)):
        _take({"error": {"code": "unavailable", "message": "gone"}}, answer)
    assert answer.cost is None
