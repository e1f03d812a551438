"""Calls of tools as each kind of template writes them: grammars that force them, and the reader that finds them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from blyan.model.grammar import Constraint, GrammarVocabulary, json_grammar
from blyan.model.tools import ToolFormat, ToolReader, call_grammar, marks_of, tool_format_of
from blyan.primitives.errors import InvalidInput
from blyan.wire.tools import Tool, ToolChoice
from checkpoints import save_byte_tokenizer

WEATHER = Tool(
    "weather",
    "of a city",
    {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": False,
    },
)
TIME = Tool("time", "now", {})
CALLS: dict[ToolFormat, str] = {
    "hermes": '<tool_call>\n{"name": "weather", "arguments": {"city": "Łódź", "days": 3}}\n</tool_call>',
    "qwen_xml": "<tool_call>\n<function=weather>\n<parameter=city>\nŁódź\n</parameter>\n<parameter=days>\n3\n"
    "</parameter>\n</function>\n</tool_call>",
    "mistral": '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Łódź", "days": 3}}]',
}
FORMATS = list(CALLS)


@pytest.fixture(scope="module", params=["text", "tokens"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tokenizers.Tokenizer:
    """Marks around calls as plain text, and as one token each."""
    folder = tmp_path_factory.mktemp("tokenizer")
    save_byte_tokenizer(folder)
    made = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    if request.param == "tokens":
        made.add_tokens(["<tool_call>", "</tool_call>"])
        made.add_special_tokens(["[TOOL_CALLS]"])
    return made


def constraint(
    tokenizer: tokenizers.Tokenizer, form: ToolFormat, choice: ToolChoice, answer: dict[str, Any] | None = None
) -> Constraint:
    vocabulary = GrammarVocabulary(tokenizer, 300)
    source = call_grammar(form, choice, vocabulary.markers(*marks_of(form)), answer)
    return vocabulary.compile(source, (256,), "tools").begin()


def accepted(tokenizer: tokenizers.Tokenizer, following: Constraint, text: str) -> bool:
    """Whether every token of the text is allowed in its place, and the end after it."""
    for token in (*tokenizer.encode(text, add_special_tokens=False).ids, 256):
        if not np.isfinite(following.allowed(np.zeros(300, np.float32))[token]):
            return False
        following.take(token)
        if following.ended:
            break
    return following.ended


@pytest.mark.parametrize("form", FORMATS)
def test_a_call_may_come_and_must_where_it_is_required(tokenizer: tokenizers.Tokenizer, form: ToolFormat) -> None:
    """Text before it only where it may."""
    both = (WEATHER, TIME)
    for choice, text, fine in (
        (ToolChoice(both), "no call", True),
        (ToolChoice(both), CALLS[form], True),
        (ToolChoice(both), "I look.\n" + CALLS[form], True),
        (ToolChoice(both, required=True), CALLS[form], True),
        (ToolChoice(both, required=True), "no call", False),
        (ToolChoice((TIME,), required=True), CALLS[form], False),
        (ToolChoice(both), CALLS[form].replace("weather", "other"), False),
        (ToolChoice(both), CALLS[form].replace("3", "three"), False),
        (ToolChoice(both), CALLS[form].replace("city", "town"), False),
    ):
        assert accepted(tokenizer, constraint(tokenizer, form, choice), text) is fine, (choice, text)


@pytest.mark.parametrize("form", FORMATS)
def test_several_calls_only_where_they_are_parallel(tokenizer: tokenizers.Tokenizer, form: ToolFormat) -> None:
    """As the format writes them."""
    text = CALLS[form] + "\n" + CALLS[form]
    if form == "mistral":
        text = CALLS[form][:-1] + ", " + CALLS[form].removeprefix("[TOOL_CALLS] [")
    assert accepted(tokenizer, constraint(tokenizer, form, ToolChoice((WEATHER,), required=True)), text)
    alone = ToolChoice((WEATHER,), required=True, parallel=False)
    assert not np.isfinite(after(tokenizer, form, alone, text)).any()


def after(tokenizer: tokenizers.Tokenizer, form: ToolFormat, choice: ToolChoice, text: str) -> np.ndarray:
    """Scores of what may come after the first call but the end."""
    following = constraint(tokenizer, form, choice)
    for token in tokenizer.encode(CALLS[form], add_special_tokens=False).ids:
        following.take(token)
    allowed = following.allowed(np.zeros(300, np.float32))
    allowed[256] = -np.inf
    return allowed


@pytest.mark.parametrize("form", FORMATS)
def test_an_answer_is_json_or_a_call(tokenizer: tokenizers.Tokenizer, form: ToolFormat) -> None:
    """Where a form is asked for beside tools."""
    wanted = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    assert accepted(tokenizer, constraint(tokenizer, form, ToolChoice((WEATHER,)), wanted), '{"x": 1}')
    assert accepted(tokenizer, constraint(tokenizer, form, ToolChoice((WEATHER,)), wanted), CALLS[form])
    assert not accepted(tokenizer, constraint(tokenizer, form, ToolChoice((WEATHER,)), wanted), "said")


def test_json_is_any_object_or_the_schema_s(tokenizer: tokenizers.Tokenizer) -> None:
    """And endless white space is none."""
    vocabulary = GrammarVocabulary(tokenizer, 300)
    assert accepted(tokenizer, vocabulary.compile(json_grammar(None), (256,), "x").begin(), '{"a": [1, {"b": null}]}')
    assert not accepted(tokenizer, vocabulary.compile(json_grammar(None), (256,), "x").begin(), "[1]")
    assert not accepted(
        tokenizer, vocabulary.compile(json_grammar(None), (256,), "x").begin(), '{"a":' + " " * 99 + "1}"
    )
    schema = {"type": "object", "properties": {"kind": {"enum": ["a", "b"]}}, "required": ["kind"]}
    assert accepted(tokenizer, vocabulary.compile(json_grammar(schema), (256,), "x").begin(), '{"kind":"b"}')
    assert not accepted(tokenizer, vocabulary.compile(json_grammar(schema), (256,), "x").begin(), '{"kind":"c"}')


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nothing"},
        {"type": "object", "properties": {"a": {"$ref": "http://example.org/x"}}},
        {"type": "object", "not": {"required": ["a"]}},
        {"type": "string", "pattern": "(?=a)b"},
    ],
)
def test_a_schema_of_which_no_grammar_can_be_made_is_refused(
    tokenizer: tokenizers.Tokenizer, schema: dict[str, Any]
) -> None:
    """By the parameter that brought it."""
    with pytest.raises(InvalidInput, match="response_format: expected what a grammar can be made of"):
        GrammarVocabulary(tokenizer, 300).compile(json_grammar(schema), (256,), "response_format")


@pytest.mark.parametrize("form", FORMATS)
def test_calls_are_found_wherever_the_text_is_cut(form: ToolFormat) -> None:
    """In pieces of every size."""
    text = "I look < for it.\n" + CALLS[form]
    for size in range(1, len(text) + 1):
        reader = ToolReader(form, (WEATHER, TIME))
        said, calls = "", []
        for begin in range(0, len(text), size):
            more, found = reader.feed(text[begin : begin + size])
            said, calls = said + more, calls + found
        more, found = reader.finish()
        said, calls = said + more, calls + found
        assert said.strip() == "I look < for it."
        assert [(call.name, json.loads(call.arguments)) for call in calls] == [("weather", {"city": "Łódź", "days": 3})]
        assert reader.calls == 1


@pytest.mark.parametrize(
    ("form", "text"),
    [
        *((form, CALLS[form][:-3]) for form in FORMATS),
        ("hermes", "<tool_call>\n[]\n</tool_call>"),
        ("hermes", '<tool_call>\n{"name": "f", "arguments": 3}\n</tool_call>'),
        ("qwen_xml", "<tool_call>\nfunction\n</tool_call>"),
        ("mistral", '[TOOL_CALLS] [{"name": "f"}, 3]'),
    ],
)
def test_what_is_no_whole_call_is_text(form: ToolFormat, text: str) -> None:
    """An answer that was cut off loses nothing."""
    reader = ToolReader(form, (WEATHER, TIME))
    said, calls = reader.feed("so: " + text)
    rest, last = reader.finish()
    assert (said + rest, calls + last) == ("so: " + text, [])


def test_the_template_says_how_a_model_calls() -> None:
    """One that has no place for tools, or writes calls in another way, is told apart."""
    assert tool_format_of("{{ tools }} <tool_call>") == "hermes"
    assert tool_format_of("{{ tools }} <tool_call>\n<function=") == "qwen_xml"
    assert tool_format_of("{% if tools %}[TOOL_CALLS]") == "mistral"
    assert tool_format_of("<tool_call>") is None
    assert tool_format_of("{{ tools }}") is None
    assert tool_format_of(None) is None


def test_values_that_are_no_text_are_json_in_xml(tmp_path: Path) -> None:
    """Lists, numbers, null; text stays as it is, also where it looks like JSON."""
    tool = Tool("f", "", {"properties": {"a": {"type": "array"}, "b": {"type": "string"}, "c": {"type": "null"}}})
    text = "<tool_call>\n<function=f>\n<parameter=a>\n[1, 2]\n</parameter>\n<parameter=b>\n[1\n\n2]\n</parameter>\n"
    text += "<parameter=c>\nnull\n</parameter>\n</function>\n</tool_call>"
    _, (call,) = ToolReader("qwen_xml", (tool,)).feed(text)
    assert json.loads(call.arguments) == {"a": [1, 2], "b": "[1\n\n2]", "c": None}
