"""Copies of a data directory that can be trusted with it: every byte is hashed on its way out and on its way back.

A backup is a folder: `blobs/` as in a data directory, `chains.archive`, `keys/`, and `BACKUP`, written last, which says
what it is of. Making it again into the same folder copies what is new. It can be made beside a running node: the chains
are those of one joint checkpoint, read first, and blobs never change. A damaged blob is named, and the rest is copied.

Steps of a backup, each durable before the next: (1) blobs, (2) a key that differs from the one there as `next.key`, (3)
the archive, whose rename is the commit, (4) the key under its own name, (5) `BACKUP`. A crash leaves the backup of
before, or this one: as after a rotation, the chains say which of two keys is theirs.
Steps of a restore, into an absent or empty folder: (1) `.restore`, which keeps everybody else away, (2) blobs, (3)
chains, verified whole, (4) keys, (5) SCHEMA, (6) `.restore` goes. One that was interrupted begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blyan.chain.archive import ImportReport, export_archive, import_archive
from blyan.node.config import NodeConfig
from blyan.node.data_directory import Ground, lock, lock_name
from blyan.node.keys import folder_name as keys_name
from blyan.node.keys import next_key, node_key, read_key
from blyan.node.schema import restore_name, write_schema
from blyan.node.writer import settle_rotation
from blyan.primitives import canonical, limits
from blyan.primitives.errors import BlockCorrupt, Denied, IntegrityFault, InvalidInput, NotFound, Unavailable
from blyan.primitives.ids import PayloadId, PublicKey, public_key
from blyan.storage import durable
from blyan.storage.blob_store import BlobStore

archive_name: Final = "chains.archive"
_label_name: Final = "BACKUP"
_names: Final = frozenset({"blobs", keys_name, archive_name, _label_name})
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
    damaged: tuple[str, ...] = ()  # sentences: what could not be copied because it is not whole


def back_up(ground: Ground, target: Path, *, keys: bool, progress: Progress) -> Copied:
    """Copy everything that a node cannot make again into `target`; `InvalidInput` if something else is there.

    `Unavailable` while a rotation or commit of a crash waits to be settled: the next start does that.
    """
    label = _label(target)
    if label is not None and label["network"] != ground.chains.network:
        raise InvalidInput(f"backup {target}: expected one of {ground.chains.network}, found one of {label['network']}")
    if label is None and target.exists():
        for path in target.iterdir():  # an interrupted first backup is no stranger, a data directory is
            if path.name not in _names and not path.name.startswith(durable.temporary_prefix):
                raise InvalidInput(f"backup: expected {target} absent, empty or an earlier backup, found {path.name}")
    if next_key(ground.folder).exists():
        raise Unavailable(
            f"data directory {ground.folder}: expected one key, found a rotation that has not ended",
            hint="start the node once: it finishes or undoes it",
        )
    durable.make_folder(target, 0o700)
    durable.sweep(target)
    store = BlobStore(target / "blobs", writable=True)
    payloads, damaged = list(ground.store.payloads()), list[str]()
    copied = length = 0
    for done, payload in enumerate(payloads):
        try:
            if _copy_blob(ground.store, store, payload):
                copied, length = copied + 1, length + store.size(payload)
        except BlockCorrupt as reason:
            damaged.append(reason.message)
        progress(done + 1, len(payloads))
    for payload, why in ground.store.pins().items():
        store.pin(payload, why)
    chains = ground.chains
    if keys:
        _stage_key(node_key(ground.folder), target)
    if label is not None:
        _write_label(target, chains.network, {*_sequencers(label), chains.joint.author})
    export_archive(chains, target / archive_name, from_snapshot=any(chains.first.values()))
    if next_key(target).exists():
        durable.publish(next_key(target), node_key(target))
    _write_label(target, chains.network, {chains.joint.author})
    return Copied(chains.network, chains.joint.height, len(payloads), copied, length, tuple(damaged))


def restore(config: NodeConfig, source: Path, progress: Progress) -> Copied:
    """Make a data directory from a backup, every byte of it verified; nothing half is ever opened.

    `NotFound` if there is no backup, `InvalidInput` if the data directory is not empty, `IntegrityFault` for damage.
    """
    label = _label(source)
    if label is None:
        raise NotFound(f"restore: expected a backup in {source}, found no {_label_name}")
    folder = config.data_dir
    if folder.is_dir():
        _want_empty(folder)
    with lock(folder):
        others = _want_empty(folder)
        durable.write_file(folder / restore_name, b"")
        for path in others:
            (durable.remove_tree if path.is_dir() and not path.is_symlink() else durable.remove)(path)
        copied = _restored(config, source, label, progress)
        durable.remove(folder / restore_name)
    return copied


def _want_empty(folder: Path) -> list[Path]:
    """What an interrupted restore left; `InvalidInput` if anything else is there."""
    others = [path for path in folder.iterdir() if path.name not in (lock_name, restore_name, "node.toml")]
    strangers = [path for path in others if not path.name.startswith(durable.temporary_prefix)]
    if strangers and not (folder / restore_name).exists():
        raise InvalidInput(f"restore: expected {folder} to be absent or empty, found {strangers[0].name}")
    return others


def _restored(config: NodeConfig, source: Path, label: Mapping[str, canonical.Canonical], progress: Progress) -> Copied:
    folder = config.data_dir
    kept, store = BlobStore(source / "blobs"), BlobStore(folder / "blobs", writable=True, limit=config.storage.space)
    payloads = list(kept.payloads())
    for done, payload in enumerate(payloads):
        _copy_blob(kept, store, payload)
        progress(done + 1, len(payloads))
    for payload, why in kept.pins().items():
        store.pin(payload, why)
    report, trusted = _import(folder / "chain", store, source, _sequencers(label))
    if report.network != label["network"]:
        raise _damaged(source / _label_name, f"expected network {report.network}, found {label['network']}")
    _restore_keys(source, folder, trusted)
    write_schema(folder)
    length = sum(store.size(payload) for payload in payloads)
    return Copied(report.network, report.height, len(payloads), len(payloads), length)


def _import(
    folder: Path, store: BlobStore, source: Path, sequencers: Sequence[PublicKey]
) -> tuple[ImportReport, PublicKey]:
    """Import what one of them signed; whoever made the backup knew them, and a snapshot needs to be vouched for."""
    why = ""
    for sequencer in sequencers:
        try:
            return import_archive(folder, store, source / archive_name, sequencer), sequencer
        except Denied as reason:
            why = reason.message
    raise _damaged(source / _label_name, why)


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


def _stage_key(path: Path, target: Path) -> None:
    """Step 2: beside a key of an earlier backup, which the archive there may still need."""
    key = read_key(path)  # a damaged one is no backup
    durable.make_folder(target / keys_name, 0o700)
    there = node_key(target)
    same = not there.exists() or read_key(there).public == key.public
    _copy_key(path, there if same else next_key(target))


def _restore_keys(source: Path, folder: Path, sequencer: PublicKey) -> None:
    found = [path for path in (node_key, next_key) if path(source).exists()]
    for path in found:
        read_key(path(source))
        durable.make_folder(folder / keys_name, 0o700)
        _copy_key(path(source), path(folder))
    if found:
        settle_rotation(folder, sequencer)


def _copy_key(source: Path, target: Path) -> None:
    durable.write_file(target, durable.read_limited(source, limits.key_file_bytes_max), 0o600)


def _write_label(folder: Path, network: str, sequencers: set[PublicKey]) -> None:
    """Two sequencers while the archive may be of before a rotation or of after it."""
    value: dict[str, canonical.Canonical] = {"v": 1, "network": network, "sequencers": sorted(sequencers)}
    durable.write_file(folder / _label_name, canonical.encode(value))


def _sequencers(label: Mapping[str, canonical.Canonical]) -> list[PublicKey]:
    found = label["sequencers"]
    if not isinstance(found, list) or not found:
        raise InvalidInput("sequencers: expected one or two keys, found none")
    return [public_key(each) for each in found]


def _label(folder: Path) -> dict[str, canonical.Canonical] | None:
    """What a folder says it is a backup of, None if it says nothing; both fields are held against the archive."""
    path = folder / _label_name
    try:
        raw = durable.read_limited(path, limits.schema_file_bytes_max)
        value = canonical.decode_object(raw, bytes_max=limits.schema_file_bytes_max)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, InvalidInput) as reason:
        raise _damaged(path, str(reason)) from None
    if value.keys() != {"v", "network", "sequencers"} or type(value["v"]) is not int or value["v"] != 1:
        raise _damaged(path, "expected what a backup says of itself, found something else")
    try:
        _sequencers(value)
    except InvalidInput as reason:
        raise _damaged(path, reason.message) from None
    return value


def _damaged(path: Path, why: str) -> IntegrityFault:
    return IntegrityFault(f"backup {path}: {why}", detail={"file": str(path)})
