"""A sentencepiece `tokenizer.model` as a tokenizer that the `tokenizers` library runs.

The file is one protocol buffer (`ModelProto` of sentencepiece_model.proto, https://github.com/google/sentencepiece):
pieces with a score and a type, the trainer's and the normaliser's settings. BPE models merge by score: the merges that
`tokenizers` wants are all splits of a piece into two others, best piece first. Unigram models go over as they are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, processors

from blyan.primitives import limits
from blyan.primitives.errors import UnsupportedModel

Fields: TypeAlias = dict[int, list[int | bytes]]

_space: Final = "▁"  # what sentencepiece writes for a space
_unigram, _bpe = 1, 2  # TrainerSpec.ModelType
_normal, _unknown, _control, _user_defined, _byte, _unused = 1, 2, 3, 4, 6, 5  # SentencePiece.Type
_model_pieces, _model_trainer, _model_normalizer = 1, 2, 3
_varint_bytes_max: Final = 10


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry of the vocabulary; its id is its place."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """What of a model file decides how text is cut."""

    pieces: tuple[Piece, ...]
    unigram: bool
    byte_fallback: bool
    unknown: int  # id
    begin: str | None
    end: str | None
    dummy_prefix: bool  # a space is put before the text
    squeeze_spaces: bool
    charsmap: bytes  # precompiled normalisation; empty for none


def parse_model(raw: bytes) -> SentencePieceModel:
    """Read a model file; `UnsupportedModel` says what was expected."""
    fields = _fields(raw, limits.vocab_max + 16)
    trainer = _message(fields, _model_trainer)
    normalizer = _message(fields, _model_normalizer)
    kind = _number(trainer, 3, _unigram)
    if kind not in (_unigram, _bpe):
        raise UnsupportedModel(f"tokenizer.model: expected a unigram (1) or BPE (2) model, found type {kind}")
    if not _number(normalizer, 5, 1) or _number(trainer, 24, 0):
        raise UnsupportedModel("tokenizer.model: expected spaces escaped and before words, found it otherwise")
    pieces = tuple(_piece(each) for each in fields.get(_model_pieces, []))
    unknown = _number(trainer, 40, 0)
    if not 0 < len(pieces) <= limits.vocab_max or not 0 <= unknown < len(pieces):
        raise UnsupportedModel(f"tokenizer.model: expected 1 to {limits.vocab_max} pieces, found {len(pieces)}")

    def name_of(field: int, default: int) -> str | None:
        at = _number(trainer, field, default)
        return pieces[at].text if 0 <= at < len(pieces) and pieces[at].kind == _control else None

    charsmap = normalizer.get(2, [b""])[-1]
    return SentencePieceModel(
        pieces=pieces,
        unigram=kind == _unigram,
        byte_fallback=bool(_number(trainer, 35, 0)),
        unknown=unknown,
        begin=name_of(41, 1),
        end=name_of(42, 2),
        dummy_prefix=bool(_number(normalizer, 3, 1)),
        squeeze_spaces=bool(_number(normalizer, 4, 1)),
        charsmap=charsmap if isinstance(charsmap, bytes) else b"",
    )


def tokenizer_json(model: SentencePieceModel, *, add_begin: bool, add_end: bool) -> str:
    """The same tokenizer as a `tokenizer.json`; `add_begin` and `add_end` put those tokens around a text."""
    inner = tokenizers.Tokenizer(_unigram_model(model) if model.unigram else _bpe_model(model))
    steps: list[Any] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.squeeze_spaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if model.dummy_prefix:
        steps.append(normalizers.Prepend(_space))
    inner.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _space)])  # pyright: ignore[reportAttributeAccessIssue]
    strip = [decoders.Strip(" ", 1, 0)] if model.dummy_prefix else []
    inner.decoder = decoders.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [decoders.Replace(_space, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    for piece in model.pieces:
        if piece.kind in (_control, _unknown):
            inner.add_special_tokens([AddedToken(piece.text, special=True, normalized=False)])
        elif piece.kind == _user_defined:
            if model.unigram or " " in piece.text or _space in piece.text:
                raise UnsupportedModel(
                    f"tokenizer.model: expected user-defined pieces of a BPE model without spaces, found {piece.text!r}"
                )
            inner.add_tokens([AddedToken(piece.text, special=False, normalized=False)])
    _surround(inner, model.begin if add_begin else None, model.end if add_end else None)
    return inner.to_str()


def special_tokens(model: SentencePieceModel) -> dict[str, str]:
    """`bos_token`, `eos_token`, `unk_token` as the model has them."""
    named = {"bos_token": model.begin, "eos_token": model.end, "unk_token": model.pieces[model.unknown].text}
    return {name: text for name, text in named.items() if text is not None}


def _surround(inner: tokenizers.Tokenizer, begin: str | None, end: str | None) -> None:
    names = [name for name in (begin, end) if name is not None]
    if not names:
        return
    template = " ".join(each for each in (begin, "$A", end) if each is not None)
    ids = [(name, cast("int", inner.token_to_id(name))) for name in names]
    inner.post_processor = processors.TemplateProcessing(single=template, pair=f"{template} $B:1", special_tokens=ids)  # pyright: ignore[reportAttributeAccessIssue]


def _bpe_model(model: SentencePieceModel) -> models.BPE:
    vocabulary = {piece.text: at for at, piece in enumerate(model.pieces)}
    if len(vocabulary) != len(model.pieces):
        raise UnsupportedModel("tokenizer.model: expected distinct pieces, found one twice")
    mergeable = {piece.text for piece in model.pieces if piece.kind in (_normal, _user_defined, _unused)}
    merges: list[tuple[str, str]] = []
    for piece in sorted(model.pieces, key=lambda each: -each.score):  # stable: of equal scores the lower id first
        text = piece.text
        if piece.kind != _normal:
            continue
        splits = [(text[:at], text[at:]) for at in range(1, len(text))]
        found = [pair for pair in splits if pair[0] in mergeable and pair[1] in mergeable]
        merges += sorted(found, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    return models.BPE(
        vocab=vocabulary,
        merges=merges,
        unk_token=model.pieces[model.unknown].text,
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
    )


def _unigram_model(model: SentencePieceModel) -> models.Unigram:
    scored = [(piece.text, piece.score) for piece in model.pieces]
    return models.Unigram(scored, model.unknown, model.byte_fallback)


def _piece(raw: int | bytes) -> Piece:
    if not isinstance(raw, bytes):
        raise UnsupportedModel("tokenizer.model: expected pieces as messages, found a number")
    fields = _fields(raw, 16)
    text, score = fields.get(1, [b""])[-1], fields.get(2, [bytes(4)])[-1]
    if not isinstance(text, bytes) or not 0 < len(text) <= limits.token_text_bytes_max:
        raise UnsupportedModel(f"tokenizer.model: expected a piece of 1 to {limits.token_text_bytes_max} bytes")
    if not isinstance(score, bytes) or len(score) != 4:
        raise UnsupportedModel("tokenizer.model: expected a piece's score as 4 bytes")
    try:
        return Piece(text.decode("utf-8"), struct.unpack("<f", score)[0], _number(fields, 3, _normal))
    except UnicodeDecodeError:
        raise UnsupportedModel(f"tokenizer.model: expected pieces in UTF-8, found {text[:40]!r}") from None


def _message(fields: Mapping[int, Sequence[int | bytes]], number: int) -> Fields:
    found = fields.get(number, [b""])[-1]
    return _fields(found, limits.vocab_max) if isinstance(found, bytes) else {}


def _number(fields: Mapping[int, Sequence[int | bytes]], number: int, default: int) -> int:
    found = fields.get(number, [default])[-1]
    if not isinstance(found, int):
        raise UnsupportedModel(f"tokenizer.model: expected field {number} as a number, found bytes")
    return found - (1 << 64) if found >= 1 << 63 else found


def _fields(raw: bytes, count_max: int) -> Fields:
    """Fields of one message by number, in order; nested messages stay bytes."""
    found: Fields = {}
    for count, (number, value) in enumerate(_walk(raw)):
        if count >= count_max:
            raise UnsupportedModel(f"tokenizer.model: expected at most {count_max} fields, found more")
        found.setdefault(number, []).append(value)
    return found


def _walk(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(raw, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(raw, at)
        else:
            length = {1: 8, 5: 4}.get(wire, -1)
        if not 0 <= length <= len(raw) - at:
            raise UnsupportedModel(f"tokenizer.model: expected a protocol buffer, found field {number} cut short")
        yield number, raw[at : at + length]
        at += length


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(_varint_bytes_max):
        if at + shift >= len(raw):
            break
        byte = raw[at + shift]
        value |= (byte & 127) << 7 * shift
        if byte < 128:
            return value, at + shift + 1
    raise UnsupportedModel("tokenizer.model: expected a protocol buffer, found a number cut short or too long")
