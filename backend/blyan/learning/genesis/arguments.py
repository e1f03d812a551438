"""What the scripts of the built-in model are told on the command line, checked before anything is begun."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path


def count(text: str) -> int:
    """A whole number above zero."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ArgumentTypeError(f"expected a whole number above 0, found {text!r}")
    return int(text)


def trained(text: str) -> Path:
    """The folder of a training that is done."""
    folder = Path(text)
    if not (folder / "made.json").is_file():
        raise ArgumentTypeError(f"{folder}: expected a training that is done (made.json), found none")
    return folder
