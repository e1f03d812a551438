"""How the command line speaks: tables or JSON on stdout, progress and faults on stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from blyan.primitives.clock import Monotonic, system_monotonic
from blyan.primitives.errors import Fault

# C0 but tab and line feed, DEL, C1; what turns the direction of everything after it (U+202A to U+202E, U+2066 to
# U+2069); line and paragraph separators; and lone surrogates, which no encoding can print
_unprintable: Final = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")

_redraw_seconds: Final = 0.1
_line_seconds: Final = 10.0  # between two lines where nothing can be redrawn


def printable(text: str) -> str:
    """The text without control characters: what a model or another node says must not command the terminal."""
    return _unprintable.sub("", text)


def json_text(value: object) -> str:
    """One line of JSON in which those characters are escaped too: C1 commands a terminal, and JSON may hold it."""
    text = json.dumps(value, ensure_ascii=False)
    return _unprintable.sub(lambda found: f"\\u{ord(found[0]):04x}", _encodable(text))


def _encodable(text: str) -> str:
    """The text with lone surrogates, which names of files may hold, as escapes; they are JSON's escapes too."""
    return text.encode("utf-8", "backslashreplace").decode()


class Output:
    """One command's mouth."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def data(self, value: Mapping[str, Any] | Sequence[Mapping[str, Any]], text: str) -> None:
        """The command's result: `value` with --json, else `text`."""
        sys.stdout.write((json_text(value) if self.as_json else printable(_encodable(text))) + "\n")

    def note(self, text: str) -> None:
        """A line of progress."""
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()

    def progress(self, what: str, *, in_bytes: bool = False) -> ProgressLine:
        """A counting line: rewritten in place on a terminal, one line now and then elsewhere."""
        return ProgressLine(what, sys.stderr.isatty(), in_bytes)

    def fault(self, fault: Fault) -> None:
        """An error: what was wrong, then what to do; as JSON on stdout too with --json."""
        self.note(f"blyan: {fault.message}")
        if fault.hint:
            self.note(f"  try: {fault.hint}")
        if self.as_json:
            body = {"error": {"code": fault.code, "message": fault.message, "detail": fault.detail, "hint": fault.hint}}
            sys.stdout.write(json_text(body) + "\n")


class ProgressLine:
    """Counts something long, with speed and what is left of the time where it counts bytes."""

    def __init__(self, what: str, terminal: bool, in_bytes: bool = False, now: Monotonic = system_monotonic) -> None:
        self._what = what
        self._terminal = terminal
        self._in_bytes = in_bytes
        self._now = now
        self._began = self._said = now()
        self._width = 0

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        now = self._now()
        finished = done == total
        if not finished and now - self._said < (_redraw_seconds if self._terminal else _line_seconds):
            return
        self._said = now
        text = f"{self._what}: {self._shown(done, total, now - self._began)}"
        if self._terminal:
            sys.stderr.write("\r" + text.ljust(self._width) + ("\n" if finished else ""))
            self._width = len(text)
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def _shown(self, done: int, total: int, seconds: float) -> str:
        finished = done == total
        if not self._in_bytes:
            return str(total) if finished and not self._terminal else f"{done} of {total}"
        speed = done / max(seconds, 1e-9)
        pace = f"{byte_size(round(speed))}/s"
        if finished:
            return f"{byte_size(total)} in {duration(seconds)}, {pace}"
        return f"{byte_size(done)} of {byte_size(total)}, {pace}, {duration((total - done) / max(speed, 1.0))} left"


def duration(seconds: float) -> str:
    """A time for people: 8.5 s, 2 min 05 s, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


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
