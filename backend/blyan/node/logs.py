"""Logs of a running node: text for a terminal, JSON lines for machines, perhaps a file that rotates by size.

What people wrote is never logged: no prompts, answers, keys, cookies, query strings or headers. Two nets hold what code
above might let through: tracebacks give frames and types but no messages (an exception's message may quote its input),
and what looks like a credential is cut out of every line. Control characters, line separators and those that change the
direction of writing are escaped, so that no value can forge a line or steer a terminal.
"""

from __future__ import annotations

import datetime as dt
import logging
import logging.handlers
import re
import sys
import traceback
import unicodedata
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TextIO, cast

import orjson

from blyan.node.config import LogConfig
from blyan.node.tracing import current_trace
from blyan.primitives import limits
from blyan.primitives.errors import Denied
from blyan.primitives.url_secrets import without_secrets

folder_name: Final = "logs"
file_name: Final = "node.log"
# A record's own fields, by `extra={fields_attribute: {...}}`; text shows them as key=value, JSON beside the rest.
fields_attribute: Final = "blyan_fields"

_escaped_kinds: Final = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs"})
_secret: Final = re.compile(
    r"""(?ix)
    (?P<key> ["']? (?: authorization | proxy-authorization | cookie | set-cookie | x-api-key | api[_-]?key
        | access[_-]?token | token | secret | passphrase | password ) ["']? \s* [:=] \s* )
        (?P<value> (?: (?: bearer | basic ) \s+ )? (?: "[^"]*" | '[^']*' | [^\s,;&}]+ ) )
    | \b (?: bearer | basic ) \s+ [A-Za-z0-9._~+/=-]{8,}
    | \b sk-[A-Za-z0-9_-]{8,}
    """
)


def printable(text: str) -> str:
    """The text with every character escaped that would end a line or steer a terminal; at most so many characters."""
    if len(text) > limits.log_message_chars_max:
        text = text[: limits.log_message_chars_max] + f" … ({len(text)} characters)"
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(each) if unicodedata.category(each) in _escaped_kinds else each for each in text)


def redacted(text: str) -> str:
    """The text without what looks like a credential."""
    return _secret.sub(lambda match: f"{match['key'] or ''}[redacted]", without_secrets(text))


def frames_of(record: logging.LogRecord) -> list[str]:
    """The traceback of a record without the exceptions' messages: `file:line function`, innermost last, then types."""
    if not record.exc_info or record.exc_info[1] is None:
        return []
    found: list[str] = []
    reason: BaseException | None = record.exc_info[1]
    while reason is not None and len(found) < limits.log_frames_max:
        frames = traceback.extract_tb(reason.__traceback__)
        found += [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-limits.log_frames_max :]]
        number = f" errno {reason.errno}" if isinstance(reason, OSError) else ""
        found.append(f"{type(reason).__module__}.{type(reason).__qualname__}{number}")
        reason = reason.__cause__ or (None if reason.__suppress_context__ else reason.__context__)
    return found


class JsonLines(logging.Formatter):
    """One JSON object for each record: `time`, `level`, `logger`, `message`, `request`, its fields, `traceback`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line: dict[str, Any] = {
            "time": dt.datetime.fromtimestamp(record.created, tz=dt.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": printable(record.name),
            "message": printable(redacted(record.getMessage())),
        }
        if trace := current_trace():
            line["request"] = trace.identity
        for name, value in _fields(record).items():
            line.setdefault(name, printable(redacted(value)) if isinstance(value, str) else value)
        if frames := frames_of(record):
            line["traceback"] = [printable(frame) for frame in frames]
        return orjson.dumps(line).decode()


class TextLines(logging.Formatter):
    """`blyan: message key=value … request=ID`, as people read it; a traceback's frames on lines of their own."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, and one for each frame."""
        words = [f"blyan: {printable(redacted(record.getMessage()))}"]
        words += [f"{name}={printable(redacted(str(value)))}" for name, value in _fields(record).items()]
        if trace := current_trace():
            words.append(f"request={trace.identity}")
        return "\n".join([" ".join(words), *(f"    {printable(frame)}" for frame in frames_of(record))])


@contextmanager
def logging_as(config: LogConfig, data_dir: Path, stream: TextIO | None = None) -> Generator[None]:
    """Log as configured until the context ends, then as before. `Denied` if the folder of logs is a link."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    handlers: list[logging.Handler] = [logging.StreamHandler(stream or sys.stderr)]
    if config.file:
        handlers.append(_rotating(config, data_dir / folder_name))
    for handler in handlers:
        handler.setFormatter(JsonLines() if config.format == "json" else TextLines())
    root.handlers[:] = handlers
    root.setLevel(config.level.upper())
    # of libraries only what went wrong: their debug lines may hold bodies
    quiet = [logging.getLogger(name) for name in ("aiohttp", "asyncio")]
    for logger in quiet:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        for logger in quiet:
            logger.setLevel(logging.NOTSET)
        for handler in handlers:
            handler.close()


def _rotating(config: LogConfig, folder: Path) -> logging.Handler:
    if folder.is_symlink():
        raise Denied(f"{folder}: expected a folder for logs, found a symbolic link")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / file_name
    if path.is_symlink():
        raise Denied(f"{path}: expected a file, found a symbolic link")
    path.touch(mode=0o600)
    return _OwnFiles(path, maxBytes=config.file_bytes_max, backupCount=config.files_kept, encoding="utf-8")


class _OwnFiles(logging.handlers.RotatingFileHandler):
    """Files that nobody else reads, also those that rotation makes."""

    def _open(self) -> Any:
        Path(self.baseFilename).touch(mode=0o600)
        return super()._open()


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", getattr(record, fields_attribute, {}))


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
