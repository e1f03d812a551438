"""The one process that writes a data directory: what it does before its first write and after its last.

Steps of opening: (1) LOCK, (2) SCHEMA is looked at, (3) the marker WRITING is durable, and only now something changes,
(4) after an unclean end all that is found is synced, and temporary files of a crash go, (5) SCHEMA, or the migration
to it, (6) the key, (7) chains and blobs, (8) a rotation that a crash cut short is finished or undone,
(9) `Chains.recover`, (10) after an unclean end, what was stored since is hashed again, (11) the sequencer. Steps of
closing: (1) the sequencer drains, (2) the marker goes. It stays where nobody knows what reached the disk: after a kill,
and after a commit that failed half way.

Nothing is repaired here that was promised: damage is said, and left for the operator to see (ADR 0002).
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blyan.chain.chains import Chains
from blyan.chain.migration import join_notes
from blyan.chain.promise import joint_name
from blyan.chain.sequencer import Sequencer
from blyan.node.config import NodeConfig
from blyan.node.data_directory import Ground, lock, lock_holder, lock_name
from blyan.node.keys import Cost, KeyFile, Passphrase, create_key, next_key, node_key, read_key
from blyan.node.keys import write_encrypted as write_encrypted_key
from blyan.node.keys import write_key as write_plain_key
from blyan.node.schema import schema_of, write_schema
from blyan.primitives.clock import Entropy, UnixSeconds
from blyan.primitives.errors import Denied, Fault, IntegrityFault, NotFound
from blyan.primitives.ids import PublicKey
from blyan.primitives.keys import Key, seed_bytes
from blyan.storage import durable
from blyan.storage.blob_store import BlobStore

marker_name: Final = "WRITING"
_ours: Final = ("keys", "chain", "blobs", "import")  # folders that hold what cannot be made again
_clock_slack_ns: Final = 2_000_000_000  # file times are of the kernel's coarse clock, or of a file system's seconds

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Claim:
    """A data directory that only this process writes."""

    folder: Path
    since_ns: int | None  # the file time of a marker that was found: the last writer did not end cleanly
    settled: bool  # nothing of an unclean end is left to clear up, so that the marker may go


@dataclass(frozen=True, slots=True)
class WritableGround(Ground):
    """Ground state in the hands of the one process that writes it."""

    key: Key
    sequencer: Sequencer
    found: tuple[str, ...]  # sentences: what the last writer left behind, and what was done about it


def no_passphrase() -> bytes:
    """For callers that have none: `Denied`."""
    raise Denied(
        "keys/node.key: expected a passphrase, for the file is encrypted, found none",
        hint="set BLYAN_KEYS__PASSPHRASE_FILE, or run the command on a terminal",
    )


def left_unclean(folder: Path) -> str | None:
    """A sentence if a writer ended without closing and nobody has opened the directory for writing since."""
    if not (folder / marker_name).exists() or lock_holder(folder) is not None:
        return None
    return f"{folder}: the last process that wrote here did not end cleanly; the next start clears up after it"


@contextmanager
def claimed(folder: Path) -> Generator[Claim, None, None]:
    """Steps 1 to 4 of opening, for what changes files and no chains; at the end the marker goes if it may.

    `NotADirectoryError` names a symbolic link where a folder of the directory belongs; the directory may be one.
    """
    with lock(folder):
        schema = schema_of(folder)
        for name in _ours:
            durable.refuse_links(folder / name, within=folder)
        marker = folder / marker_name
        since = _file_time_of(marker) if marker.exists() else None
        if since is None:
            durable.write_file(marker, b"")  # without content: a full disk must not stop a sweep
        if since is not None or schema != 1:
            _sync_found(folder)
        durable.sweep(folder)
        claim = Claim(folder, since, settled=since is None)
        try:
            yield claim
        except Fault:
            _release(claim)
            raise
        _release(claim)


@contextmanager
def opened(
    config: NodeConfig, *, now: UnixSeconds, entropy: Entropy, passphrase: Passphrase = no_passphrase, new: bool = False
) -> Generator[WritableGround, None, None]:
    """All steps of opening and closing; with `new`, key and genesis are made where there are none.

    `NotFound` before `init`, `DataDirectoryInUse`, `Denied` for a wrong passphrase, `SchemaTooNew`, `IntegrityFault`.
    """
    folder = config.data_dir
    if not new:
        read_key(node_key(folder))  # before anything is made
    with claimed(folder) as claim:
        bring_to_schema(claim, config, entropy, now)
        store = BlobStore(folder / "blobs", writable=True, limit=config.storage.space)
        chains, identity, found = _open_chains(folder, store)
        key = identity.key(passphrase)
        if claim.since_ns is not None:
            found.insert(0, "the last process that wrote here did not end cleanly")
        found += chains.recover(key)
        if chains.snapshot_damage is not None:
            found.append(
                f"{chains.snapshot_damage.message}; every entry was folded instead: {chains.snapshot_damage.hint}"
            )
        if claim.since_ns is not None:
            found += _hash_again(store, claim.since_ns)
            durable.write_file(folder / marker_name, b"")
        for sentence in found:
            _log.warning("%s: %s", folder, sentence)
        claim.settled = True
        if new and not chains.logs["meta"].checkpoint.size:
            claim.settled = False  # until it is known to be there
            chains.start(key, now)
            claim.settled = True
        with Sequencer(chains, key, now) as sequencer:
            try:
                yield WritableGround(folder, store, chains, identity.public, key, sequencer, tuple(found))
            finally:
                sequencer.close()
                claim.settled = chains.sound
                _release(claim)  # also on Ctrl-C: what was not acknowledged is not there


def rotate(
    ground: WritableGround, *, now: UnixSeconds, entropy: Entropy, passphrase: Passphrase, cost: Cost
) -> PublicKey:
    """Hand the chains over to a new key, encrypted as the old one is; the new public key. Nothing is appended after.

    Steps, each durable before the next: (1) `keys/next.key`, (2) the rotation entry, which is the commit, (3) rename
    over `keys/node.key`. `settle_rotation` finishes after a crash past 2 and undoes one before.
    """
    if not ground.may_write:
        raise Denied(
            f"keys rotate: expected to be the sequencer {ground.chains.state.sequencer}, found {ground.identity}",
            hint="this node reads the chains of another: only their sequencer hands them over",
        )
    waiting, seed = next_key(ground.folder), entropy(seed_bytes)
    if read_key(node_key(ground.folder)).encrypted:
        write_encrypted_key(waiting, seed, passphrase(), entropy, cost)
    else:
        write_plain_key(waiting, seed)
    ground.sequencer.close()  # one thread at a time commits
    new = Key.from_seed(seed)
    try:
        ground.chains.rotate(ground.key, new, now)
    except Fault:
        if ground.chains.sound:
            durable.remove(waiting)
        raise
    durable.publish(waiting, node_key(ground.folder))
    return new.public


def _file_time_of(marker: Path) -> int:
    """When the marker was written; 0, so that everything came later, if the clock went back since."""
    since = marker.stat(follow_symlinks=False).st_mtime_ns
    now = (marker.parent / lock_name).stat().st_ctime_ns  # it was changed when it was locked
    return 0 if now < since - _clock_slack_ns else since


def _sync_found(folder: Path) -> None:
    """After an unclean end, or in a new directory that a killed process may have begun: what is there is durable."""
    durable.sync_path(folder)
    durable.fsync_folder(folder)
    for name in _ours:
        durable.sync_found(folder / name)


def _release(claim: Claim) -> None:
    if claim.settled:
        durable.remove(claim.folder / marker_name)


def bring_to_schema(claim: Claim, config: NodeConfig, entropy: Entropy, now: UnixSeconds) -> None:
    """Steps 5 and 6 of opening.

    New: (1) SCHEMA, (2) the key. Of schema 0: (1) the key in its present form, (2) the joint checkpoint of the three
    verified notes, (3) SCHEMA; a crash between leaves a directory of schema 0 that the next writer goes on with.
    """
    folder, path = claim.folder, node_key(claim.folder)
    schema = schema_of(folder)
    if schema is None:
        write_schema(folder)
    if not path.exists():
        if schema == 0 or (folder / "chain" / joint_name).exists():  # a new key could never go on with these chains
            raise IntegrityFault(
                f"data directory {folder}: expected {path}, the key of the chains there, found none",
                detail={"file": str(path)},
                hint="put the key back from a backup, or use another --data-dir",
            )
        create_key(folder, entropy)
    if schema == 0:
        migrate_key(folder)
        if not (folder / "chain" / joint_name).exists():
            store = BlobStore(folder / "blobs", limit=config.storage.space)
            join_notes(folder / "chain", store, read_key(path).key(no_passphrase), now)
        write_schema(folder)


def migrate_key(folder: Path) -> None:
    """Write a key file of schema 0 in its present form."""
    file = read_key(node_key(folder))
    if file.schema == 0:
        write_plain_key(file.path, file.seed(no_passphrase))


def _open_chains(folder: Path, store: BlobStore) -> tuple[Chains, KeyFile, list[str]]:
    """Steps 7 and 8."""
    identity = read_key(node_key(folder))
    chains = Chains(folder / "chain", identity.public, store)
    found = settle_rotation(folder, chains.state.sequencer or chains.joint.author)
    if found:
        identity = read_key(node_key(folder))
        chains = Chains(folder / "chain", identity.public, store)
    return chains, identity, found


def settle_rotation(folder: Path, sequencer: PublicKey) -> list[str]:
    """Finish a rotation that the chains know of, undo one that they do not; sentences about it."""
    try:
        waiting = read_key(next_key(folder))
    except NotFound:
        return []
    if waiting.public == sequencer:
        durable.publish(waiting.path, node_key(folder))
        return [f"finished the rotation to key {waiting.public}"]
    durable.remove(waiting.path)
    return [f"undid a rotation to key {waiting.public}, which was not committed"]


def _hash_again(store: BlobStore, since_ns: int) -> list[str]:
    """Step 10: blobs and subtiles that came or changed since the marker. Older ones are for `blob verify`."""
    checked, bad = 0, list[str]()
    for payload in store.payloads():
        found = store.path(payload).stat(follow_symlinks=False)
        if max(found.st_mtime_ns, found.st_ctime_ns) < since_ns - _clock_slack_ns:  # anybody may set the first
            continue
        checked += 1
        try:
            store.verify(payload)
        except (IntegrityFault, NotFound) as reason:
            bad.append(reason.message)
    for payload in store.unfinished():
        checked += 1
        try:
            store.verify_unfinished(payload)
        except IntegrityFault as reason:
            bad.append(reason.message)
    return [f"hashed {checked} payloads again that were stored since, {len(bad)} of them damaged", *bad]
