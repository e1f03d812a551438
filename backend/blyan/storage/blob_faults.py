"""What is said about a stored file that is not what it should be: which payload, which file, what to do."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

from blyan.primitives.errors import BlockCorrupt, Fault, NotFound, StorageFull, Unavailable
from blyan.primitives.ids import PayloadId

put_back: Final = "`blyan init` (built-in model) or `blyan model import` again replaces it"
no_room: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_of_the_moment: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def corrupted(payload: PayloadId, path: Path, why: str, bad_subtiles: list[int]) -> BlockCorrupt:
    """Bytes on the disk that are not the payload's."""
    return BlockCorrupt(
        f"block {payload} is corrupt: {why} in {path}",
        detail={"payload": payload, "file": str(path), "bad_subtiles": bad_subtiles},
        hint=f"the file changed after it was stored: check the disk, then {put_back}",
    )


def not_opened(payload: PayloadId, path: Path, reason: OSError) -> Fault:
    """A file that the system did not open: absent, damaged, or a machine short of something."""
    detail = {"payload": payload, "file": str(path)}
    if isinstance(reason, FileNotFoundError):
        hint = "import the model again to put the block back"
        return NotFound(f"block {payload} is not here: expected {path}", detail=detail, hint=hint)
    if reason.errno in _of_the_moment:
        hint = "raise the limits of open files (ulimit -n) and mappings (vm.max_map_count), or run less beside"
        return Unavailable(f"block {payload}: expected to map {path}, {reason.strerror}", detail=detail, hint=hint)
    return corrupted(payload, path, f"expected to open it, {reason.strerror}", [])


def misplaced(payload: PayloadId, reason: OSError) -> BlockCorrupt:
    """A folder where a file belongs, or the other way round."""
    path = reason.filename2 or reason.filename
    return BlockCorrupt(
        f"block {payload} cannot be stored: {reason.strerror} at {path}",
        detail={"payload": payload, "file": str(path), "bad_subtiles": []},
        hint=f"this program did not put it there: move {path} away, then {put_back}",
    )


def full(folder: Path, reason: OSError) -> StorageFull:
    """A disk without room."""
    return StorageFull(
        f"blob store {folder}: expected room for a payload, found none ({reason.strerror})",
        hint="free some space (`blyan blob sweep` lists what nothing needs), or use another --data-dir",
    )
