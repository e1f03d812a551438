"""What an import has stored so far, so that one that was killed goes on where it stopped.

`import/<model>.journal`: a first line that says what is imported (the shards as files, the options), then one line for
each part whose block is durable. Nothing rests on it: a line is used only where the very same import runs again and the
block is there, and a torn or foreign line is work done twice, not an error. It goes when the model is published.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from blyan.model.manifest import BlockReference
from blyan.primitives import canonical, limits
from blyan.primitives.errors import InvalidInput
from blyan.primitives.ids import payload_id
from blyan.primitives.model_name import file_stem
from blyan.storage import durable

folder_name: Final = "import"
_line_bytes_max: Final = 4_096


class ImportJournal:
    """The journal of one import; leaving the `with` block closes the file and keeps it."""

    def __init__(self, folder: Path, name: str, subject: Mapping[str, canonical.Canonical]) -> None:
        """Open or begin the journal of importing `subject` under `name` in data directory `folder`."""
        self.path = folder / folder_name / f"{file_stem(name)}.journal"
        self._first = canonical.encode({"v": 1, "subject": dict(subject)}) + b"\n"
        self.done: dict[str, BlockReference] = {}  # part → its block
        self._handle = -1

    def __enter__(self) -> Self:
        durable.make_folder(self.path.parent, within=self.path.parent.parent)
        self.done = self._read()
        if not self.done:
            durable.write_file(self.path, self._first)
        self._handle = durable.open_appending(self.path)
        durable.append(self._handle, b"\n")  # ends a line that a crash tore
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        os.close(self._handle)

    def keep(self, whole: Callable[[BlockReference], bool]) -> None:
        """Forget what is not there any more."""
        self.done = {part: block for part, block in self.done.items() if whole(block)}

    def record(self, part: str, block: BlockReference) -> None:
        """The block of a part is durable in the store."""
        line = canonical.encode({"part": part, "payload": block.payload, "bytes": block.length})
        durable.append(self._handle, line + b"\n")
        self.done[part] = block

    def remove(self) -> None:
        """The import is done."""
        durable.remove(self.path)

    def _read(self) -> dict[str, BlockReference]:
        found: dict[str, BlockReference] = {}
        with suppress(OSError, ValueError):
            lines = durable.read_limited(self.path, limits.manifest_parts_max * 512).split(b"\n")
            if lines[0] + b"\n" != self._first:
                return {}
            for line in lines[1:]:
                with suppress(InvalidInput, KeyError, TypeError, AttributeError):
                    value = canonical.decode_object(line, bytes_max=_line_bytes_max)
                    part, length = value["part"], value["bytes"]
                    if isinstance(part, str) and type(length) is int:
                        found[part] = BlockReference(payload_id(value["payload"]), length)
        return found
