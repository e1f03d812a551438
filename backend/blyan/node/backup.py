"""Copies of a data directory that can be trusted with it: every byte is hashed on its way out and on its way back.

A backup is a folder: `blobs/` as in a data directory, `chains.archive`, `keys/`, and `BACKUP`, written last, which says
what it is of. Making it again into the same folder copies what is new. It can be made beside a running node: the chains
are those of one joint checkpoint, read first, and blobs never change.

Steps of a backup: (1) what is promised is read, (2) blobs, (3) the archive, (4) keys, (5) `BACKUP`. Steps of a restore,
into an absent or empty folder: (1) `.restore`, which keeps everybody else away, (2) blobs, (3) chains, verified whole,
(4) keys, (5) SCHEMA, (6) `.restore` goes. A restore that was interrupted begins anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blyan.chain.archive import export_archive, import_archive
from blyan.node.config import NodeConfig
from blyan.node.data_directory import Ground, lock, lock_name, open_ground
from blyan.node.keys import folder_name as keys_name
from blyan.node.keys import node_key, read_key
from blyan.node.schema import restore_name, write_schema
from blyan.primitives import canonical, limits
from blyan.primitives.errors import IntegrityFault, InvalidInput, NotFound
from blyan.primitives.ids import PayloadId
from blyan.storage import durable
from blyan.storage.blob_store import BlobStore

archive_name: Final = "chains.archive"
_label_name: Final = "BACKUP"
_chunk_bytes: Final = limits.MIB

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Copied:
    """What a backup or restore did."""

    network: str
    height: int
    blobs: int  # in all
    copied: int  # of them now
    bytes: int  # of those


def back_up(ground: Ground, target: Path, *, keys: bool, progress: Progress) -> Copied:
    """Copy everything that a node cannot make again into `target`; `InvalidInput` if another network's is there."""
    label = _label(target)
    if label is not None and label.get("network") != ground.chains.network:
        raise InvalidInput(
            f"backup {target}: expected one of {ground.chains.network}, found one of {label.get('network')}"
        )
    if label is None and target.exists() and any(target.iterdir()):
        raise InvalidInput(f"backup: expected {target} to be absent, empty or an earlier backup, found something else")
    durable.make_folder(target, 0o700)
    store = BlobStore(target / "blobs", writable=True)
    payloads = list(ground.store.payloads())
    copied = length = 0
    for done, payload in enumerate(payloads):
        if _copy_blob(ground.store, store, payload):
            copied, length = copied + 1, length + store.size(payload)
        progress(done + 1, len(payloads))
    for payload, why in ground.store.pins().items():
        store.pin(payload, why)
    chains = ground.chains
    export_archive(chains, target / archive_name, from_snapshot=any(chains.first.values()))
    if keys:
        read_key(node_key(ground.folder))  # a damaged one is no backup
        _copy_keys(ground.folder, target)
    said: dict[str, canonical.Canonical] = {
        "v": 1,
        "network": chains.network,
        "height": chains.joint.height,
        "keys": keys,
    }
    durable.write_file(target / _label_name, canonical.encode(said))
    return Copied(chains.network, chains.joint.height, len(payloads), copied, length)


def restore(config: NodeConfig, source: Path, progress: Progress) -> Copied:
    """Make a data directory from a backup, every byte of it verified; nothing half is ever opened."""
    label = _label(source)
    if label is None:
        raise NotFound(f"restore: expected a backup in {source}, found no {_label_name}")
    folder = config.data_dir
    marker = folder / restore_name
    begun = marker.exists()
    others = [path for path in folder.iterdir() if path.name not in (lock_name, "node.toml")] if folder.is_dir() else []
    if others and not begun:
        raise InvalidInput(f"restore: expected {folder} to be absent or empty, found {others[0].name}")
    with lock(folder):
        durable.write_file(marker, b"")
        for path in others:
            if path != marker:
                (durable.remove_tree if path.is_dir() and not path.is_symlink() else durable.remove)(path)
        copied = _restored(config, source, progress)
        durable.remove(marker)
    ground = open_ground(folder) if label.get("keys") else None
    if ground is not None and ground.chains.network != label.get("network"):
        raise IntegrityFault(f"restore: expected network {label.get('network')}, found {ground.chains.network}")
    return copied


def _restored(config: NodeConfig, source: Path, progress: Progress) -> Copied:
    folder = config.data_dir
    kept, store = BlobStore(source / "blobs"), BlobStore(folder / "blobs", writable=True, limit=config.storage.space)
    payloads = list(kept.payloads())
    for done, payload in enumerate(payloads):
        _copy_blob(kept, store, payload)
        progress(done + 1, len(payloads))
    for payload, why in kept.pins().items():
        store.pin(payload, why)
    report = import_archive(folder / "chain", store, source / archive_name)
    if (source / keys_name).is_dir():
        read_key(node_key(source))
        _copy_keys(source, folder)
    write_schema(folder)
    length = sum(store.size(payload) for payload in payloads)
    return Copied(report.network, report.height, len(payloads), len(payloads), length)


def _copy_blob(source: BlobStore, target: BlobStore, payload: PayloadId) -> bool:
    """Copy a payload unless it is there whole; whether it was copied."""
    try:
        target.verify(payload)
        return False
    except (NotFound, IntegrityFault):
        pass
    view = memoryview(source.open(payload).mapping)
    target.put((view[at : at + _chunk_bytes] for at in range(0, len(view), _chunk_bytes)), expected=payload)
    return True


def _copy_keys(source: Path, target: Path) -> None:
    durable.make_folder(target / keys_name, 0o700)
    path = node_key(source)
    durable.write_file(target / keys_name / path.name, durable.read_limited(path, limits.key_file_bytes_max), 0o600)


def _label(folder: Path) -> dict[str, canonical.Canonical] | None:
    path = folder / _label_name
    try:
        raw = durable.read_limited(path, limits.schema_file_bytes_max)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as reason:
        raise IntegrityFault(f"{path}: expected to read it, found {reason}", detail={"file": str(path)}) from None
    try:
        value = canonical.decode_object(raw, bytes_max=limits.schema_file_bytes_max)
    except InvalidInput as reason:
        raise IntegrityFault(f"{path}: {reason.message}", detail={"file": str(path)}) from None
    if value.keys() != {"v", "network", "height", "keys"} or value["v"] != 1:
        raise IntegrityFault(f"{path}: expected what a backup says of itself, found others", detail={"file": str(path)})
    return value
