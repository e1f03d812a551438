"""The built-in tokenizer: bytes, lone digits, and the chat template."""

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from blyan.learning.tokenizer_training import chat_template, render, special_tokens, train_tokenizer
from learned import dialogues_of, texts_of


@pytest.fixture(scope="module")
def text() -> str:
    return train_tokenizer(texts_of(1500), vocab_size=700)


@pytest.fixture(scope="module")
def tokenizer(text: str) -> Tokenizer:
    return Tokenizer.from_str(text)


def test_the_same_corpus_gives_the_same_tokenizer(text: str):
    assert train_tokenizer(texts_of(1500), vocab_size=700) == text


def test_a_digit_is_always_a_token_of_its_own(tokenizer: Tokenizer):
    for piece in tokenizer.get_vocab():
        assert len(piece) == 1 or not set(piece) & set("0123456789"), piece
    assert tokenizer.encode("23+45=").tokens == ["2", "3", "+", "4", "5", "="]


@pytest.mark.parametrize(
    "sample", ["What is 23 + 45?", "23 더하기 45는?", "naïve 🙂\n\ttab", "漢字 and  two spaces ", "\x00\xff"]
)
def test_any_text_survives_a_round_trip(tokenizer: Tokenizer, sample: str):
    assert sample == tokenizer.decode(tokenizer.encode(sample).ids)


def test_special_tokens_come_first_and_stay_whole(tokenizer: Tokenizer):
    assert [tokenizer.token_to_id(token) for token in special_tokens] == [0, 1, 2]
    assert tokenizer.encode("<|im_start|><|im_end|>").ids == [1, 2]


def test_the_vocabulary_has_the_size_asked_for(tokenizer: Tokenizer):
    assert tokenizer.get_vocab_size() == 700


@pytest.mark.parametrize("prompt", [False, True])
def test_rendering_equals_the_chat_template(prompt: bool):
    """Training renders in Python, serving through the template."""
    template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(chat_template)
    for dialogue in dialogues_of(100):
        assert template.render(messages=dialogue, add_generation_prompt=prompt) == render(
            dialogue, add_generation_prompt=prompt
        )
