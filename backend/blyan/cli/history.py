"""What was typed into `blyan chat`, kept for the next time: one JSON text a line, for the owner alone.

In the user's state folder (XDG), not in the data directory: a chat may ask a node that is elsewhere. Lines that begin
with a space are not kept, as in a shell. Nothing here stops a chat: a history that cannot be read or written is none.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from blyan.primitives import limits
from blyan.storage import durable

_mode: Final = 0o600
_entry_chars_max: Final = 16 * 1024  # a pasted book is not worth a line


class History:
    """The last things typed, oldest first."""

    def __init__(self, folder: Path | None) -> None:
        """Read what is there; None keeps nothing beyond this process."""
        self._path = folder / "chat_history" if folder is not None else None
        self.entries: list[str] = []
        with suppress(OSError):
            self._read()

    def add(self, text: str) -> None:
        """Keep one more, unless it is the same as before."""
        if text.startswith(" ") or not text or len(text) > _entry_chars_max or self.entries[-1:] == [text]:
            return
        self.entries.append(text)
        del self.entries[: -limits.history_entries_max]
        with suppress(OSError):
            self._append(text)

    def _read(self) -> None:
        if self._path is None:
            return
        with self._path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limits.history_bytes_max))
            lines = file.read(limits.history_bytes_max).split(b"\n")
        if size > limits.history_bytes_max:
            del lines[0]  # its beginning was not read
        for line in lines:
            with suppress(ValueError, RecursionError):
                entry = json.loads(line)
                if isinstance(entry, str):
                    self.entries.append(entry)
        kept = len(self.entries)
        del self.entries[: -limits.history_entries_max]
        if kept > 2 * limits.history_entries_max or 2 * size > limits.history_bytes_max:
            self._shorten()

    def _shorten(self) -> None:
        """Write the file anew, so that it does not grow for ever."""
        assert self._path is not None, "it was read"
        lines, room = list[bytes](), limits.history_bytes_max // 4
        for entry in reversed(self.entries):
            lines.append(_line(entry))
            room -= len(lines[-1])
            if room < 0:
                break
        durable.write_file(self._path, b"".join(reversed(lines)), _mode)

    def _append(self, text: str) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        handle = os.open(self._path, flags, _mode)
        try:
            os.fchmod(handle, _mode)
            os.write(handle, _line(text))  # one write, so that two chats do not mix
        finally:
            os.close(handle)


def _line(text: str) -> bytes:
    return json.dumps(text).encode() + b"\n"
