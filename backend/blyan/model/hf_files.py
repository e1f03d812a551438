"""Small files of a checkpoint directory, each with a limit before it is read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

from blyan.primitives.errors import InvalidInput

_lone_surrogate = re.compile("[\ud800-\udfff]")  # JSON can spell one; no encoding can write it, and no token is one


def read_bytes(path: Path, bytes_max: int) -> bytes:
    """A whole file; `InvalidInput` if it is larger."""
    size = path.stat().st_size
    if size > bytes_max:
        raise InvalidInput(f"{path}: expected at most {bytes_max} bytes, found {size}")
    return path.read_bytes()


def read_text(path: Path, bytes_max: int) -> str:
    """A file of UTF-8 text; `InvalidInput` says what is wrong with it."""
    try:
        return read_bytes(path, bytes_max).decode("utf-8")
    except UnicodeDecodeError as reason:
        raise InvalidInput(f"{path}: expected UTF-8, found {reason}") from None


def read_json(path: Path, bytes_max: int) -> dict[str, Any]:
    """A file that holds one JSON object, all of whose texts are Unicode; `InvalidInput` names file and field."""
    text = read_text(path, bytes_max)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as reason:
        raise InvalidInput(f"{path}: expected JSON, found {reason}") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"{path}: expected a JSON object, found {type(value).__name__}")
    if "\\u" in text:
        _want_unicode(path, cast("dict[str, Any]", value))
    return cast("dict[str, Any]", value)


def _want_unicode(path: Path, value: dict[str, Any]) -> None:
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        field, each = waiting.pop()
        if isinstance(each, str) and _lone_surrogate.search(each):
            raise InvalidInput(f"{path}: {field or 'a name'}: expected Unicode text, found {each[:80]!a}")
        if isinstance(each, dict):
            inner = cast("dict[str, Any]", each)
            waiting += [(field, name) for name in inner]
            waiting += [(f"{field}.{name[:80]}" if field else name[:80], found) for name, found in inner.items()]
        elif isinstance(each, list):
            waiting += [(field, found) for found in cast("list[Any]", each)]
