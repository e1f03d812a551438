"""Carrying chains from node to node: export to one file, import with every byte verified before it counts.

An archive is full, or begins at the snapshot that its joint checkpoint names. Importing one of the second kind is how a
node joins: it trusts the snapshot because the sequencer signed its root, and verifies all that came after.

Steps of an import, each durable before the next: (1) the archive as a chain folder of its own under a temporary name
beside the real one, each entry looked at before it is written and within the limits of the store (`chain/intake`), (2)
everything in it computed anew. Then, into an empty folder: (3) rename, the commit. Or, where the network is the same
and what is here is the beginning of what comes: (3) bundles and tiles left of what is held, (4) `held` replaced or
removed, the commit of a backfill; then (5) to (8), those of `chain/commit` with the archive's joint checkpoint and
notes.
A crash leaves a temporary folder, which the next import and `Chains.recover` remove, or files that no promise names.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

from blyan.chain.archive_file import ArchiveHeader, ArchiveReader, write_archive
from blyan.chain.audit import restore_snapshot
from blyan.chain.chains import Chains
from blyan.chain.checkpoint import origin_of
from blyan.chain.commit import import_folder, write_entries, write_promise
from blyan.chain.continuation import check_continues
from blyan.chain.entries import ChainName, chain_names
from blyan.chain.intake import Room, well_formed
from blyan.chain.joint import JointCheckpoint, StateRoot
from blyan.chain.log import begin_at
from blyan.chain.promise import held_bytes, held_name, joint_name
from blyan.chain.replay import network_of
from blyan.primitives import limits
from blyan.primitives.errors import Denied, IntegrityFault, InvalidInput, NotFound, Unavailable
from blyan.primitives.ids import PublicKey
from blyan.storage import durable
from blyan.storage.blob_faults import full, no_room
from blyan.storage.blob_store import BlobStore

_chunk_bytes: Final = 1 << 20
_width: Final = limits.log_tile_width


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import changed."""

    network: str
    height: int
    sizes: dict[ChainName, int]
    first: dict[ChainName, int]  # number of the first entry that is held now
    added: dict[ChainName, int]  # entries, at either end


