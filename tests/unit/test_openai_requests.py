"""Requests in the OpenAI dialect: what asks for something we lack is refused, never ignored."""

from typing import Any

import pytest

from blyan.primitives.errors import InvalidInput, UnsupportedParameter
from blyan.wire.openai import parse_chat, parse_completion

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION: dict[str, Any] = {"model": "m", "prompt": "hi"}


def test_a_bare_chat_request_leaves_everything_to_the_model() -> None:
    """None means the model's own default."""
    asked = parse_chat(CHAT)
    assert (asked.options.temperature, asked.tokens_max, asked.options.stream) == (None, None, False)


@pytest.mark.parametrize(
    "prompt",
    ["text", [1, 2], ["a", "b"], [[1], [2, 3]]],
)
def test_prompts_come_in_four_forms(prompt: Any) -> None:
    """Text, token ids, and lists of either."""
    parsed = parse_completion(COMPLETION | {"prompt": prompt}).prompts
    expected = {
        "text": ("text",),
        "[1, 2]": ((1, 2),),
        "['a', 'b']": ("a", "b"),
        "[[1], [2, 3]]": ((1,), (2, 3)),
    }
    assert parsed == expected[str(prompt)]


def test_what_newer_clients_send_without_asking_for_anything_passes() -> None:
    """n=1, no tools, no penalties, a user name."""
    parse_chat(
        CHAT | {"n": 1, "tools": [], "presence_penalty": 0, "frequency_penalty": 0.0, "user": "u", "store": False}
    )


def test_text_parts_are_joined_and_developer_is_system() -> None:
    """Content as a list of text parts is text."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    asked = parse_chat({"model": "m", "messages": [{"role": "developer", "content": parts}]})
    assert asked.messages == ({"role": "system", "content": "ab"},)


@pytest.mark.parametrize(
    "changes",
    [
        {"tools": [{"type": "custom", "custom": {"name": "x"}}]},
        {"functions": [{"name": "x"}]},
        {"unheard_of": 1},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]},
        {"messages": [{"role": "assistant", "content": "x", "function_call": {"name": "x"}}]},
    ],
)
def test_what_is_not_provided_is_refused(changes: dict[str, Any]) -> None:
    """Ignoring it would give another answer than was asked for."""
    with pytest.raises(UnsupportedParameter):
        parse_chat(CHAT | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": 5},
        {"messages": []},
        {"messages": "hi"},
        {"messages": ["hi"]},
        {"messages": [{"role": "robot", "content": "x"}]},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [CHAT["messages"][0]] * 1025},
        {"temperature": "hot"},
        {"temperature": True},
        {"max_tokens": 0},
        {"max_tokens": 1.5},
        {"stream": "yes"},
        {"stream_options": {"include_usage": True}},
        {"stop": 5},
        {"stop": [""]},
        {"stop": ["x"] * 17},
        {"stop": "x" * 257},
        {"top_logprobs": 5},
        {"logprobs": True, "top_logprobs": 21},
        {"seed": 1 << 63},
        {"blyan": {"experts": 1}},
        {"blyan": {"other": True}},
        {"blyan": {"quote": ""}},
        {"blyan": {"quote": 7}},
        {"continue_final_message": True},
        {"continue_final_message": True, "messages": [{"role": "assistant", "content": ""}]},
    ],
)
def test_malformed_chat_requests_are_refused(changes: dict[str, Any]) -> None:
    """Kind, range and size, each with what was expected."""
    with pytest.raises(InvalidInput, match="expected"):
        parse_chat(CHAT | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": None},
        {"prompt": []},
        {"prompt": [1, "a"]},
        {"prompt": [[]]},
        {"prompt": [[True]]},
        {"prompt": ["x"] * 65},
        {"max_tokens": 0},
        {"logprobs": 21},
        {"logprobs": True},
        {"echo": 1},
    ],
)
def test_malformed_completion_requests_are_refused(changes: dict[str, Any]) -> None:
    """`max_tokens` 0 is for `echo` alone."""
    with pytest.raises(InvalidInput, match="expected"):
        parse_completion(COMPLETION | changes)
    parse_completion(COMPLETION | {"max_tokens": 0, "echo": True})


def test_sampling_fields_are_read() -> None:
    """Numbers as they are, biases by token id."""
    asked = parse_chat(
        CHAT | {"n": 3, "frequency_penalty": 1, "presence_penalty": -0.5, "min_p": 0.1, "logit_bias": {"50": -100}}
    ).options
    assert (asked.choices, asked.frequency_penalty, asked.presence_penalty, asked.min_p) == (3, 1.0, -0.5, 0.1)
    assert asked.logit_bias == ((50, -100.0),)


@pytest.mark.parametrize(
    "changes",
    [
        {"n": 0},
        {"n": True},
        {"n": 17},
        {"frequency_penalty": "1"},
        {"logit_bias": {"a": 1}},
        {"logit_bias": {"1": "x"}},
        {"logit_bias": [1]},
    ],
)
def test_sampling_fields_of_another_kind_are_refused_by_name(changes: dict[str, Any]) -> None:
    """In the detail that becomes `param`."""
    with pytest.raises(InvalidInput) as refused:
        parse_chat(CHAT | changes)
    assert refused.value.detail["param"] == next(iter(changes))
