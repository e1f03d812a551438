"""Copies of a data directory that can be trusted with it: every byte is hashed on its way out and on its way back.

A backup is a folder: `blobs/` as in a data directory, `chains.archive`, `ledger.db`, `accounts.db`, `keys/`, and
`BACKUP`, written last, which says what it is of. Making it again into the same folder copies what is new. It can be
made beside a running node: chains and key are those of one moment, read first, accounts and books of a later one, and
blobs never change. A blob that is damaged, or needed and not there, is named and the rest is copied, on the way out and
on the way back; so are accounts and books.

Steps of a backup, each durable before the next: (1) blobs, (2) a key that differs from the one there as `next.key`,
accounts and books, (3) the archive, whose rename is the commit, (4) the key under its own name, (5) `BACKUP`. A crash
leaves the backup of before, or this one: as after a rotation, the chains say which of two keys is theirs.
Steps of a restore, into an absent or empty folder: (1) `.restore`, which keeps everybody else away, (2) blobs, (3)
chains, verified whole, (4) keys, accounts and books, (5) SCHEMA, (6) `.restore` goes. One that was interrupted begins
anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blyan.chain.archive import ImportReport, export_archive, import_archive
from blyan.chain.chains import Chains
from blyan.node.blobs_in_use import unmet_needs
from blyan.node.config import NodeConfig
from blyan.node.data_directory import Ground, lock, lock_name
from blyan.node.holdings import read_held, write_held
from blyan.node.keys import folder_name as keys_name
from blyan.node.keys import next_key, node_key, read_key
from blyan.node.saved import bring_back, save
from blyan.node.saved import names as saved_names
from blyan.node.schema import restore_name, write_schema
from blyan.node.swarm_secret import read_swarm, write_swarm
from blyan.node.writer import settle_rotation
from blyan.primitives import canonical, limits
from blyan.primitives.errors import BlockCorrupt, Denied, IntegrityFault, InvalidInput, NotFound, Unavailable
from blyan.primitives.ids import PayloadId, PublicKey, public_key
from blyan.storage import durable
from blyan.storage.blob_store import BlobStore

archive_name: Final = "chains.archive"
_label_name: Final = "BACKUP"
_names: Final = frozenset({"blobs", keys_name, archive_name, _label_name}) | saved_names
_chunk_bytes: Final = limits.MIB
_key_mode: Final = 0o600

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Copied:
    """What a backup or restore did."""

    network: str
    height: int
    blobs: int  # in all
    copied: int  # of them now
    bytes: int  # of those
    may_write: bool  # whether the key there is the sequencer's
    damaged: tuple[str, ...] = ()  # sentences: what could not be copied because it is not whole, or not there
    notes: tuple[str, ...] = ()  # sentences: what it does not hold, and what to know of it


def back_up(ground: Ground, target: Path, *, keys: bool, progress: Progress, database: str = "") -> Copied:
    """Copy everything that a node cannot make again into `target`; `InvalidInput` if something else is there.

    Without `keys`, accounts of people stay out too; so do books that are in a `database`, and `notes` say so.

    `Unavailable` while a rotation or commit of a crash waits to be settled, which the next start does, and where the
    key was rotated since `ground` was opened: its chains have another key then.
    """
    label = _label(target)
    if label is not None and label["network"] != ground.chains.network:
        raise InvalidInput(f"backup {target}: expected one of {ground.chains.network}, found one of {label['network']}")
    if label is None and target.exists():
        for path in target.iterdir():  # an interrupted first backup is no stranger, a data directory is
            if path.name not in _names and not path.name.startswith(durable.temporary_prefix):
                raise InvalidInput(f"backup: expected {target} absent, empty or an earlier backup, found {path.name}")
    key = _key_of(ground)
    durable.make_folder(target, 0o700)
    durable.sweep(target)
    store = BlobStore(target / "blobs", writable=True)
    chains, held = ground.chains, read_held(ground.folder)
    if held:
        write_held(target, held)
    faults = unmet_needs(chains, ground.store, held)
    blobs = _copy_blobs(ground.store, store, faults, progress)
    pin_faults = _copy_pins(ground.store, store)
    for payload, sentence in unmet_needs(chains, store, held).items():
        faults.setdefault(payload, sentence)  # swept while others were copied
    if keys:
        _stage_key(key, ground.identity, target)
        _copy_swarm(ground.folder, target)
    if label is not None:
        _write_label(target, chains.network, {*_sequencers(label), chains.joint.author})
    saved = save(ground.folder, target, chains, database=database, accounts=keys)
    export_archive(chains, target / archive_name, from_snapshot=any(chains.first.values()))
    if next_key(target).exists():
        durable.publish(next_key(target), node_key(target))
    _write_label(target, chains.network, {chains.joint.author})
    return Copied(
        chains.network,
        chains.joint.height,
        *blobs,
        keys and ground.may_write,
        (*faults.values(), *pin_faults, *saved.faults),
        saved.notes,
    )


def restore(config: NodeConfig, source: Path, progress: Progress) -> Copied:
    """Make a data directory from a backup, every byte of it verified; nothing half is ever opened.

    Blobs that are not whole are named and left out. `NotFound` if there is no backup, `InvalidInput` if the data
    directory is not empty, `IntegrityFault` for damage of anything else.
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
    faults: dict[PayloadId, str] = {}
    blobs = _copy_blobs(kept, store, faults, progress)
    pin_faults = _copy_pins(kept, store)
    report, trusted = _import(folder / "chain", store, source, _sequencers(label))
    if report.network != label["network"]:
        raise _damaged(source / _label_name, f"expected network {report.network}, found {label['network']}")
    may_write = _restore_keys(source, folder, trusted)
    chains = Chains(folder / "chain", trusted, store)
    saved = bring_back(source, folder, chains, database=config.ledger.database)
    write_schema(folder)
    held = read_held(source)
    if held:
        write_held(folder, held)
    for payload, sentence in unmet_needs(chains, store, held).items():
        faults.setdefault(payload, sentence)
    damaged = (*faults.values(), *pin_faults, *saved.faults)
    return Copied(report.network, report.height, *blobs, may_write, damaged, saved.notes)


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


