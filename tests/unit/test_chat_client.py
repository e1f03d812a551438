"""What `blyan chat` makes of a stream's events."""

import pytest

from blyan.cli.chat_client import Answer, Computed, _take
from blyan.cli.spent import computed_line
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


KEYS = [f"{number:064x}"[::-1] for number in range(6)]


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            {"plan": "static_delegate", "nodes": KEYS[1:2]},
            "plan static_delegate, computed by 100000000000… (1 other node)",
        ),
        (
            {"plan": "pipeline", "nodes": KEYS},
            "plan pipeline, computed by 000000000000…, 100000000000…, 200000000000…, 300000000000…, … (6 other nodes)",
        ),
        ({"plan": "dynamic", "nodes": []}, "plan dynamic, with experts at other nodes"),
    ],
)
def test_who_computed_an_answer_is_said_in_a_line(said: dict[str, object], line: str) -> None:
    """As the node that was asked says it."""
    answer = Answer()
    _take({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "computed": said}}, answer)
    assert answer.computed is not None
    assert computed_line(answer.computed) == line


@pytest.mark.parametrize(
    "said",
    [
        None,
        {"plan": "dynamic"},
        {"plan": "\x1b[2J", "nodes": []},
        {"plan": "pipeline", "nodes": ["a"]},
        {"plan": "pipeline", "nodes": KEYS * 20},
    ],
)
def test_nothing_is_said_where_the_node_says_nothing_of_it_or_what_it_cannot_be(said: object) -> None:
    answer = Answer(computed=Computed("dynamic", ()))
    _take({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "computed": said}}, answer)
    assert answer.computed is None
