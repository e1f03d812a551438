"""Tokenizers are foreign data: what they do wrong is one fault, and no text is lost."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models
from tokenizers import Tokenizer as LibraryTokenizer

from blyan.model.tokenizer import TextStream, Tokenizer, encode_payload, parse_payload
from blyan.primitives.errors import ContextLengthExceeded, UnsupportedModel
from checkpoints import save_byte_tokenizer


def tokenizer_json(folder: Path) -> dict[str, Any]:
    save_byte_tokenizer(folder)
    return json.loads((folder / "tokenizer.json").read_text())


def parsed(value: dict[str, Any]) -> Tokenizer:
    return parse_payload(encode_payload(json.dumps(value), None, {}), 517)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return parsed(tokenizer_json(tmp_path_factory.mktemp("tokenizer")))


@given(tokens=st.lists(st.integers(0, 259), max_size=90))
def test_streamed_text_is_the_text_of_all_tokens(plain: Tokenizer, tokens: list[int]) -> None:
    """Split characters wait for their end, and an end that never comes is replaced, as decoding at once does."""
    stream = plain.stream()
    text = "".join(stream.feed(token) for token in tokens) + stream.finish()
    assert text == plain.decode(tokens)


@given(text=st.text(max_size=50))
def test_text_survives_its_tokens(plain: Tokenizer, text: str) -> None:
    """Byte-level: every text has tokens, and their bytes are the text."""
    tokens = plain.encode(text, add_special=False, tokens_max=1000)
    assert b"".join(map(plain.token_bytes, tokens)) == text.encode()
    assert plain.decode(tokens) == text


def test_text_that_cannot_fit_is_refused_before_it_is_tokenized(plain: Tokenizer) -> None:
    """Bytes are counted, not tokens."""
    started = time.monotonic()
    with pytest.raises(ContextLengthExceeded, match="context of 100 tokens"):
        plain.encode("x" * 4_000_000, add_special=False, tokens_max=100)
    assert time.monotonic() - started < 0.5


def test_padding_and_truncation_of_a_tokenizer_are_not_applied(tmp_path: Path) -> None:
    """They would add tokens to a prompt, or drop some of it in silence."""
    value = tokenizer_json(tmp_path)
    value["padding"] = {
        "strategy": {"Fixed": 1000},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "x",
    }
    value["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    assert len(parsed(value).encode("hello", add_special=True, tokens_max=1000)) == 5


@pytest.mark.parametrize("part", ["encode", "decode"])
def test_a_panic_inside_the_library_is_that_tokenizers_fault(tmp_path: Path, part: str) -> None:
    """A pattern that backtracks without end makes the native library panic."""
    value = tokenizer_json(tmp_path)
    endless = {"Regex": "(x+x+)+y"}
    if part == "encode":
        value["pre_tokenizer"] = {"type": "Split", "pattern": endless, "behavior": "Isolated", "invert": False}
        with pytest.raises(UnsupportedModel, match="tokenizer: expected text"):
            parsed(value).encode("x" * 40, add_special=False, tokens_max=1000)
        return
    library = LibraryTokenizer.from_str(json.dumps(value))
    library.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace(Regex(endless["Regex"]), "")])
    tokenizer = parsed(json.loads(library.to_str()))
    x = tokenizer.encode("x", add_special=False, tokens_max=10)
    with pytest.raises(UnsupportedModel, match="tokenizer: expected token ids"):
        tokenizer.decode(x * 40)


def test_a_stream_that_continues_a_text_keeps_the_space_before_its_first_word() -> None:
    """Sentencepiece decoders drop it at the beginning of a text; after other tokens it counts."""
    inner = LibraryTokenizer(models.WordLevel({"\u2581a": 0, "\u2581b": 1}, unk_token="\u2581a"))
    inner.decoder = decoders.Metaspace()
    assert TextStream(inner).feed(1) == "b"
    assert TextStream(inner, [0]).feed(1) == " b"
