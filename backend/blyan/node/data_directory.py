"""The data directory: LOCK says who writes it, and readers open it beside that one.

Readers need no lock: chains are read up to their joint checkpoint and blobs are immutable. What the one writer does
before its first write and after its last is `node/writer`.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from blyan.chain.chains import Chains
from blyan.node.keys import folder_name, node_key, read_key
from blyan.node.schema import want_present
from blyan.primitives import limits
from blyan.primitives.errors import DataDirectoryInUse
from blyan.primitives.ids import PublicKey
from blyan.storage import durable
from blyan.storage.blob_faults import no_room
from blyan.storage.blob_store import BlobStore

lock_name = "LOCK"
_lock_attempts = 20
_lock_pause_seconds = 0.05


@dataclass(frozen=True, slots=True)
class Ground:
    """Ground state of a node: what it cannot rebuild from anything else."""

    folder: Path
    store: BlobStore
    chains: Chains
    identity: PublicKey  # this node's

    @property
    def may_write(self) -> bool:
        """Whether this node's key is the sequencer of its chains: those it joined, it reads."""
        return self.identity == (self.chains.state.sequencer or self.chains.joint.author)


def open_ground(folder: Path, *, writable: bool = False) -> Ground:
    """Open an initialised data directory for reading, beside whoever writes it; to put blobs, by whoever claimed it.

    `NotFound` before `init`, `Denied` for a key that others may read, `Unavailable` for an older schema,
    `SchemaTooNew` for a newer one, `IntegrityFault` for damage.
    """
    want_present(folder)
    identity = read_key(node_key(folder)).public
    store = BlobStore(folder / "blobs", writable=writable)
    return Ground(folder, store, Chains(folder / "chain", identity, store), identity)


@contextmanager
def lock(folder: Path) -> Generator[Path, None, None]:
    """Hold the data directory's LOCK, making the folder if needed; `DataDirectoryInUse` names who has it."""
    durable.make_folder(folder)
    path = folder / lock_name
    # 0600, because whoever can read a file can lock it
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(handle, 0o600)  # an older one may be open to others
        _take(handle, folder)
        os.ftruncate(handle, 0)
        write_holder(path, None)
        durable.sweep(folder / folder_name, within=folder)  # what a crash left there may hold the seed
        yield path
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _take(handle: int, folder: Path) -> None:
    """Lock the file, or say who has it; one who does not say so is a reader or just starting, and is waited for."""
    who = "an unnamed process"
    for _ in range(_lock_attempts):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = lock_holder(folder)
        if holder and "pid" in holder:
            who = f"process {holder['pid']}"
            break
        time.sleep(_lock_pause_seconds)
    raise DataDirectoryInUse(
        f"data directory {folder}: expected it free, found {who} using it",
        hint="stop that node first, or use another --data-dir",
    )


def write_holder(path: Path, url: str | None) -> None:
    """Say in the LOCK file who holds it and where it listens, if the disk has room: it is told, not needed."""
    try:
        path.write_text(json.dumps({"pid": os.getpid(), "url": url}))
    except OSError as reason:
        if reason.errno not in no_room:
            raise


def lock_holder(folder: Path) -> dict[str, Any] | None:
    """Process id and URL of the node that runs on this folder, {} if it has not said them yet, None if none runs."""
    try:
        with (folder / lock_name).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
            except BlockingIOError:
                holder: object = json.loads(file.read(limits.config_file_bytes_max))
                return cast("dict[str, Any]", holder) if isinstance(holder, dict) else {}
    except FileNotFoundError:
        return None
    except ValueError:  # empty or half written
        return {}
