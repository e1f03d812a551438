"""Computing everything anew: tiles, roots, signatures, the order of entries, their validity, and the state's root.

Where the chains began at a snapshot, the entries before it are not here: the snapshot is checked against its id, and
everything held after it as usual.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from blyan.chain import snapshot
from blyan.chain.entries import ChainName
from blyan.chain.joint import JointCheckpoint, Sizes, StateRoot
from blyan.chain.log import Log
from blyan.chain.promise import joint_name, open_logs, read_promise
from blyan.chain.replay import Leaves, in_parent_order, load_state, nothing, parsed
from blyan.chain.state import State
from blyan.chain.tile_audit import verify_tiles
from blyan.chain.verification import SignatureCheck
from blyan.primitives.errors import IntegrityFault
from blyan.storage.blob_store import BlobStore
from blyan.storage.tile import index_of


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What `verify` found about one chain, all of it computed anew."""

    chain: ChainName
    origin: str
    size: int
    root: str
    signatures: int
    tiles: int


def audit(
    logs: Mapping[ChainName, Log], joint: JointCheckpoint, store: BlobStore, processes: int | None
) -> list[ChainReport]:
    """Check everything that is held; `IntegrityFault` names the first thing that is not as promised.

    Signatures of a long chain are checked by that many processes beside this one; None: one for each other core.
    """
    beside = len(os.sched_getaffinity(0)) - 1 if processes is None else processes
    tiles = {name: verify_tiles(log) for name, log in logs.items()}
    root = joint.state
    with SignatureCheck(beside) as signatures:
        if not any(log.first for log in logs.values()):
            state = State()
            if root is not None:
                apply_entries(logs, joint, state, nothing, root.sizes, signatures)
                check_root(state, root)
            apply_entries(logs, joint, state, nothing if root is None else root.sizes, joint.sizes, signatures)
            if root is not None:
                load_state(root, store, again=True)
        elif root is not None:
            for name, log in logs.items():
                for each in parsed(name, log.leaves(log.first, root.sizes[name]), joint.network):
                    signatures.feed(each.raw, each.identity)  # before the snapshot: nothing to fold them into
            state = load_state(root, store, again=True)
            apply_entries(logs, joint, state, root.sizes, joint.sizes, signatures)
    return [
        ChainReport(
            name,
            log.origin,
            log.checkpoint.size,
            log.checkpoint.root.hex(),
            log.checkpoint.size - log.first,
            tiles[name],
        )
        for name, log in logs.items()
    ]


def restore_snapshot(folder: Path, store: BlobStore) -> StateRoot | None:
    """Make the snapshot that a joint checkpoint names again, from all entries; None if it names none.

    `NotFound` if the entries are not all here, `IntegrityFault` if they do not give the promised root.
    """
    joint = read_promise(folder).joint
    if joint is None or joint.state is None:
        return None
    logs = open_logs(folder, joint)
    state = State()
    apply_entries(logs, joint, state, nothing, joint.state.sizes)
    check_root(state, joint.state)
    store.put([snapshot.encode(state)], expected=joint.state.payload)
    return joint.state


def apply_entries(
    logs: Mapping[ChainName, Leaves],
    joint: JointCheckpoint,
    state: State,
    begin: Sizes,
    end: Sizes,
    signatures: SignatureCheck | None = None,
) -> None:
    """Fold entries begin … end of all chains into `state`, each checked as if it came now."""
    for promised in in_parent_order(logs, joint.network, state, begin, end):
        if signatures is not None:
            signatures.feed(promised.raw, promised.identity)
        state.apply(promised.entry, promised.identity)


def check_root(state: State, root: StateRoot) -> None:
    """Raise `IntegrityFault` unless the state is what the root promises."""
    computed = index_of(snapshot.encode(state)).payload_id
    if computed != root.payload:
        raise IntegrityFault(
            f"state after {dict(root.sizes)} entries: expected the root {root.payload} that {joint_name} promises, "
            f"computed {computed}"
        )
