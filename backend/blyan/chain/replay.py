"""Folding promised entries in an order in which parents come first, each checked as if it came now.

Within a chain the order is the log's. Between chains an entry waits until its parents are there; if none can go on, the
logs are not what was once promised together. Signatures are not checked here (`chain/verification`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from blyan.chain import snapshot, validity
from blyan.chain.entries import ChainName, Entry, GenesisBody, chain_names, parse_entry
from blyan.chain.joint import JointCheckpoint, Sizes, StateRoot
from blyan.chain.log import Log
from blyan.chain.state import State
from blyan.primitives.errors import EntryRefused, Fault, IntegrityFault, MalformedEntry, NotFound
from blyan.primitives.ids import Digest, EntryId, PublicKey
from blyan.storage.blob_store import BlobStore

nothing: Final[Sizes] = dict.fromkeys(chain_names, 0)


@dataclass(frozen=True, slots=True)
class Promised:
    """One entry of a log with the bytes it was read from."""

    entry: Entry
    identity: EntryId
    raw: bytes


class Leaves(Protocol):
    """What entries can be read from: a `Log`, or several."""

    def leaves(self, begin: int, end: int) -> Iterator[tuple[bytes, Digest]]:
        """Promised entries begin … end and their leaf hashes."""
        ...


def network_of(author: PublicKey) -> str:
    """The name of the network that a node alone makes with its key."""
    return f"local-{author[:16]}"


@dataclass(frozen=True, slots=True)
class Folded:
    """What the promised entries amount to."""

    state: State
    time: int  # of the newest entry since the snapshot
    damage: Fault | None  # why the snapshot was not used: all entries were folded instead


def fold(logs: Mapping[ChainName, Log], joint: JointCheckpoint, store: BlobStore) -> Folded:
    """The state of what a joint checkpoint promises, from its snapshot on.

    A snapshot that is damaged or not here is derived data where every entry is held: they are folded from the first on.
    """
    state, begin, damage = State(), nothing, None
    if joint.state is not None:
        try:
            state, begin = load_state(joint.state, store), joint.state.sizes
        except IntegrityFault as reason:
            damage = reason
            if any(log.first for log in logs.values()):
                raise
    time = 0
    for promised in in_parent_order(logs, joint.network, state, begin, joint.sizes):
        state.apply(promised.entry, promised.identity)
        time = max(time, promised.entry.time)
    return Folded(state, time, damage)


def load_state(root: StateRoot, store: BlobStore, *, again: bool = False) -> State:
    """The state that a joint checkpoint names, its blob hashed `again`; `IntegrityFault` if it is not what it says."""
    try:
        blob = store.verify(root.payload) if again else store.open(root.payload)
        state = snapshot.load(blob.mapping)
    except (IntegrityFault, NotFound) as reason:
        raise IntegrityFault(
            f"snapshot of the state after {sum(root.sizes.values())} entries: {reason.message}",
            detail=reason.detail,
            hint="`blyan db rebuild` makes it again where every entry is held; else `blyan chain import` an archive",
        ) from None
    if state.sizes != root.sizes:
        raise IntegrityFault(f"snapshot {root.payload}: expected sizes {dict(root.sizes)}, found {state.sizes}")
    return state


def in_parent_order(
    logs: Mapping[ChainName, Leaves], network: str, state: State, begin: Sizes, end: Sizes
) -> Iterator[Promised]:
    """Entries begin … end of all chains, each once `validity` lets it follow `state`, which the caller folds.

    `IntegrityFault` where an entry is malformed, of another network, not valid, or waits for parents that never come.
    """
    waiting = {name: parsed(name, logs[name].leaves(begin[name], end[name]), network) for name in chain_names}
    heads = {name: next(entries, None) for name, entries in waiting.items()}
    while any(heads.values()):
        moved = False
        for name in chain_names:
            while (head := heads[name]) is not None and _may_come(head.entry, state):
                _check(head.entry, state, network)
                yield head
                heads[name] = next(waiting[name], None)
                moved = True
        if not moved:
            for head in heads.values():
                if head is not None and all(state.knows(parent) for parent in head.entry.parents):
                    _check(head.entry, state, network)  # it waits for a sequencer that never comes
            stuck = sorted(name for name, head in heads.items() if head is not None)
            raise IntegrityFault(
                f"chains of {network}: expected each entry's parents to be promised, "
                f"found unknown ones at the head of {', '.join(stuck)}"
            )


def _may_come(entry: Entry, state: State) -> bool:
    """Its parents came, and its author is the sequencer or never will be: until a rotation, its new key waits."""
    if not all(state.knows(parent) for parent in entry.parents):
        return False
    return state.sequencer is None or entry.author == state.sequencer or isinstance(entry.body, GenesisBody)


def parsed(name: ChainName, leaves: Iterator[tuple[bytes, Digest]], network: str) -> Iterator[Promised]:
    """Entries of one chain as their log has them; `IntegrityFault` where one is malformed or of another chain."""
    for raw, leaf in leaves:
        try:
            entry = parse_entry(raw)
        except MalformedEntry as reason:
            raise IntegrityFault(f"chain {name} of {network}: a promised {reason.message}") from None
        if entry.chain != name:
            raise IntegrityFault(f"chain {name} of {network}: expected its own entries, found a {entry.type}")
        yield Promised(entry, EntryId(leaf.hex()), raw)


def _check(entry: Entry, state: State, network: str) -> None:
    if isinstance(entry.body, GenesisBody) and {entry.network, network_of(entry.author)} != {network}:
        raise IntegrityFault(
            f"genesis of {network}: expected it of {network} by the key it is named after, "
            f"found {entry.network} by {entry.author}"
        )
    try:
        validity.check(entry, state)
    except EntryRefused as reason:
        raise IntegrityFault(f"chain {entry.chain} of {network}: a promised {reason.message}") from None
