"""Tokenizers: text to token ids and back, and the chat template that goes with them.

The payload is canonical JSON that holds the checkpoint's own `tokenizer.json` as text; the `tokenizers` library runs
it. Models without a tokenizer are legal: they take and give token ids only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import tokenizers
from tokenizers.decoders import DecodeStream

from blyan.model.chat_template import TemplateRenderer, plain_stops, plain_template
from blyan.model.grammar import GrammarVocabulary
from blyan.primitives import canonical, limits
from blyan.primitives.errors import ContextLengthExceeded, UnsupportedModel

media: Final = "application/vnd.blyan.tokenizer+json"
_format: Final = "blyan/tokenizer/1"
_waiting_tokens_max: Final = 64


def encode_payload(tokenizer_json: str, chat_template: str | None, special: Mapping[str, str]) -> bytes:
    """The tokenizer payload: the checkpoint's tokenizer.json and template, and `bos_token`, `eos_token` … as text."""
    return canonical.encode(
        {
            "format": _format,
            "tokenizer_json": tokenizer_json,
            "chat_template": chat_template,
            "special": dict(special),
        }
    )


@dataclass(frozen=True, slots=True)
class TokenizerFields:
    """What a tokenizer payload holds."""

    tokenizer_json: str
    chat_template: str | None
    special: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A checked tokenizer payload."""

    chat_template: str | None
    special: Mapping[str, str]
    token_bytes_max: int  # no token stands for more bytes of text
    vocabulary: GrammarVocabulary
    _inner: tokenizers.Tokenizer

    def encode(self, text: str, *, add_special: bool, tokens_max: int) -> list[int]:
        """Token ids of a text; `add_special` lets the tokenizer add its own beginning and end tokens.

        `ContextLengthExceeded` if the text cannot fit `tokens_max` tokens whatever they are.
        """
        longest = min(self.token_bytes_max * tokens_max, limits.prompt_bytes_max)
        found = len(text.encode("utf-8", "replace"))
        if found > longest:  # tokenizing holds the interpreter, so what cannot fit is refused unread
            raise ContextLengthExceeded(
                f"prompt: expected at most {longest} bytes (context of {tokens_max} tokens), found {found}"
            )
        with _encoding:
            return list(self._inner.encode(text, add_special_tokens=add_special).ids)

    def encode_start(self, text: str, count: int) -> list[int]:
        """The first `count` token ids of a text, or all of them."""
        with _encoding:
            return list(self._inner.encode(text[: self.token_bytes_max * count]).ids)[:count]

    def token_id(self, text: str) -> int | None:
        """The id of the one token that is named so, if there is one."""
        return self._inner.token_to_id(text)

    def beginning(self) -> list[int]:
        """The token that this tokenizer puts before every text, where it does."""
        begin = self.special.get("bos_token", "")
        first = self.encode("", add_special=True, tokens_max=4)[:1] if begin else []
        return first if first and self.token_bytes(first[0]) == begin.encode() else []

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        with _decoding:
            return self._inner.decode(list(tokens), skip_special_tokens=True)

    def stream(self, after: Sequence[int] = (), shown: Collection[str] = ()) -> TextStream:
        """A decoder that is fed one token at a time; `after` stands before them, and decides about a leading space.

        `shown` are special tokens whose text is not left out.
        """
        found = {self._inner.token_to_id(text): text for text in shown}
        return TextStream(self._inner, after, {token: text for token, text in found.items() if token is not None})

    def token_bytes(self, token: int) -> bytes:
        """The bytes one token stands for, also where they are no whole character; a special token's is its name."""
        piece = self._inner.id_to_token(token)
        if piece is None:
            return b""
        if all(character in _byte_of for character in piece):
            added = self._inner.get_added_tokens_decoder()
            if token not in added:
                return bytes(_byte_of[character] for character in piece)
        return piece.encode("utf-8")

    def chat_prompt(
        self,
        renderer: TemplateRenderer,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        continue_final: bool = False,
        thinking: bool | str | None = None,
    ) -> str:
        """The text that asks this model to answer `messages`, by a plain template where it has none of its own.

        With `continue_final` it ends with the last message's text, which the model goes on with.
        """
        template = plain_template if self.chat_template is None else self.chat_template
        return renderer.render(
            template, messages, self.special, tools=tools, continue_final=continue_final, thinking=thinking
        )

    @property
    def chat_stops(self) -> tuple[str, ...]:
        """Texts that end an answer in a chat, beside what the request says."""
        return plain_stops if self.chat_template is None else ()


