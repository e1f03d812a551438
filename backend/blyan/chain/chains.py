"""The three chains of one network together: open, append, commit, recover.

Appending decides first (`validity.check` against the state) and stages; nothing is visible until `publish`.

The order of a commit's writes is that of `chain/commit`; the joint checkpoint's rename is the commit. A network begins
with a promise of nothing, so tiles or notes without `joint` are damage. A commit that failed half way leaves the disk
unknown: the chains then take nothing until they are opened again, and opening finds out what reached the disk.

Opening costs a logarithm of the chains: it reads `joint`, each log's right edge, the snapshot of the state, and the
entries since. What lies left of the edge is read, and checked, by those who ask for it and by `verify`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from blyan.chain import snapshot, validity
from blyan.chain.audit import ChainReport, audit
from blyan.chain.checkpoint import Checkpoint, sign_checkpoint
from blyan.chain.commit import remove_leftovers, write_entries, write_promise
from blyan.chain.entries import (
    Body,
    ChainName,
    Entry,
    GenesisBody,
    PayloadReference,
    RotationBody,
    chain_names,
    parse_entry,
)
from blyan.chain.joint import Head, JointCheckpoint, StateRoot, empty_joint
from blyan.chain.log import Log
from blyan.chain.merkle import entry_id_of
from blyan.chain.promise import Promise, joint_name, lags, open_logs, read_promise
from blyan.chain.replay import fold, network_of
from blyan.chain.state import State
from blyan.primitives.clock import UnixSeconds
from blyan.primitives.errors import Denied, Fault, IntegrityFault, Unavailable
from blyan.primitives.ids import EntryId, PublicKey
from blyan.primitives.keys import Key
from blyan.storage import durable
from blyan.storage.blob_store import BlobStore

__all__ = ["ChainReport", "Chains", "network_of"]


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment between two appends, to `rewind` to."""

    staged: int
    time: int


