"""An answer as its user saved it gives the choices that its receipt's digest covers."""

from __future__ import annotations

import json

import orjson
import pytest

from blyan.inference.receipt import Choice, ToolCall, output_bytes
from blyan.inference.receipt_output import choices_of
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput

CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at":1.0}'}}
TWO = [Choice("a", "because"), Choice("", "", (ToolCall("look", '{"at":1.0}', "call_1"),))]


def raw(value: object) -> bytes:
    return json.dumps(value, indent=1).encode()


def test_the_canonical_list_reads_back_also_with_spaces() -> None:
    assert choices_of(output_bytes(TWO)) == TWO
    assert choices_of(raw(json.loads(output_bytes(TWO)))) == TWO


def test_a_whole_chat_completion() -> None:
    messages = [
        {"role": "assistant", "content": "a", "reasoning_content": "because", "refusal": None},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
    ]
    body = {"choices": [{"index": 1 - at, "message": each} for at, each in enumerate(reversed(messages))], "usage": {}}
    assert choices_of(raw(body)) == TWO


def test_a_streamed_chat_completion() -> None:
    pieces = [
        (0, {"role": "assistant", "content": ""}),
        (1, {"role": "assistant", "content": ""}),
        (0, {"reasoning_content": "be"}),
        (0, {"reasoning_content": "cause"}),
        (1, {"tool_calls": [{"index": 0, **CALL}]}),
        (0, {"content": "a"}),
        (0, {}),
    ]
    events = [{"choices": [{"index": index, "delta": delta}]} for index, delta in pieces]
    events += [{"choices": [], "usage": {"total_tokens": 3}}]
    for end in (b"\n\n", b"\r\n\r\n"):
        stream = b"".join(b"data: " + orjson.dumps(each) + end for each in events) + b"data: [DONE]" + end
        assert choices_of(stream) == TWO


def test_text_completions() -> None:
    assert choices_of(raw({"choices": [{"index": 0, "text": " b"}]})) == [Choice(" b")]


def test_answers_in_the_ollama_dialect() -> None:
    line = {"message": {"role": "assistant", "content": "a", "thinking": "so"}, "done": False}
    called = {"message": {"content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"b": 1.0, "a": 2}}}]}}
    lines = b"\n".join(map(orjson.dumps, (line, called, {"message": {"content": "!"}, "done": True}))) + b"\n"
    assert choices_of(lines) == [Choice("a!", "so", (ToolCall("f", '{"b":1.0,"a":2}'),))]
    assert choices_of(b'{"response":"x","thinking":"t","done":false}\n{"response":"y","done":true}\n') == [
        Choice("xy", "t")
    ]


@pytest.mark.parametrize("text", ["2", "[1,2]", "{}", "", '{"a":1}\n', "ein Wort\r\n", '[{"content":"x"}]', "[]"])
def test_anything_else_is_the_text_of_one_choice_to_the_last_byte(text: str) -> None:
    assert choices_of(text.encode()) == [Choice(text)]


def test_bytes_that_are_no_text_and_files_without_end_are_refused() -> None:
    with pytest.raises(InvalidInput, match="UTF-8"):
        choices_of(b"\xff")
    with pytest.raises(InvalidInput, match="at most"):
        choices_of(bytes(limits.receipt_output_bytes_max + 1))


def test_vectors_are_their_32_bit_floats_in_base64() -> None:
    vector = [0.5, -2.0]
    wanted = [Choice("AAAAPwAAAMA=")]
    for body in ({"data": [{"embedding": vector}]}, {"embeddings": [vector]}, {"embedding": vector}):
        assert choices_of(raw(body)) == wanted
    assert choices_of(raw({"data": [{"embedding": "AAAAPwAAAMA="}]})) == wanted
    for number in (1e300, 10**300):
        with pytest.raises(InvalidInput, match="32-bit"):
            choices_of(raw({"embedding": [number]}))
