"""Tokens that a checkpoint adds beside its `tokenizer.json` or `tokenizer.model`, put into the tokenizer itself.

`added_tokens_decoder` and `extra_special_tokens` (or `additional_special_tokens`) of `tokenizer_config.json`,
`added_tokens.json`, `special_tokens_map.json`: what `transformers` reads when it loads a folder. A token whose id
cannot be what the checkpoint says is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import tokenizers
from tokenizers import AddedToken

from blyan.model.hf_files import read_json
from blyan.primitives import limits
from blyan.primitives.errors import UnsupportedModel

_flags: Final = ("lstrip", "rstrip", "single_word", "normalized")
_extra: Final = ("extra_special_tokens", "additional_special_tokens")
_named: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def with_added_tokens(
    tokenizer_json: str, folder: Path, settings: Mapping[str, Any], special_map: Mapping[str, Any]
) -> str:
    """The same `tokenizer.json` with what the folder adds; the very text where it adds nothing."""
    numbered = _numbered(folder, settings)
    others = _special(settings, special_map)
    if not numbered and not others:
        return tokenizer_json
    try:
        inner = tokenizers.Tokenizer.from_str(tokenizer_json)
    except Exception as reason:  # noqa: BLE001 - the library raises its own kinds
        raise UnsupportedModel(f"tokenizer.json: expected one that the library reads, found {reason}") from None
    known = {token.content for token in inner.get_added_tokens_decoder().values()}
    changed = False
    for number, token in sorted(numbered.items()):
        if token.content in known and inner.token_to_id(token.content) == number:
            continue
        _add(inner, token)
        changed = True
        if inner.token_to_id(token.content) != number:
            raise UnsupportedModel(
                f"added token {token.content[:80]!r}: expected id {number}, found {inner.token_to_id(token.content)}"
            )
    present = {token.content for token in inner.get_added_tokens_decoder().values() if token.special}
    for token, extra in others:
        # a name such as pad_token may stand for a token that the model has not: its id would be beyond the vocabulary
        if token.content not in present and (extra or inner.token_to_id(token.content) is not None):
            _add(inner, token)
            changed = True
    return inner.to_str() if changed else tokenizer_json


def _add(inner: tokenizers.Tokenizer, token: AddedToken) -> None:
    (inner.add_special_tokens if token.special else inner.add_tokens)([token])


def _numbered(folder: Path, settings: Mapping[str, Any]) -> dict[int, AddedToken]:
    """Tokens with their ids; those of `tokenizer_config.json` have flags, and go before."""
    found: dict[int, AddedToken] = {}
    path = folder / "added_tokens.json"
    for text, number in (read_json(path, limits.config_json_bytes_max * 4) if path.is_file() else {}).items():
        found[_id(number, text)] = AddedToken(text, normalized=False)
    decoder = settings.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise UnsupportedModel(f"added_tokens_decoder: expected an object, found {type(decoder).__name__}")
    for text, value in cast("dict[str, Any]", decoder).items():
        number = _id(int(text) if text.isascii() and text.isdigit() and len(text) < 9 else -1, text)
        found[number] = _token(value, special=False)
    return found


def _special(settings: Mapping[str, Any], special_map: Mapping[str, Any]) -> list[tuple[AddedToken, bool]]:
    """Special tokens, and whether one that has no id yet gets the next."""
    found: list[tuple[AddedToken, bool]] = []
    for name in (*_named, *_extra):
        value: Any = settings.get(name, special_map.get(name))
        several = cast("dict[str, Any]", value) if isinstance(value, dict) and "content" not in value else None
        listed = cast("list[Any]", value) if isinstance(value, list) else [value]
        given = list(several.values()) if several is not None else listed
        found += [(_token(each, special=True), name in _extra) for each in given if each is not None and each != ""]
    return found


def _token(value: object, *, special: bool) -> AddedToken:
    if isinstance(value, str):
        return AddedToken(value, special=special, normalized=False)
    fields = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    content = fields.get("content")
    if not isinstance(content, str) or not 0 < len(content) <= limits.token_text_bytes_max:
        raise UnsupportedModel(f"added token: expected text, found {str(value)[:80]!r}")
    flags = {name: bool(fields.get(name, False)) for name in _flags}
    return AddedToken(content, special=special or bool(fields.get("special", False)), **flags)


def _id(number: object, text: str) -> int:
    if type(number) is not int or not 0 <= number < limits.vocab_max:
        raise UnsupportedModel(f"added token {text[:80]!r}: expected an id below {limits.vocab_max}, found {number}")
    return number