class Chains:
    """Logs and state of one network. One thread at a time appends and commits; others may read."""

    def __init__(self, folder: Path, author: PublicKey, store: BlobStore) -> None:
        """Open all three; `IntegrityFault` if a file, an entry or their order is not what was promised.

        `author` is this node's key: a new folder becomes its network; one of another network is read, not written.
        """
        self.folder = folder
        self.author = author
        self.store = store
        self._failed = False  # a commit stopped half way
        self.snapshot_damage: Fault | None = None  # why the state was folded from the first entry, not its snapshot
        self._durable = False  # what was found on opening may be of a process that was killed before it synced
        self._staged: list[tuple[Entry, EntryId]] = []  # applied to the state, not promised yet
        promise = read_promise(folder)
        self.created = promise.joint is not None
        self.joint = promise.joint or empty_joint(network_of(author), author, 0)
        self.network = self.joint.network
        self.logs = open_logs(folder, self.joint, promise.notes)
        self._fold()
        self._lagging = _lagging(self.logs, promise, self.state)

    @property
    def sound(self) -> bool:
        """Whether no commit stopped half way."""
        return not self._failed

    @property
    def lagging(self) -> bool:
        """Whether a note says less than the joint checkpoint, as a crash leaves it."""
        return bool(self._lagging)

    @property
    def first(self) -> dict[ChainName, int]:
        """Number of the first entry that is held of each chain: 0 unless they began at a snapshot."""
        return {name: log.first for name, log in self.logs.items()}

    def append(
        self, body: Body, parents: tuple[EntryId, ...], payload: PayloadReference | None, key: Key, now: UnixSeconds
    ) -> EntryId:
        """Sign and stage one entry of ours; `MalformedEntry`, `EntryRefused` or `Denied` change nothing.

        Its time is never below that of an earlier entry, whatever the clock says.
        """
        self._want_sound()
        self._want_sequencer(key)
        assert self.created, "an empty network is promised before its first entry"
        time = max(now(), self._time)
        unsigned = Entry(self.network, key.public, 0, parents, body, payload, time)
        nonce = self.state.nonces.get((unsigned.chain, key.public), -1) + 1
        entry = replace(unsigned, nonce=nonce).signed(key)
        raw = entry.encode()
        validity.check(parse_entry(raw), self.state)  # what nobody could read back must not reach a chain
        identity = entry_id_of(raw)
        self.logs[entry.chain].stage(raw)
        self.state.apply(entry, identity)
        self._staged.append((entry, identity))
        self._time = time
        return identity

    def mark(self) -> Mark:
        """This moment, for `rewind`."""
        return Mark(len(self._staged), self._time)

    def rewind(self, mark: Mark) -> None:
        """Forget what was appended since `mark`, not published yet; costs a fold of what came since the snapshot."""
        assert mark.staged <= len(self._staged), "a mark since the last commit"
        if mark.staged == len(self._staged):
            return
        while len(self._staged) > mark.staged:
            self.logs[self._staged.pop()[0].chain].staged.pop()
        self._fold()
        for entry, identity in self._staged:
            self.state.apply(entry, identity)
        self._time = mark.time

    def publish(self, key: Key) -> None:
        """Make what was staged durable and promised, and before it what was found; `Unavailable` after a failure."""
        self._want_sound()
        self._want_sequencer(key)
        self.sync_found()
        if any(log.staged for log in self.logs.values()) or not self.created:
            self._commit(key, self.joint.state)

    def snapshot(self, key: Key) -> StateRoot:
        """Publish what is staged, store the state as a blob, and promise its id; return what the promise says."""
        self.publish(key)
        raw = snapshot.encode(self.state)
        stored = self.store.put([raw])
        root = StateRoot(stored.payload, stored.length, self.joint.sizes)
        if root != self.joint.state:
            self._commit(key, root)
        return root

    def promise_ledger(self, key: Key, head: Head) -> None:
        """Promise the root over the first `size` sealed records; `IntegrityFault` if fewer than were promised."""
        self.publish(key)
        if _grew(self.joint.ledger_root, head):
            self._commit(key, self.joint.state, head)

    def rotate(self, old: Key, new: Key, now: UnixSeconds) -> EntryId:
        """Hand the chains over to another key: signed by the old one, agreed to by the new one, which signs the commit.

        `EntryRefused` changes nothing, as where the new key was used here before.
        """
        self.publish(old)
        parents = tuple(self.newest(name) for name in chain_names if self.logs[name].size)
        identity = self.append(RotationBody.agreed(self.network, old.public, new), parents, None, old, now)
        self.publish(new)
        self.author = new.public if self.author == old.public else self.author
        return identity

    def start(self, key: Key, now: UnixSeconds) -> EntryId:
        """Write the genesis entry of a new network, or return the one that is there."""
        self.sync_found()
        if not self.created:
            self._time = max(now(), self._time)
            self.publish(key)
        if self.state.network is None:
            self.append(GenesisBody(protocol=1), (), None, key, now)
        if self.logs["meta"].checkpoint.size == 0:
            self.publish(key)
        return entry_id_of(next(iter(self.logs["meta"].entries(0, 1))))

    def newest(self, name: ChainName) -> EntryId:
        """The id of the last promised entry of a chain that has one."""
        size = self.logs[name].checkpoint.size
        assert size, "a chain with entries"
        return entry_id_of(next(iter(self.logs[name].entries(size - 1, size))))

    def sync_found(self) -> None:
        """Make durable what these chains were opened from, once: nothing is signed or acknowledged on it before."""
        if not self._durable:
            durable.sync_found(self.folder)
            self._durable = True

    def recover(self, key: Key) -> list[str]:
        """Clear up what a crash left, and say in sentences what that was. For the one process that may write.

        First all that is found is made durable. Notes that lag behind the joint checkpoint are signed again, if `key`
        may sign; files that no promise names are removed. Nothing that was promised changes.
        """
        self.sync_found()
        done: list[str] = []
        if self._is_sequencer(key):
            done += [f"signed the note of chain {name} again, which lagged" for name in self._sign_lagging(key)]
        return done + remove_leftovers(self.folder, self.logs)

    def verify(self, processes: int | None = None) -> list[ChainReport]:
        """Recompute everything: tiles, roots, every signature, that each entry was valid when it came, the state.

        Signatures of a long chain are checked by that many processes beside this one; None: one for each other core.
        """
        return audit(self.logs, self.joint, self.store, processes)

    def _commit(self, key: Key, state: StateRoot | None, ledger: Head | None = None) -> None:
        self._sign_lagging(key)
        self._failed = True  # until the last step
        extensions = write_entries(self.logs, {name: log.staged for name, log in self.logs.items() if log.staged})
        heads = dict(self.joint.heads)
        for name, new in extensions.items():
            heads[name] = Head(new.edge.size, new.edge.root())
        height = self.joint.height + 1 if self.created else 0
        ledger = ledger or self.joint.ledger_root
        joint = JointCheckpoint(self.network, 0, height, heads, state, self._time, key.public, ledger).signed(key)
        every = height == 0 or key.public != self.joint.author  # a new sequencer signs all three
        signed: list[ChainName] = [name for name in heads if every or name in extensions]
        notes: dict[ChainName, bytes] = {name: _note(self.logs[name], heads[name], key) for name in signed}
        write_promise(self.folder, self.logs, joint, notes, extensions)
        self.joint, self.created, self._staged = joint, True, []
        self._failed = False

    def _sign_lagging(self, key: Key) -> list[ChainName]:
        signed: list[ChainName] = []
        while self._lagging:
            name = self._lagging[0]
            note = _note(self.logs[name], self.joint.heads[name], key)
            self.logs[name].write_note(note)
            self.logs[name].adopt(None, note)
            signed.append(self._lagging.pop(0))
        return signed

    def _fold(self) -> None:
        """Compute the state of what is promised, and hold the joint checkpoint's author against it."""
        folded = fold(self.logs, self.joint, self.store)
        self.state, self.snapshot_damage = folded.state, folded.damage
        self._time = max(self.joint.time, folded.time)  # of the newest entry: no later one says less
        _expect_author(self.joint, self.state, self.folder / joint_name)

    def _want_sound(self) -> None:
        if self._failed:
            raise _half_way(self.network)

    def _is_sequencer(self, key: Key) -> bool:
        return key.public == (self.state.sequencer or self.joint.author)

    def _want_sequencer(self, key: Key) -> None:
        if not self._is_sequencer(key):
            raise _no_sequencer(self.network, self.state.sequencer or self.joint.author, key.public)