class TextStream:
    """Token ids to text as they come; an unfinished UTF-8 character waits for its next bytes, and for `finish`."""

    def __init__(
        self, inner: tokenizers.Tokenizer, after: Sequence[int] = (), shown: Mapping[int, str] | None = None
    ) -> None:
        self._inner = inner
        self._shown = shown or {}
        self._stream = DecodeStream(ids=list(after), skip_special_tokens=True)
        self._waiting: list[int] = []

    def feed(self, token: int) -> str:
        """The text that this token completes, perhaps none."""
        if token in self._shown:
            return self.finish() + self._shown[token]
        self._waiting.append(token)
        with _decoding:
            text = self._stream.step(self._inner, token) or ""
        if text:
            self._waiting.clear()
        elif len(self._waiting) >= _waiting_tokens_max:
            text = self.finish()  # no character is that long: the bytes are none
            self._stream = DecodeStream(skip_special_tokens=True)
        return text

    def finish(self) -> str:
        """The text of what still waits, replacement characters for bytes that are no character."""
        with _decoding:
            text = self._inner.decode(self._waiting, skip_special_tokens=True) if self._waiting else ""
        self._waiting.clear()
        return text


class _Native:
    """Turns what the tokenizer library raises into a fault: on some tokenizers it panics, which is a BaseException."""

    __slots__ = ("_expected",)

    def __init__(self, expected: str) -> None:
        self._expected = expected

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, reason: BaseException | None, _trace: object) -> None:
        if reason is not None and not isinstance(reason, KeyboardInterrupt | SystemExit):
            found = f"{type(reason).__name__}: {reason}"
            raise UnsupportedModel(f"tokenizer: expected {self._expected}, found {found}") from None


_encoding: Final = _Native("text that this model's tokenizer can encode")
_decoding: Final = _Native("token ids that this model's tokenizer can decode")


def decode_payload(raw: bytes) -> TokenizerFields:
    """The fields of a tokenizer payload; `UnsupportedModel` says what is wrong. The tokenizer itself is not read."""
    value = canonical.decode_object(raw, bytes_max=limits.tokenizer_payload_bytes_max)
    text, template, special = value.get("tokenizer_json"), value.get("chat_template"), value.get("special")
    if (
        set(value) != {"format", "tokenizer_json", "chat_template", "special"}
        or value["format"] != _format
        or not isinstance(text, str)
        or not (template is None or isinstance(template, str))
        or not isinstance(special, dict)
        or not all(isinstance(item, str) for item in special.values())
    ):
        raise UnsupportedModel(f"tokenizer: expected format {_format}, found fields {sorted(value)}")
    if template is not None and len(template.encode("utf-8")) > limits.chat_template_bytes_max:
        raise UnsupportedModel(f"chat template: expected at most {limits.chat_template_bytes_max} bytes, found more")
    return TokenizerFields(text, template, {str(name): str(text) for name, text in special.items()})


def parse_payload(raw: bytes, vocab_size: int) -> Tokenizer:
    """Check a tokenizer payload against the model's vocabulary; `UnsupportedModel` says what is wrong."""
    held = decode_payload(raw)
    with _Native("a tokenizer.json that the library reads"):
        inner = tokenizers.Tokenizer.from_str(held.tokenizer_json)
    inner.no_padding()  # neither belongs to one prompt: padding would add tokens, truncation drop some in silence
    inner.no_truncation()
    largest = max(inner.get_vocab(with_added_tokens=True).values(), default=-1)
    if largest >= vocab_size:
        raise UnsupportedModel(f"tokenizer.json: expected token ids below vocab_size {vocab_size}, found {largest}")
    longest = max((len(piece.encode()) for piece in inner.get_vocab(with_added_tokens=True)), default=1)
    return Tokenizer(held.chat_template, held.special, longest, GrammarVocabulary(inner, vocab_size), inner)


def _byte_table() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes, as byte-level BPE vocabularies store them (Radford et al. 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}


_byte_of: Final = _byte_table()
