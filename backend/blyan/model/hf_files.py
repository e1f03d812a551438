"""Small files of a checkpoint directory, each with a limit before it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from blyan.primitives.errors import InvalidInput


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
    """A file that holds one JSON object."""
    try:
        value = json.loads(read_text(path, bytes_max))
    except (ValueError, RecursionError) as reason:
        raise InvalidInput(f"{path}: expected JSON, found {reason}") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"{path}: expected a JSON object, found {type(value).__name__}")
    return cast("dict[str, Any]", value)
