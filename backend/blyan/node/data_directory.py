"""The data directory: LOCK, keys, blobs and chains, opened in one place.

One process writes; it holds `LOCK`, which also says its process id and address. Readers need no lock: chains are read
up to their checkpoint and blobs are immutable.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from blyan.chain.chains import Chains
from blyan.primitives import limits
from blyan.primitives.clock import Entropy
from blyan.primitives.errors import DataDirectoryInUse, Denied, IntegrityFault, InvalidInput, NotFound
from blyan.primitives.keys import Key, seed_bytes
from blyan.storage import durable
from blyan.storage.blob_store import BlobStore

_key_name = "node.key"
_lock_attempts = 20
_lock_pause_seconds = 0.05


@dataclass(frozen=True, slots=True)
class Ground:
    """Ground state of a node: what it cannot rebuild from anything else."""

    folder: Path
    store: BlobStore
    chains: Chains
    key: Key


@contextmanager
def lock(folder: Path) -> Generator[Path, None, None]:
    """Hold the data directory's LOCK, making the folder if needed; `DataDirectoryInUse` names who has it."""
    durable.make_folder(folder)
    path = folder / "LOCK"
    # 0600, because whoever can read a file can lock it
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(handle, 0o600)  # an older one may be open to others
        _take(handle, folder)
        os.ftruncate(handle, 0)
        write_holder(path, None)
        for leftover in (folder / "keys").glob(f"{durable.temporary_prefix}*"):  # of a crash; may hold the seed
            leftover.unlink(missing_ok=True)
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
    """Say in the LOCK file who holds it and where it listens."""
    path.write_text(json.dumps({"pid": os.getpid(), "url": url}))


def lock_holder(folder: Path) -> dict[str, Any] | None:
    """Process id and URL of the node that runs on this folder, {} if it has not said them yet, None if none runs."""
    try:
        with (folder / "LOCK").open("rb") as file:
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


def create_keys(folder: Path, entropy: Entropy) -> Key:
    """The node's key; made on first use, owner-only."""
    keys = folder / "keys"
    durable.make_folder(keys, 0o700)
    if not (keys / _key_name).exists():
        if (folder / "chain" / "meta" / "checkpoint").exists():  # a new key could never go on with these chains
            raise IntegrityFault(
                f"data directory {folder}: expected {keys / _key_name}, the key of the chains there, found none",
                detail={"file": str(keys / _key_name)},
                hint="put the key back from a backup, or use another --data-dir",
            )
        durable.write_file(keys / _key_name, entropy(seed_bytes).hex().encode() + b"\n", 0o600)
    return read_key(folder)


def read_key(folder: Path) -> Key:
    """The node's key; `NotFound` before `init`, `Denied` if others may read it."""
    path = folder / "keys" / _key_name
    try:
        mode = stat.S_IMODE(path.stat(follow_symlinks=False).st_mode)
        raw = durable.read_limited(path, 2 * seed_bytes + 1)
    except FileNotFoundError:
        raise NotFound(
            f"data directory {folder}: expected {path}, found none", hint=f"run `blyan init --data-dir {folder}` first"
        ) from None
    except ValueError as reason:
        raise InvalidInput(str(reason)) from None
    if mode & 0o077:
        raise Denied(f"{path}: expected mode 0600, found {mode:04o}", hint=f"chmod 600 {path}")
    try:
        return Key.from_seed(bytes.fromhex(raw.decode("ascii").strip()))
    except (ValueError, InvalidInput):
        raise InvalidInput(f"{path}: expected {2 * seed_bytes} hex digits, found something else") from None


def open_ground(folder: Path, *, writable: bool = False) -> Ground:
    """Open an initialised data directory; the caller that asks for `writable` holds the lock."""
    key = read_key(folder)
    return Ground(folder, BlobStore(folder / "blobs", writable=writable), Chains(folder / "chain", key.public), key)