def export_archive(chains: Chains, file: Path, *, from_snapshot: bool = False) -> None:
    """Write an archive of everything promised, or of what is needed to join; `file` is wholly there or not at all.

    `NotFound` if the chains began at a snapshot and all is asked for; `InvalidInput` if there is no snapshot.
    """
    state = chains.joint.state if from_snapshot else None
    if from_snapshot and state is None:
        raise InvalidInput("archive from a snapshot: expected a joint checkpoint that names one, found none")
    first: dict[ChainName, int] = {name: state.sizes[name] // _width * _width if state else 0 for name in chain_names}
    header = ArchiveHeader(
        joint=chains.joint.encode(),
        notes=_notes(chains),
        edges={name: chains.logs[name].edge_at(first[name]) for name in chain_names},
        snapshot_length=state.length if state else 0,
    )
    with durable.writing(file.parent, file.name) as out:
        write_archive(out, header, _snapshot_chunks(chains.store, state), _entries(chains, first))
    durable.publish(durable.temporary_path(file.parent, file.name), file)


def import_archive(folder: Path, store: BlobStore, file: Path, trust: PublicKey | None = None) -> ImportReport:
    """Verify an archive and make it, or what it adds, the chains in `folder`; see the steps above.

    `trust` is the sequencer's key as the caller knows it; without one, only the key that the network is named after
    may vouch for a snapshot. `IntegrityFault` where anything is not what it promises, `Denied` where nobody trusted
    signed it, `InvalidInput` where it does not fit to what is here, `StorageFull` where it takes more than the store
    may; then nothing changed.
    """
    aside = import_folder(folder)
    with _opened(file) as raw:
        reader = ArchiveReader(raw, file)
        _check_trust(reader, trust)
        if aside.exists():
            durable.remove_tree(aside)
        try:
            try:
                _unpack(reader, aside, store)
                theirs = Chains(aside, reader.joint.author, store)
                theirs.verify()
            except IntegrityFault as reason:
                raise IntegrityFault(f"archive {file}: {reason.message}", detail={"file": str(file)}) from None
            return _install(folder, theirs, store)
        except OSError as reason:
            if reason.errno in no_room:
                raise full(store.folder, reason) from None
            raise
        finally:
            if aside.exists():
                durable.remove_tree(aside)


def _opened(file: Path) -> BinaryIO:
    try:
        # NONBLOCK, or opening a named pipe would wait for somebody to write into it
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise InvalidInput(f"archive {file}: expected a file, found something else")
        return os.fdopen(handle, "rb")
    except FileNotFoundError:
        raise NotFound(f"archive {file}: expected a file, found none") from None
    except OSError as reason:
        raise InvalidInput(f"archive {file}: expected a file, found: {reason.strerror}") from None


def _check_trust(reader: ArchiveReader, trust: PublicKey | None) -> None:
    joint = reader.joint
    if trust is not None and joint.author != trust:
        raise Denied(f"archive: expected it signed by {trust}, found {joint.author}")
    if trust is None and reader.header.snapshot_length and network_of(joint.author) != joint.network:
        raise Denied(
            f"archive from a snapshot of {joint.network}: expected it signed by the key that the network is named "
            f"after, found {joint.author}",
            hint="its sequencer was rotated: pass the key that you trust",
        )


def _unpack(reader: ArchiveReader, folder: Path, store: BlobStore) -> None:
    """Step 1: a chain folder that says what the archive says; notes and order are held against it on opening."""
    header, joint = reader.header, reader.joint
    durable.make_folder(folder)
    if header.snapshot_length:
        assert joint.state is not None, "the reader checked it"
        store.put(reader.snapshot(), expected=joint.state.payload, bytes_max=header.snapshot_length)
    room = Room(store)
    for name in chain_names:
        log = begin_at(folder / name, origin_of(joint.network, name), header.edges[name])
        new = log.extend(well_formed(reader.entries(name), name, joint.network, header.first[name], room))
        if (new.edge.size, new.edge.root()) != (joint.heads[name].size, joint.heads[name].root):
            raise IntegrityFault(
                f"expected root {joint.heads[name].root.hex()} over {joint.heads[name].size} entries of chain "
                f"{name}, computed {new.edge.root().hex()}"
            )
        log.write_tiles(new)
        log.write_note(header.notes[name])
    reader.end()
    if any(header.first.values()):
        durable.write_file(folder / held_name, held_bytes(header.first))
    durable.write_file(folder / joint_name, header.joint)
    if not header.snapshot_length:
        restore_snapshot(folder, store)


def _install(folder: Path, theirs: Chains, store: BlobStore) -> ImportReport:
    ours = Chains(folder, theirs.joint.author, store)
    if not ours.created:
        if folder.exists():  # nothing in it was ever promised
            durable.remove_tree(folder)
        durable.publish(theirs.folder, folder)
        sizes, first = theirs.joint.sizes, theirs.first
        return ImportReport(
            theirs.network, theirs.joint.height, sizes, first, {name: sizes[name] - first[name] for name in chain_names}
        )
    ours.sync_found()
    if ours.network != theirs.network:
        raise InvalidInput(f"archive: expected network {ours.network}, found {theirs.network}")
    _check_common(ours, theirs)
    if theirs.joint.height > ours.joint.height:
        check_continues(ours, theirs, store)
    added: dict[ChainName, int] = {
        name: max(0, ours.first[name] - theirs.first[name]) + max(0, theirs.joint.sizes[name] - ours.joint.sizes[name])
        for name in chain_names
    }
    first: dict[ChainName, int] = {name: min(ours.first[name], theirs.first[name]) for name in chain_names}
    if first != ours.first:
        _backfill(ours, theirs, first)
    newer = ours
    if theirs.joint.height > ours.joint.height:
        _extend(ours, theirs)
        newer = theirs
    elif ours.lagging and theirs.joint == ours.joint:  # a crash of an earlier import before its last step
        write_promise(folder, ours.logs, ours.joint, _notes(theirs), {})
    return ImportReport(ours.network, newer.joint.height, newer.joint.sizes, first, added)


def _backfill(ours: Chains, fuller: Chains, first: dict[ChainName, int]) -> None:
    """Steps 3 and 4."""
    for name, log in ours.logs.items():
        log.backfill(fuller.logs[name])
    if any(first.values()):
        durable.write_file(ours.folder / held_name, held_bytes(first))
    else:
        durable.remove(ours.folder / held_name)


def _extend(ours: Chains, newer: Chains) -> None:
    """Steps 5 to 8."""
    notes, sizes = _notes(newer), newer.joint.sizes
    grown: dict[ChainName, Iterator[bytes]] = {
        name: newer.logs[name].entries(size, sizes[name])
        for name, size in ours.joint.sizes.items()
        if size < sizes[name]
    }
    write_promise(ours.folder, ours.logs, newer.joint, notes, write_entries(ours.logs, grown))


def _check_common(ours: Chains, theirs: Chains) -> None:
    """Raise unless one is the beginning of the other and no gap is between them."""
    if theirs.joint.height == ours.joint.height and _promise(theirs) != _promise(ours):
        raise IntegrityFault(
            f"commit {ours.joint.height} of {ours.network}: expected {_said(ours)}, found {_said(theirs)}: "
            "two histories"
        )
    newer, older = (theirs, ours) if theirs.joint.height >= ours.joint.height else (ours, theirs)
    for name in chain_names:
        size = older.joint.sizes[name]
        if newer.joint.sizes[name] < size:
            raise IntegrityFault(
                f"chain {name} of {ours.network}: expected at least {size} entries at height {newer.joint.height}, "
                f"found {newer.joint.sizes[name]}: two histories"
            )
        if newer.first[name] > size:
            raise InvalidInput(
                f"archive: expected it to begin at or below entry {size} of chain {name}, found {newer.first[name]}",
                hint="import a full archive",
            )
        found, root = newer.logs[name].edge_at(size).root(), older.joint.heads[name].root
        if found != root:
            raise IntegrityFault(
                f"chain {name} of {ours.network}: expected root {root.hex()} over the first {size} entries, "
                f"found {found.hex()}: two histories"
            )


def _promise(chains: Chains) -> JointCheckpoint:
    return replace(chains.joint, signature=b"")


def _said(chains: Chains) -> str:
    """A joint checkpoint by what it promises."""
    joint = chains.joint
    heads = ", ".join(f"{head.size} of {name} {head.root.hex()}" for name, head in joint.heads.items())
    state = "no state" if joint.state is None else f"state {joint.state.payload}"
    return f"one of time {joint.time} with {heads} and {state}"


def _notes(chains: Chains) -> dict[ChainName, bytes]:
    if chains.lagging:
        raise Unavailable(
            f"chains of {chains.network}: expected notes of what is promised, found them behind it",
            hint="start the node once: it signs them again",
        )
    return {name: log.checkpoint_note() for name, log in chains.logs.items()}


def _snapshot_chunks(store: BlobStore, state: StateRoot | None) -> Iterator[memoryview]:
    if state is not None:
        with memoryview(store.open(state.payload).mapping) as whole:
            for at in range(0, len(whole), _chunk_bytes):
                yield whole[at : at + _chunk_bytes]


def _entries(chains: Chains, first: dict[ChainName, int]) -> Iterator[bytes]:
    for name in chain_names:
        yield from chains.logs[name].entries(first[name], chains.joint.sizes[name])
