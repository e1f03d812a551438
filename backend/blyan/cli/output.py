"""How the command line speaks: tables or JSON on stdout, progress and faults on stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from blyan.primitives.errors import Fault

# C0 but tab and line feed, DEL, C1; and lone surrogates, which no encoding can print
_unprintable: Final = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")


def printable(text: str) -> str:
    """The text without control characters: what a model or another node says must not command the terminal."""
    return _unprintable.sub("", text)


class Output:
    """One command's mouth."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def data(self, value: Mapping[str, Any] | Sequence[Mapping[str, Any]], text: str) -> None:
        """The command's result: `value` with --json, else `text`."""
        sys.stdout.write((json.dumps(value, ensure_ascii=False) if self.as_json else text) + "\n")

    def note(self, text: str) -> None:
        """A line of progress."""
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()

    def progress(self, what: str) -> ProgressLine:
        """A counting line: rewritten in place on a terminal, one line at the end elsewhere."""
        return ProgressLine(what, sys.stderr.isatty())

    def fault(self, fault: Fault) -> None:
        """An error: what was wrong, then what to do; as JSON on stdout too with --json."""
        self.note(f"blyan: {fault.message}")
        if fault.hint:
            self.note(f"  try: {fault.hint}")
        if self.as_json:
            body = {"error": {"code": fault.code, "message": fault.message, "detail": fault.detail, "hint": fault.hint}}
            sys.stdout.write(json.dumps(body, ensure_ascii=False) + "\n")


class ProgressLine:
    """Counts something long."""

    def __init__(self, what: str, terminal: bool) -> None:
        self._what = what
        self._terminal = terminal

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        if self._terminal:
            sys.stderr.write(f"\r{self._what}: {done} of {total}" + ("\n" if done == total else ""))
        elif done == total:
            sys.stderr.write(f"{self._what}: {total}\n")
        sys.stderr.flush()


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def byte_size(count: int) -> str:
    """A size for people: 1023 B, 1.5 MiB."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def short_count(count: int) -> str:
    """A count for people: 8.1M."""
    for unit, scale in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= scale:
            return f"{count / scale:.1f}{unit}"
    return str(count)
