"""The tables of wordings and facts that lie beside the code as TOML files, read as values once."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any, Final, TypeAlias

Wordings: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]  # English, Korean


def read_table(name: str) -> Mapping[str, Any]:
    """The TOML file of that name in this package. Raises OSError."""
    return tomllib.loads((resources.files("blyan.learning.genesis") / name).read_text(encoding="utf-8"))


def pair(table: Mapping[str, Any]) -> Wordings:
    """Its English and its Korean texts."""
    return tuple(table["en"]), tuple(table["ko"])


def pairs(table: Mapping[str, Any]) -> dict[str, Wordings]:
    """`pair` of every entry."""
    return {name: pair(entry) for name, entry in table.items()}


facts: Final = read_table("facts.toml")