def _no_sequencer(network: str, sequencer: PublicKey, found: PublicKey) -> Denied:
    return Denied(
        f"chains of {network}: expected to write as {sequencer}, the sequencer, found {found}",
        hint="this node may read these chains; only their sequencer writes",
    )


def _half_way(network: str) -> Unavailable:
    return Unavailable(
        f"chains of {network}: expected them sound, found a commit that failed half way; open them again",
        hint="restart: opening the data directory again finds out what reached the disk",
    )


def _lagging(logs: Mapping[ChainName, Log], promise: Promise, state: State) -> list[ChainName]:
    joint = promise.joint
    return [name for name in chain_names if joint and lags(logs[name], promise.notes[name], joint, state.former)]


def _grew(before: Head | None, found: Head) -> bool:
    """Whether the books hold more than was promised of them; `IntegrityFault` if they hold less, or something else."""
    if before is None or found.size > before.size:
        return True
    if found == before:
        return False
    raise IntegrityFault(
        f"ledger: expected the {before.size} records of root {before.root.hex()} that were promised, and more, "
        f"found {found.size} of root {found.root.hex()}",
        hint="run `blyan ledger verify`; books that were put back from a backup must not go on",
    )


def _expect_author(joint: JointCheckpoint, state: State, path: Path) -> None:
    expected = state.sequencer or joint.author
    if joint.author != expected or (state.network or network_of(expected)) != joint.network:
        raise IntegrityFault(
            f"joint checkpoint of {joint.network}: expected one by {expected}, the sequencer that the chains name, "
            f"found one by {joint.author} in {path}",
            detail={"file": str(path)},
        )


def _note(log: Log, head: Head, key: Key) -> bytes:
    return sign_checkpoint(Checkpoint(log.origin, head.size, head.root), key)
