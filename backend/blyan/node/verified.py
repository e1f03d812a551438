"""When a model was last found whole: one small file for each manifest, told to people and believed by nobody.

`verified/<manifest id>` holds the time. A block whose file changed since makes it void, and so does one that is gone;
what computes with a block hashes it itself (`storage/blob_store`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from blyan.model.manifest import Manifest
from blyan.primitives.clock import UnixSeconds
from blyan.primitives.errors import Fault
from blyan.primitives.ids import PayloadId
from blyan.storage import durable
from blyan.storage.blob_store import BlobStore

if TYPE_CHECKING:  # commands read what was remembered without what computes
    from blyan.model.loading import LoadedModel

folder_name: Final = "verified"
_bytes_max: Final = 32
_log = logging.getLogger(__name__)


def verify_loaded(
    folder: Path,
    models: Iterable[LoadedModel],
    here: Callable[[PayloadId, str], bool] | None,
    closing: Callable[[], bool],
    now: UnixSeconds,
) -> None:
    """Hash every block of these models that is to be here, and remember which were whole; ends early when closing."""
    for model in models:
        began, whole = now(), True
        for part in model.manifest.parts:
            if closing():
                return
            if here is not None and not here(model.manifest_id, part):
                continue
            try:
                model.weights.verify(part)
            except Fault as reason:
                _log.error("%s", reason.message)
                whole = False
        if whole:
            remember_verified(folder, model.manifest_id, began)


def remember_verified(folder: Path, manifest: PayloadId, seconds: int) -> None:
    """Every block of that manifest matched its id at this time. Where nothing can be written, nothing is."""
    with suppress(OSError):
        durable.make_folder(folder / folder_name, within=folder)
        durable.write_file(folder / folder_name / manifest, str(seconds).encode())


def forget_verified(folder: Path, manifest: PayloadId) -> None:
    """A block of that manifest did not match."""
    with suppress(OSError):
        durable.discard(folder / folder_name / manifest)


def last_verified(folder: Path, identity: PayloadId, manifest: Manifest, store: BlobStore) -> int | None:
    """Seconds since the epoch, None if it never was or a block's file changed since."""
    try:
        raw = durable.read_limited(folder / folder_name / identity, _bytes_max)
        seconds = int(raw)
        for block in manifest.blocks.values():
            found = store.path(block.payload).stat(follow_symlinks=False)
            if found.st_size != block.length or max(found.st_mtime, found.st_ctime) > seconds:
                return None
    except (OSError, ValueError):
        return None
    return seconds
