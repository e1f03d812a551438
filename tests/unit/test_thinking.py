"""Thoughts before answers: told apart wherever the text is cut, and let through by grammars."""

from pathlib import Path

import numpy as np
import pytest
import tokenizers

from blyan.model.grammar import GrammarVocabulary, json_grammar
from blyan.model.thinking import Thinking, ThoughtReader, can_be_told, can_think, marks, thinking_of
from blyan.model.tools import call_grammar, marks_of
from blyan.wire.tools import Tool, ToolChoice
from checkpoints import save_byte_tokenizer


@pytest.mark.parametrize(
    ("thinking", "text", "thought", "said"),
    [
        ("may", "<think>\nI add.\n</think>\n\n4 < 5\n", "I add.\n", "4 < 5\n"),
        ("may", "\n<think>a</think>b", "a", "b"),
        ("may", "no <think>x</think>", "", "no <think>x</think>"),
        ("may", "\n\nsaid", "", "\n\nsaid"),
        ("may", "<thin", "", "<thin"),
        ("may", "<think>cut </thi", "cut </thi", ""),
        ("begun", "a\n</think>\nb</think>", "a\n", "b</think>"),
        ("begun", "\nnever ended", "never ended", ""),
        ("none", "\n<think>a</think>", "", "\n<think>a</think>"),
    ],
)
def test_thoughts_are_told_from_answers_wherever_the_text_is_cut(
    thinking: Thinking, text: str, thought: str, said: str
) -> None:
    """In pieces of every size."""
    for size in range(1, len(text) + 1):
        reader = ThoughtReader(thinking)
        pieces = [reader.feed(text[begin : begin + size]) for begin in range(0, len(text), size)] + [reader.finish()]
        assert ("".join(one for one, _ in pieces), "".join(two for _, two in pieces)) == (thought, said), size


def test_the_template_says_whether_a_model_thinks() -> None:
    """And the prompt whether it has begun."""
    told = "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>{% endif %}"
    assert can_think(told)
    assert can_be_told(told)
    assert not can_be_told("x<think>")
    assert not can_think(None)
    assert thinking_of(told, "<|assistant|>") == "may"
    assert thinking_of(told, "<|assistant|><think>\n") == "begun"
    assert thinking_of(told, "<|assistant|><think>\n\n</think>\n\n") == "may"
    assert thinking_of("plain", "<|assistant|><think>\n") == "none"


@pytest.mark.parametrize("one_token", [False, True])
@pytest.mark.parametrize(
    ("thinking", "before"), [("may", "<think>\nso {\n</think>\n\n"), ("begun", "so {\n</think>\n")]
)
def test_a_grammar_lets_a_thought_come_first(tmp_path: Path, one_token: bool, thinking: Thinking, before: str) -> None:
    """Before JSON, and before a call that is required."""
    save_byte_tokenizer(tmp_path)
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    if one_token:
        tokenizer.add_tokens([*marks, *marks_of("hermes")])
    vocabulary = GrammarVocabulary(tokenizer, 300)
    markers = vocabulary.markers(*marks, *marks_of("hermes"))
    choice = ToolChoice((Tool("f", "", {}),), required=True)
    for source, answer in (
        (json_grammar(None, thinking, markers), '{"a": 1}'),
        (
            call_grammar("hermes", choice, markers, None, thinking),
            '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>',
        ),
    ):
        for text in (before + answer, answer):
            following = vocabulary.compile(source, (256,), "x").begin()
            fine = True
            for token in tokenizer.encode(text, add_special_tokens=False).ids:
                fine = fine and bool(np.isfinite(following.allowed(np.zeros(300, np.float32))[token]))
                if fine:
                    following.take(token)
            accepted = fine and bool(np.isfinite(following.allowed(np.zeros(300, np.float32))[256]))
            assert accepted is (text != answer or thinking == "may"), text
