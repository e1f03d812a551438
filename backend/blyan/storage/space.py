"""What a blob store takes of the disk, and how much it may."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, StorageFull
from blyan.primitives.ids import PayloadId, payload_id
from blyan.storage import durable, partial


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts and bytes; allocated space may be a little more (whole disk blocks)."""

    blobs: int
    blob_bytes: int
    index_bytes: int
    partials: int
    partial_bytes: int
    leftover_bytes: int  # temporary files of a crash
    free_bytes: int  # of the disk
    bytes_max: int | None  # what this store may take, None for the whole disk

    @property
    def bytes(self) -> int:
        """Everything together."""
        return self.blob_bytes + self.index_bytes + self.partial_bytes + self.leftover_bytes


@dataclass(frozen=True, slots=True)
class SpaceLimits:
    """What a store may take, and what it must leave on the disk."""

    bytes_max: int | None = None
    free_bytes_min: int = 0

    def __post_init__(self) -> None:
        for name, value in (("bytes_max", self.bytes_max), ("free_bytes_min", self.free_bytes_min)):
            if value is not None and not 0 <= value <= limits.canonical_integer_max:
                raise InvalidInput(f"{name}: expected 0 to {limits.canonical_integer_max}, found {value}")


def stored_payloads(folder: Path) -> Iterator[PayloadId]:
    """The ids of all blobs, in order; what is not named like one is passed over."""
    for inner in sorted(folder.iterdir()) if folder.is_dir() else ():
        if len(inner.name) != 2 or inner.is_symlink() or not inner.is_dir():
            continue
        for path in sorted(inner.iterdir()):
            try:
                payload = payload_id(path.name)
            except InvalidInput:
                continue
            if payload[:2] == inner.name:
                yield payload


def unfinished_payloads(folder: Path) -> Iterator[PayloadId]:
    """The ids of all partial blobs, in order."""
    inner = folder / partial.folder_name
    for path in sorted(inner.glob(f"*{partial.have_suffix}")) if inner.is_dir() else ():
        try:
            payload = payload_id(path.name.removesuffix(partial.have_suffix))
        except InvalidInput:
            continue
        if (inner / payload).exists():
            yield payload


def usage(folder: Path, space: SpaceLimits) -> Usage:
    """Count what is there."""
    blobs = blob_bytes = index_bytes = leftovers = partial_bytes = 0
    partials: set[str] = set()
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                size = (Path(root) / name).stat(follow_symlinks=False).st_size
            except FileNotFoundError:
                continue  # gone since the folder was listed
            if name.startswith(durable.temporary_prefix):
                leftovers += size
            elif Path(root).name == partial.folder_name:
                partials.add(name.partition(".")[0])
                partial_bytes += size
            elif name.endswith(partial.index_suffix):
                index_bytes += size
            elif len(Path(root).name) == 2:
                blobs, blob_bytes = blobs + 1, blob_bytes + size
    return Usage(
        blobs, blob_bytes, index_bytes, len(partials), partial_bytes, leftovers, free_bytes(folder), space.bytes_max
    )


def free_bytes(folder: Path) -> int:
    """What the disk still has for us."""
    while not folder.exists():
        folder = folder.parent
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def bytes_at(paths: Iterable[Path]) -> int:
    """What files take; one that is not there takes nothing."""
    total = 0
    for path in paths:
        with suppress(FileNotFoundError, NotADirectoryError):
            total += path.stat(follow_symlinks=False).st_size
    return total


def want_room(folder: Path, space: SpaceLimits, used: int, more: int, written: int) -> None:
    """Raise `StorageFull` unless `more` bytes fit beside the `used` ones; the disk holds `written` of them already."""
    if space.bytes_max is not None and used + more > space.bytes_max:
        raise StorageFull(
            f"blob store {folder}: expected at most {space.bytes_max} bytes (storage.bytes_max), found {used + more}",
            hint="`blyan blob sweep` removes what nothing needs; raise storage.bytes_max in node.toml for more",
        )
    if space.free_bytes_min and (free := free_bytes(folder)) - (more - written) < space.free_bytes_min:
        raise StorageFull(
            f"blob store {folder}: expected {space.free_bytes_min} bytes to stay free (storage.free_bytes_min), "
            f"found {max(free - (more - written), 0)}",
            hint="free some space, or lower storage.free_bytes_min in node.toml",
        )
