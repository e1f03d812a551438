"""The tokenizer of a checkpoint directory as one payload: `tokenizer.json`, or a sentencepiece `tokenizer.model`.

The chat template is compiled once in its sandbox, so that one that no message could be rendered with is refused here
and not at the first chat.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, cast

from blyan.model import tokenizer as tokenizer_module
from blyan.model.added_tokens import with_added_tokens
from blyan.model.chat_template import TemplateRenderer
from blyan.model.hf_files import read_bytes, read_json, read_text
from blyan.model.hf_values import want
from blyan.model.sentencepiece import parse_model, special_tokens, tokenizer_json
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, UnsupportedModel


def tokenizer_payload(folder: Path) -> bytes | None:
    """The payload, None where the directory has no tokenizer; `UnsupportedModel` or `InvalidInput` names the file."""
    settings_path = folder / "tokenizer_config.json"
    settings = read_json(settings_path, limits.config_json_bytes_max * 4) if settings_path.is_file() else {}
    special: dict[str, str] = {}
    if (folder / "tokenizer.json").is_file():
        text = read_text(folder / "tokenizer.json", limits.tokenizer_payload_bytes_max // 2)
    elif (folder / "tokenizer.model").is_file():
        model = parse_model(read_bytes(folder / "tokenizer.model", limits.tokenizer_payload_bytes_max // 2))
        begin, end = (_flag(settings, f"add_{name}_token", name == "bos") for name in ("bos", "eos"))
        text, special = tokenizer_json(model, add_begin=begin, add_end=end), special_tokens(model)
    else:
        return None
    _want_same_ids(settings, text)
    template = _chat_template(folder, settings)
    map_path = folder / "special_tokens_map.json"
    older = read_json(map_path, limits.config_json_bytes_max) if map_path.is_file() else {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        content = _content(settings.get(name, older.get(name)))
        if content is not None:
            special[name] = content
    return tokenizer_module.encode_payload(with_added_tokens(text, folder, settings, older), template, special)


def _want_same_ids(settings: Mapping[str, Any], text: str) -> None:
    """Refuse settings by which `transformers` would get other ids than `tokenizer.json`, which is what runs here."""
    split = settings.get("split_special_tokens")
    want(split in (None, False), "tokenizer_config.json: split_special_tokens", split, "false")
    prefixed = _flag(settings, "add_prefix_space", _adds_prefix(text))
    want(
        prefixed == _adds_prefix(text),
        "tokenizer_config.json: add_prefix_space",
        settings.get("add_prefix_space"),
        f"{str(not prefixed).lower()}, as tokenizer.json has it",
    )


def _adds_prefix(text: str) -> bool:
    """Whether a `tokenizer.json` puts a space before the first word."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return False  # the library says what is wrong with it
    waiting: list[Any] = [whole.get("normalizer"), whole.get("pre_tokenizer")] if isinstance(whole, dict) else []
    while waiting:
        each = waiting.pop()
        if not isinstance(each, dict):
            continue
        step = cast("dict[str, Any]", each)
        inner = step.get("normalizers") or step.get("pretokenizers")
        waiting += cast("list[Any]", inner) if isinstance(inner, list) else []
        scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space") else "never")
        if step.get("type") == "Prepend" or (step.get("type") in ("ByteLevel", "Metaspace") and scheme != "never"):
            return True
    return False


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    template = settings.get("chat_template")
    path = folder / "chat_template.jinja"
    if path.is_file():
        template = read_text(path, limits.chat_template_bytes_max)
    if isinstance(template, list):  # several named templates: the default one chats
        items = [cast("dict[str, Any]", item) for item in cast("list[Any]", template) if isinstance(item, dict)]
        default = [item.get("template") for item in items if item.get("name") == "default"]
        want(bool(default) or not items, "chat_template", [item.get("name") for item in items], "one named default")
        template = default[0] if default else None
    want(template is None or isinstance(template, str), "chat_template", template, "text")
    if template is not None:
        with closing(TemplateRenderer()) as renderer:
            try:
                renderer.check(template)
            except InvalidInput as reason:
                raise UnsupportedModel(reason.message) from None
    return template


def _content(token: object) -> str | None:
    """The text of a token, which stands alone or in an object with its flags."""
    text: object = cast("dict[str, object]", token).get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _flag(settings: Mapping[str, Any], name: str, default: bool) -> bool:
    value = settings.get(name)
    want(value is None or isinstance(value, bool), name, value, "true or false")
    return default if value is None else bool(value)
