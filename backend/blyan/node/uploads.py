"""Files that a client uploads before it creates a model of them, each named by its SHA-256.

`uploads/<64 hex digits>` in the data directory; nothing else rests on them. Steps of an upload: (1) a temporary file
that is hashed while it is written, (2) fsync and rename, once the digest is the one that was said. Those of a model
that was created go at once; the rest go when they are a day old, at the next start or upload. `uploads/made/<model>` is
the checkpoint folder that an import under way reads: hard links, so that one that was killed finds the very same files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from blyan.primitives import limits
from blyan.primitives.clock import UnixSeconds
from blyan.primitives.errors import InvalidInput, NotFound, PayloadTooLarge, QueueFull, UnsupportedModel
from blyan.primitives.model_name import file_stem
from blyan.storage import durable
from blyan.storage.blob_faults import full, no_room
from blyan.storage.blob_store import BlobStore

folder_name: Final = "uploads"
_made: Final = "made"
_room_asked_every: Final = 64 * limits.MIB
_numbers = count()  # two uploads of one digest are two temporary files


class Uploads:
    """The uploaded files of one data directory."""

    def __init__(self, data_dir: Path, store: BlobStore, now: UnixSeconds) -> None:
        """Nothing is made or removed yet. `store` says how much of the disk may be taken."""
        self.folder = data_dir / folder_name
        self._data_dir = data_dir
        self._store = store
        self._now = now
        self._running = 0

    def has(self, digest: str) -> bool:
        """Whether a file of that SHA-256 is here."""
        return self._path(digest).is_file()

    def begin(self, digest: str) -> Upload:
        """Begin one; `QueueFull` where too many run, `StorageFull` where too many wait to be used."""
        if self._running >= limits.uploads_running_max:
            raise QueueFull(
                f"uploads: expected fewer than {limits.uploads_running_max} at once, found {self._running}",
                hint="try again when one has ended",
            )
        durable.make_folder(self.folder, mode=0o700, within=self._data_dir)
        self.sweep()
        waiting = sum(1 for _ in self.folder.iterdir())
        if waiting >= limits.uploads_max:
            raise QueueFull(
                f"uploads: expected fewer than {limits.uploads_max} that wait to be used, found {waiting}",
                hint="create a model of them; what is a day old goes by itself",
            )
        return Upload(self, digest)

    def checkpoint_folder(self, model: str, files: Mapping[str, str]) -> Path:
        """A folder with these files under these names; `NotFound` names one that was not uploaded."""
        folder = self.folder / _made / file_stem(model)
        durable.make_folder(folder, mode=0o700, within=self._data_dir)
        for name, digest in files.items():
            source, target = self._path(digest), folder / name
            if target.exists() and not source.exists():
                continue  # an earlier try took it, and was killed before its end
            if not source.is_file():
                raise NotFound(
                    f"file {name}: expected an uploaded blob sha256:{digest}, found none",
                    detail={"digest": f"sha256:{digest}"},
                    hint="POST it to /api/blobs first",
                )
            with source.open("rb") as file:
                if file.read(4) == b"GGUF":
                    raise UnsupportedModel(
                        f"file {name}: expected safetensors, found GGUF",
                        hint="import the safetensors checkpoint that it was made of",
                    )
            if not target.exists() or not target.samefile(source):  # linking again would look like another file
                durable.discard(target)
                os.link(source, target)
        for path in folder.iterdir():
            if path.name not in files:
                durable.discard(path)
        durable.fsync_folder(folder)
        return folder

    def used(self, model: str, files: Mapping[str, str]) -> None:
        """The model is on the chain: its files are not needed any more."""
        with suppress(FileNotFoundError):
            durable.remove_tree(self.folder / _made / file_stem(model))
        for digest in set(files.values()):
            durable.discard(self._path(digest))
        durable.sync_names(self.folder)

    def sweep(self, *, starting: bool = False) -> None:
        """Remove what is a day old; as a process starts, also what an unfinished upload left."""
        durable.refuse_links(self.folder, within=self._data_dir)
        oldest = self._now() - limits.upload_age_seconds_max
        if starting:
            durable.sweep(self.folder)
        made = self.folder / _made
        for path in [*_inside(self.folder), *_inside(made)]:
            with suppress(FileNotFoundError):
                unfinished = path.name.startswith(durable.temporary_prefix)  # somebody writes it, or a start removes it
                if path != made and not unfinished and path.stat(follow_symlinks=False).st_mtime < oldest:
                    durable.remove_tree(path)

    def _path(self, digest: str) -> Path:
        return self.folder / digest

    def want_room(self, length: int, written: int) -> None:
        """`StorageFull` where the store's limits leave no room for an upload of `length` bytes."""
        self._store.want_room(length, written=written)

    def bytes_held(self) -> int:
        """What all files take that are here, unfinished ones too."""
        return sum(path.stat(follow_symlinks=False).st_size for path in _inside(self.folder))

    def running(self, more: int) -> None:
        """Count one that begins or ends."""
        self._running += more


class Upload:
    """One file on its way in. A context: what was not finished when it is left is removed."""

    def __init__(self, uploads: Uploads, digest: str) -> None:
        self._uploads = uploads
        self._digest = digest
        self._name = f"{digest}-{next(_numbers)}"
        self._hash = hashlib.sha256()
        self._stack = ExitStack()
        self._length = self._asked = 0
        self._beside = uploads.bytes_held()
        self._file = self._stack.enter_context(durable.writing(uploads.folder, self._name, 0o600))
        uploads.running(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, reason: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._uploads.running(-1)
        self._stack.__exit__(kind, reason, trace)
        durable.discard(durable.temporary_path(self._uploads.folder, self._name))

    def write(self, data: bytes) -> None:
        """Take the next bytes; `PayloadTooLarge`, or `StorageFull` where there is no room."""
        written = self._length
        self._length += len(data)
        if self._length > limits.upload_bytes_max:
            raise PayloadTooLarge(f"upload: expected at most {limits.upload_bytes_max} bytes, found more")
        if self._length > self._asked:
            self._asked = self._length + _room_asked_every
            self._uploads.want_room(self._beside + self._length, self._beside + written)
        self._hash.update(data)
        try:
            self._file.write(data)
        except OSError as fault:
            if fault.errno in no_room:
                raise full(self._uploads.folder, fault) from None
            raise

    def finish(self) -> None:
        """Give it its name; `InvalidInput` if its bytes are not what the digest says."""
        if self._hash.hexdigest() != self._digest:
            raise InvalidInput(f"upload: expected sha256:{self._digest}, computed sha256:{self._hash.hexdigest()}")
        self._stack.close()  # durable from here on
        folder = self._uploads.folder
        durable.publish(durable.temporary_path(folder, self._name), folder / self._digest)


def _inside(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
