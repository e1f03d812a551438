"""The three chains of one network together: open, fold, append, publish, verify.

Appending decides first (`validity.check` against the state) and stages; nothing is visible until `publish`, which
commits the parameter and dataset chains before the meta chain, because meta entries build on the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blyan.chain import validity
from blyan.chain.entries import Body, ChainName, Entry, GenesisBody, PayloadReference, chain_names, parse_entry
from blyan.chain.log import Log
from blyan.chain.merkle import entry_id_of
from blyan.chain.state import State
from blyan.primitives.clock import UnixSeconds
from blyan.primitives.errors import EntryRefused, IntegrityFault, MalformedEntry
from blyan.primitives.ids import EntryId, PublicKey
from blyan.primitives.keys import Key

_publish_order: Final[tuple[ChainName, ...]] = ("parameter", "dataset", "meta")


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What `verify` found about one chain, all of it computed anew."""

    chain: ChainName
    origin: str
    size: int
    root: str
    signatures: int
    tiles: int


def network_of(author: PublicKey) -> str:
    """The name of the network that a node alone makes with its key."""
    return f"local-{author[:16]}"


class Chains:
    """Logs and state of one network, written by one key."""

    def __init__(self, folder: Path, author: PublicKey) -> None:
        """Open all three; `IntegrityFault` if a log, an entry or their order is not what the checkpoints promise."""
        self.author = author
        self.network = network_of(author)
        # meta first: what it builds on was published before it, so a reader beside a writer finds that as well
        self.logs: dict[ChainName, Log] = {name: Log(folder / name, self.network, name, author) for name in chain_names}
        for log in self.logs.values():
            if self.logs["meta"].created and not log.created:
                raise log.lost()
        self.state = State()
        for entry, identity in self._in_parent_order(self.state):
            self.state.apply(entry, identity)

    def append(
        self, body: Body, parents: tuple[EntryId, ...], payload: PayloadReference | None, key: Key, now: UnixSeconds
    ) -> EntryId:
        """Sign and stage one entry of ours; `EntryRefused` changes nothing."""
        unsigned = Entry(self.network, self.author, 0, parents, body, payload, now())
        nonce = self.state.nonces.get((unsigned.chain, self.author), -1) + 1
        entry = Entry(self.network, self.author, nonce, parents, body, payload, unsigned.time).signed(key)
        validity.check(entry, self.state)
        raw = entry.encode()
        identity = entry_id_of(raw)
        self.logs[entry.chain].stage(raw)
        self.state.apply(entry, identity)
        return identity

    def publish(self, key: Key) -> None:
        """Make what was staged durable and promised."""
        for name in _publish_order:
            if self.logs[name].size != self.logs[name].checkpoint.size:
                self.logs[name].publish(key)

    def start(self, key: Key, now: UnixSeconds) -> EntryId:
        """Write the genesis entry of a new network, or return the one that is there.

        Each log first promises that it is empty, meta last: from then on a missing checkpoint is damage.
        """
        meta = self.logs["meta"]
        if self.state.network is None:
            for name in _publish_order:
                if not self.logs[name].created:
                    self.logs[name].publish(key)
            self.append(GenesisBody(protocol=1), (), None, key, now)
        if meta.checkpoint.size == 0:
            meta.publish(key)
        return entry_id_of(next(iter(meta.entries(0, 1))))

    def newest(self, name: ChainName) -> EntryId:
        """The id of the last published entry of a chain that has one."""
        size = self.logs[name].checkpoint.size
        assert size, "a chain with entries"
        return entry_id_of(next(iter(self.logs[name].entries(size - 1, size))))

    def verify(self) -> list[ChainReport]:
        """Recompute everything: tiles, roots, every signature, and that each entry was valid when it came."""
        state = State()
        signatures: dict[ChainName, int] = dict.fromkeys(chain_names, 0)
        for entry, identity in self._in_parent_order(state):
            entry.verify_signature()
            signatures[entry.chain] += 1
            state.apply(entry, identity)
        return [
            ChainReport(
                name, log.origin, log.checkpoint.size, log.checkpoint.root.hex(), signatures[name], log.verify_tiles()
            )
            for name, log in self.logs.items()
        ]

    def _in_parent_order(self, state: State) -> Iterator[tuple[Entry, EntryId]]:
        """All published entries, each once `validity` lets it follow `state`, which the caller folds as it takes them.

        Within a chain the order is the log's. Between chains an entry waits until its parents are there; if none can
        go on, the logs are not what was once published together.
        """
        waiting = {name: log.entries(0, log.checkpoint.size) for name, log in self.logs.items()}
        heads = {name: next(entries, None) for name, entries in waiting.items()}
        while any(raw is not None for raw in heads.values()):
            moved = False
            for name in chain_names:
                while (raw := heads[name]) is not None:
                    entry = self._parse_published(name, raw)
                    if any(parent not in state.entries for parent in entry.parents):
                        break
                    self._check_published(entry, state)
                    yield entry, entry_id_of(raw)
                    heads[name] = next(waiting[name], None)
                    moved = True
            if not moved:
                stuck = sorted(name for name, raw in heads.items() if raw is not None)
                raise IntegrityFault(
                    f"chains of {self.network}: expected each entry's parents to be published, "
                    f"found unknown ones at the head of {', '.join(stuck)}"
                )

    def _parse_published(self, name: ChainName, raw: bytes) -> Entry:
        try:
            entry = parse_entry(raw)
        except MalformedEntry as reason:
            raise IntegrityFault(f"chain {name} of {self.network}: a published {reason.message}") from None
        if entry.chain != name:
            raise IntegrityFault(f"chain {name} of {self.network}: expected its own entries, found a {entry.type}")
        return entry

    def _check_published(self, entry: Entry, state: State) -> None:
        ours = (self.network, self.author)
        if isinstance(entry.body, GenesisBody) and (entry.network, entry.author) != ours:
            raise IntegrityFault(
                f"genesis of {self.network}: expected it of {self.network} by {self.author}, "
                f"found {entry.network} by {entry.author}"
            )
        try:
            validity.check(entry, state)
        except EntryRefused as reason:
            raise IntegrityFault(f"chain {entry.chain} of {self.network}: a published {reason.message}") from None
