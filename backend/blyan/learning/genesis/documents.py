"""What the exam and the lessons say about Blyan is read from the repository's documents, so that it stays true.

Three tables: words (`docs/GLOSSARY.md`), commands (`docs/cli.md`), error codes (`docs/errors.md`). An answer is the
first clause of what stands there. How people ask, and the meanings in Korean, stand in `blyan_words`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blyan.primitives.errors import InvalidInput

_answer_chars_max: Final = 110
_row: Final = re.compile(r"^\|(.+)\|\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One line of the table of errors."""

    meaning: str
    status: str  # HTTP, empty where there is none
    exit_code: str


@dataclass(frozen=True, slots=True)
class Documents:
    """What the documents say."""

    words: dict[str, str]  # word -> meaning
    commands: dict[str, str]  # `blyan model list` -> what it does
    errors: dict[str, ErrorCode]


def read_documents(docs: Path) -> Documents:
    """The tables of the documents in this folder; `InvalidInput` where one has no rows."""
    words = {row[0]: first_clause(row[1]) for row in reversed(_table(docs / "GLOSSARY.md")) if row[0] != "word"}
    commands: dict[str, str] = {}
    for row in _table(docs / "cli.md"):
        found = re.match(r"`(blyan(?: [a-z]+)+)", row[0])
        if found and "`, `" not in row[0]:
            commands[found[1]] = first_clause(row[1])
    errors = {
        row[0].strip("`"): ErrorCode(first_clause(row[4]), row[2], row[3])
        for row in _table(docs / "errors.md")
        if row[0].startswith("`")
    }
    return Documents(words, commands, errors)


def first_clause(text: str) -> str:
    """Up to the first full stop, colon, semicolon or bracket; without marks of Markdown."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("`", "")
    text = re.split(r"[;:(] |[;:]$|\. | \(|, as of|; ", text)[0].strip().rstrip(".")
    if len(text) > _answer_chars_max:
        text = text[:_answer_chars_max].rpartition(",")[0] or text[:_answer_chars_max].rpartition(" ")[0]
    return text


def _table(path: Path) -> list[list[str]]:
    text = path.read_text(encoding="utf-8").replace("\\|", "/")
    rows = [[cell.strip() for cell in row.split("|")] for row in _row.findall(text)]
    rows = [row for row in rows if not row[0].startswith("---")]
    if not rows:
        raise InvalidInput(f"{path}: expected a table, found none")
    return rows