def _copy_blobs(
    source: BlobStore, target: BlobStore, faults: dict[PayloadId, str], progress: Progress
) -> tuple[int, int, int]:
    """Copy all; how many there are, how many were copied now, and their bytes. What is not whole goes to `faults`."""
    payloads, copied, length = list(source.payloads()), 0, 0
    for done, payload in enumerate(payloads):
        try:
            if _copy_blob(source, target, payload):
                copied, length = copied + 1, length + target.size(payload)
        except BlockCorrupt as reason:
            faults[payload] = reason.message
        except NotFound:
            pass  # swept since it was listed; whether it is needed is asked at the end
        progress(done + 1, len(payloads))
    return len(payloads), copied, length


def _copy_pins(source: BlobStore, target: BlobStore) -> tuple[str, ...]:
    """Copy what is pinned; a sentence if nobody knows what is."""
    try:
        for payload, why in source.pins().items():
            target.pin(payload, why)
    except IntegrityFault as reason:
        return (reason.message,)
    return ()


def _copy_blob(source: BlobStore, target: BlobStore, payload: PayloadId) -> bool:
    """Copy a payload unless it is there whole; whether it was copied. It is hashed in any case: damage is named."""
    view = memoryview(source.open(payload).mapping)
    try:
        target.verify(payload)
        return False
    except (NotFound, IntegrityFault):
        pass
    target.put((view[at : at + _chunk_bytes] for at in range(0, len(view), _chunk_bytes)), expected=payload)
    return True


def _key_of(ground: Ground) -> bytes:
    """The node's key file, of the moment at which the chains were opened.

    A rotation makes `next.key` before it commits and removes it after the key took its place, so that one that came
    since the chains were opened is seen here by one or the other, or has not begun.
    """
    if next_key(ground.folder).exists():
        raise Unavailable(
            f"data directory {ground.folder}: expected one key, found a rotation that has not ended",
            hint="start the node once: it finishes or undoes it",
        )
    path = node_key(ground.folder)
    raw = durable.read_limited(path, limits.key_file_bytes_max)
    found = read_key(path).public  # a damaged one is no backup
    if found != ground.identity or durable.read_limited(path, limits.key_file_bytes_max) != raw:
        raise Unavailable(
            f"data directory {ground.folder}: expected key {ground.identity}, as when its chains were opened, "
            f"found that of {found}, or the file written anew",
            hint="run it again: the key was changed meanwhile",
        )
    return raw


def _stage_key(raw: bytes, public: PublicKey, target: Path) -> None:
    """Step 2: beside a key of an earlier backup, which the archive there may still need."""
    durable.make_folder(target / keys_name, 0o700, within=target)
    there = node_key(target)
    same = not there.exists() or read_key(there).public == public
    durable.write_file(there if same else next_key(target), raw, _key_mode)


def _copy_swarm(source: Path, target: Path) -> None:
    """The join code, where there is one: whoever lacks it is in another swarm."""
    swarm = read_swarm(source)
    if swarm is not None:
        write_swarm(target, swarm.secret)


def _restore_keys(source: Path, folder: Path, sequencer: PublicKey) -> bool:
    """Bring the keys back; whether the node's is the sequencer's."""
    found = [path for path in (node_key, next_key) if path(source).exists()]
    for path in found:
        read_key(path(source))
        durable.make_folder(folder / keys_name, 0o700, within=folder)
        durable.write_file(path(folder), durable.read_limited(path(source), limits.key_file_bytes_max), _key_mode)
    _copy_swarm(source, folder)
    if found:
        settle_rotation(folder, sequencer)
    return bool(found) and read_key(node_key(folder)).public == sequencer


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
