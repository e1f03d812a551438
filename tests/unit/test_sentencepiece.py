"""Sentencepiece models against the library that made them: Mistral's real ones, and small ones trained here."""

from __future__ import annotations

import contextlib
import io
import random
import struct
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from blyan.model.sentencepiece import parse_model, special_tokens, tokenizer_json
from blyan.primitives.errors import UnsupportedModel

DATA = Path(str(resources.files("mistral_common"))) / "data"
REAL = sorted(path.name for path in DATA.iterdir() if ".model" in path.name)
PROSE = resources.files("blyan.model").joinpath("calibration.txt").read_text("utf-8")
TEXTS = [
    "Hello world",
    "  two  spaces and\ttabs\n\nnewlines ",
    "서울의 아침은 일찍 시작된다.",
    "naïve café — “quotes” 😀👩‍👩‍👧",
    "def f(x):\n    return x*2  # yes\n",
    "",
    " ",
    "a" * 300,
    "1234567 89 3.14159",
    "\u200b\ufeff\x00x",
    "İstanbul ẞ ﬁ",
    "▁ already ▁▁ escaped",
]


def both(raw: bytes) -> tuple[tokenizers.Tokenizer, Any]:
    """Ours and sentencepiece's."""
    ours = tokenizers.Tokenizer.from_str(tokenizer_json(parse_model(raw), add_begin=False, add_end=False))
    return ours, sentencepiece.SentencePieceProcessor(model_proto=raw)


def trained(kind: str, **options: Any) -> bytes:
    """A model of 500 pieces, trained on this file."""
    sink = io.BytesIO()
    lines = Path(__file__).read_text().splitlines()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 3),
        model_writer=sink,
        model_type=kind,
        vocab_size=500,
        minloglevel=2,
        hard_vocab_limit=False,
        **options,
    )
    return sink.getvalue()


@pytest.fixture(scope="module", params=REAL)
def real(request: pytest.FixtureRequest) -> tuple[tokenizers.Tokenizer, Any]:
    return both((DATA / request.param).read_bytes())


def test_there_are_real_models() -> None:
    """Of three versions at least, or the tests below show nothing."""
    assert len(REAL) >= 3


def test_a_real_model_cuts_as_sentencepiece_does_and_comes_back(real: tuple[tokenizers.Tokenizer, Any]) -> None:
    """The same ids, the same text from them, and the text of before where sentencepiece gives it back."""
    ours, theirs = real
    for text in [*TEXTS, PROSE]:
        ids = theirs.encode(text)
        assert ours.encode(text).ids == ids, text
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids), text


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=200))
def test_any_text_is_cut_as_sentencepiece_does(text: str) -> None:
    """Whatever characters it has; pieces that name control tokens are tokens for us, as for transformers."""
    ours, theirs = _v1()
    assert ours.encode(text).ids == theirs.encode(text)


_held: list[tuple[tokenizers.Tokenizer, Any]] = []


def _v1() -> tuple[tokenizers.Tokenizer, Any]:
    if not _held:
        _held.append(both((DATA / "tokenizer.model.v1").read_bytes()))
    return _held[0]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("bpe", {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True}),
        ("bpe", {"normalization_rule_name": "identity", "add_dummy_prefix": False, "remove_extra_whitespaces": False}),
        ("bpe", {"normalization_rule_name": "nfkc"}),
        ("unigram", {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True}),
        ("unigram", {"normalization_rule_name": "nmt_nfkc"}),
    ],
)
def test_trained_models_of_both_kinds_cut_as_sentencepiece_does(kind: str, options: dict[str, Any]) -> None:
    """Plain text, which all normalisers leave alone or treat alike."""
    ours, theirs = both(trained(kind, **options))
    for text in ("Hello world", "return x*2  # yes", "models of both kinds", "the same ids, the same text", "e"):
        ids = theirs.encode(text)
        assert ours.encode(text).ids == ids, text
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids), text


def test_tokens_are_put_around_a_text_as_asked() -> None:
    """And named, for the chat template."""
    model = parse_model((DATA / "tokenizer.model.v1").read_bytes())
    assert special_tokens(model) == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    for begin, end in ((True, False), (False, True), (True, True), (False, False)):
        ours = tokenizers.Tokenizer.from_str(tokenizer_json(model, add_begin=begin, add_end=end))
        ids = ours.encode("hi").ids
        assert (ids[0] == 1, ids[-1] == 2) == (begin, end)


SMALL = trained("bpe", normalization_rule_name="identity", byte_fallback=True)


@pytest.mark.parametrize("cut", range(1, len(SMALL), max(1, len(SMALL) // 40)))
def test_a_model_that_is_cut_short_is_refused_or_smaller(cut: int) -> None:
    """Nothing but `UnsupportedModel` comes out."""
    with contextlib.suppress(UnsupportedModel):
        tokenizer_json(parse_model(SMALL[:cut]), add_begin=True, add_end=True)


def test_damaged_models_are_refused_or_read() -> None:
    """A thousand flipped bits: whatever the answer, it is one of these two."""
    chance = random.Random(4)
    for _ in range(1_000):
        raw = bytearray(SMALL)
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        with contextlib.suppress(UnsupportedModel):
            parse_model(bytes(raw))


@settings(max_examples=300, deadline=None)
@given(raw=st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(raw: bytes) -> None:
    """Lengths beyond the file, endless numbers, messages in messages."""
    with contextlib.suppress(UnsupportedModel):
        parse_model(raw)


def piece(text: bytes, score: float = 0.0, kind: int = 1) -> bytes:
    inner = b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([kind])
    return b"\x0a" + bytes([len(inner)]) + inner


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "1 to"),
        (b"\x0a\xff\xff\xff\xff\x7f", "cut short"),
        (b"\x08" + b"\xff" * 30, "too long"),
        (b"\x08\x01" * 3 + b"\x08\x01", "pieces as messages"),
        (piece(b"<unk>", kind=2) + b"\x12\x02\x18\x03", "type 3"),
        (piece(b"<unk>", kind=2) + piece(b"\xff\xfe") + b"\x12\x02\x18\x02", "UTF-8"),
        (piece(b"<unk>", kind=2) + b"\x12\x03\xc0\x02\x63", "pieces"),
    ],
)
def test_hostile_models_are_refused_by_what_is_wrong(raw: bytes, said: str) -> None:
    """Before anything is allocated for them."""
    with pytest.raises(UnsupportedModel, match=said):
        parse_model(raw)


def test_a_piece_that_stands_twice_is_refused() -> None:
    """Its second id could never be written."""
    raw = piece(b"<unk>", kind=2) + piece(b"a") + piece(b"a") + b"\x12\x02\x18\x02"
    with pytest.raises(UnsupportedModel, match="distinct"):
        tokenizer_json(parse_model(raw), add_begin=False, add_end=False)
