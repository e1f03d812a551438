"""Finding entries: from the index where it is whole, from the logs where it is behind, absent or damaged.

The logs are the truth. Every place that the index gives is read in its log and compared before it is an answer; what
the index has not applied yet is read from the logs. The one process that writes a data directory brings the index up to
date; what cannot be, is made again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from blyan.chain.chains import Chains
from blyan.chain.entries import (
    ChainName,
    DatasetBody,
    Entry,
    ExpertBody,
    ModelBody,
    RetirementBody,
    TokenizerBody,
    TrunkBody,
    chain_names,
    parse_entry,
)
from blyan.chain.log import Log
from blyan.chain.merkle import empty_root, entry_id_of
from blyan.chain.proofs import range_root
from blyan.model.parts import part_position
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, NotFound, UnsupportedModel
from blyan.primitives.ids import EntryId, PublicKey
from blyan.primitives.model_name import model_name_pattern
from blyan.storage import durable
from blyan.storage.index import Applied, EntryIndex, IndexDamaged, Place, Row

folder_name: Final = "index"
_batch: Final = 4_096  # entries to a write

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """One entry and where it stands."""

    chain: ChainName
    position: int
    identity: EntryId
    entry: Entry
    raw: bytes


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for; every part that is given must hold."""

    chain: ChainName | None = None
    model: str | None = None
    layer: int | None = None
    expert: int | None = None
    author: PublicKey | None = None

    def __post_init__(self) -> None:
        if self.model is not None and not model_name_pattern.fullmatch(self.model):
            raise InvalidInput(f"query model: expected {model_name_pattern.pattern}, found {self.model[:80]!r}")
        for what, number in (("layer", self.layer), ("expert", self.expert)):
            if number is not None and not 0 <= number <= limits.canonical_integer_max:
                raise InvalidInput(f"query {what}: expected 0 to 2^53-1, found {number}")

    def matches(self, chain: ChainName, row: Row) -> bool:
        """Whether an entry is meant."""
        return (
            self.chain in (None, chain)
            and self.model in (None, row.model)
            and self.layer in (None, row.layer)
            and self.expert in (None, row.expert)
            and (self.author is None or bytes.fromhex(self.author) == row.author)
        )


def row_of(place: Place, raw: bytes) -> Row:
    """What the index says of an entry."""
    entry = parse_entry(raw)
    model, layer, expert = _subject(entry)
    return Row(place, bytes.fromhex(entry_id_of(raw)), bytes.fromhex(entry.author), model, layer, expert)


def _subject(entry: Entry) -> tuple[str | None, int | None, int | None]:
    match entry.body:
        case ModelBody() | RetirementBody() | DatasetBody() as body:
            return body.name, None, None
        case ExpertBody() as body:
            return body.model, body.layer, body.expert
        case TrunkBody() as body:
            try:
                layer, _ = part_position(body.part)
            except UnsupportedModel:  # of another version's way to cut a model
                layer = None
            return body.model, layer, None
        case TokenizerBody() as body:
            return body.model, None, None
        case _:
            return None, None, None


def open_index(folder: Path, chains: Chains) -> EntryIndex:
    """The index of a data directory, to write: up to date, made again if it is damaged or of other chains."""
    if (folder / folder_name).is_symlink():
        return rebuild(folder, chains)  # which removes the link: what it shows is not ours to write
    try:
        index = EntryIndex(folder / folder_name, writable=True)
        try:
            catch_up(index, chains)
        except IndexDamaged:
            index.close()
            raise
    except IndexDamaged as reason:
        _log.warning("%s; it is made again", reason.message)
        return rebuild(folder, chains)
    return index


def rebuild(folder: Path, chains: Chains) -> EntryIndex:
    """Throw the index away and make it again from the logs. A crash in the midst leaves one that is behind."""
    if os.path.lexists(folder / folder_name):
        durable.remove_tree(folder / folder_name)
    index = EntryIndex(folder / folder_name, writable=True)
    catch_up(index, chains)
    return index


def catch_up(index: EntryIndex, chains: Chains) -> int:
    """Apply what the logs have and the index has not; return how many entries that was.

    `IndexDamaged` if the index holds what the logs do not: it is ahead, or of another history.
    """
    added = 0
    for number, name in enumerate(chain_names):
        log = chains.logs[name]
        done = index.applied(number) or Applied(log.first, log.first, empty_root)
        if done.first != log.first or done.size > log.checkpoint.size or done.root != _root(chains, name, done.size):
            raise IndexDamaged(
                f"index {index.folder}: expected a beginning of chain {name} ({log.checkpoint.size} entries from "
                f"{log.first}), found {done.size} from {done.first} of another history"
            )
        for begin in range(done.size, log.checkpoint.size, _batch):
            end = min(begin + _batch, log.checkpoint.size)
            rows = [row_of(Place(number, begin + at), raw) for at, raw in enumerate(log.entries(begin, end))]
            index.apply(rows, number, Applied(log.first, end, _root(chains, name, end)))
            added += end - begin
    return added


def _root(chains: Chains, name: ChainName, size: int) -> bytes:
    """The tree hash at a size, as far as the log can tell; where it began later, nothing stands for what is before."""
    log = chains.logs[name]
    if size <= log.first:
        return empty_root
    return range_root(log.node, 0, size) if not log.first else log.edge_at(size).root()


def behind(index: EntryIndex, chains: Chains) -> int:
    """How many promised entries the index has not applied yet."""
    return sum(
        log.checkpoint.size - (done.size if (done := index.applied(number)) is not None else log.first)
        for number, log in enumerate(chains.logs[name] for name in chain_names)
    )


def differences(index: EntryIndex, chains: Chains) -> Iterator[str]:
    """Sentences about what the index says otherwise than the logs, as far as it has applied them; none if whole."""
    expected = 0
    for number, name in enumerate(chain_names):
        log = chains.logs[name]
        applied = index.applied(number) or Applied(log.first, log.first, empty_root)
        if applied.first != log.first or applied.size > log.checkpoint.size:
            yield f"chain {name}: expected at most {log.checkpoint.size} entries, found {applied.size}"
            continue
        for at, raw in enumerate(log.entries(log.first, applied.size), log.first):
            for key, value in row_of(Place(number, at), raw).pairs():
                expected += 1
                if index.get(key) != value:
                    yield f"chain {name}, entry {at}: expected a row {key.hex()[:80]}, found another or none"
    found = sum(1 for _ in index.pairs())
    if found > expected:
        yield f"expected {expected} rows in all, found {found}: some are of no entry"


class Finder:
    """Looks entries up; give it the index if there is one."""

    def __init__(self, chains: Chains, index: EntryIndex | None) -> None:
        self._chains = chains
        self._index = index

    def by_id(self, identity: EntryId) -> Found:
        """The entry of that id; `NotFound` if no log that is held has it."""
        if self._index is not None:
            place = self._index.place_of(bytes.fromhex(identity))
            if place is not None:
                found = self._read(place)
                if found is not None and found.identity == identity:
                    return found
                _log.warning("index: expected entry %s at %s, found another; run `blyan db rebuild`", identity, place)
        for number, name in enumerate(chain_names):
            log = self._chains.logs[name]
            begin = max(log.first, self._applied(number))
            if begin < log.checkpoint.size:
                for at, raw in enumerate(log.entries(begin, log.checkpoint.size), begin):
                    if entry_id_of(raw) == identity:
                        return _found(name, at, raw)
        position = self._chains.state.position(identity)  # what the state knows and the index does not
        if position is not None:
            found = self._read(Place(chain_names.index(position[0]), position[1]))
            if found is not None:
                return found
        raise NotFound(f"entry {identity}: expected it in one of the three chains, found none of that id")

    def find(self, query: Query, count: int) -> list[Found]:
        """The first `count` entries that match, in order of chain and position."""
        if not 0 < count <= limits.found_entries_max:
            raise InvalidInput(f"limit: expected 1 to {limits.found_entries_max}, found {count}")
        return list(islice(self._matching(query), count))

    def _matching(self, query: Query) -> Iterator[Found]:
        for number, name in enumerate(chain_names):
            if query.chain not in (None, name):
                continue
            log = self._chains.logs[name]
            narrow = self._index is not None and (query.model is not None or query.author is not None)
            applied = max(log.first, self._applied(number)) if narrow else log.first
            bundles = _Bundles(log)
            for position in self._positions(query, number) if narrow else ():
                if not log.first <= position < applied:
                    continue
                found = _found(name, position, bundles.entry(position))
                if query.matches(name, row_of(Place(number, position), found.raw)):
                    yield found
            if applied < log.checkpoint.size:
                for position, raw in enumerate(log.entries(applied, log.checkpoint.size), applied):
                    if query.matches(name, row_of(Place(number, position), raw)):
                        yield _found(name, position, raw)

    def _positions(self, query: Query, chain: int) -> Iterable[int]:
        """Where in one chain every entry stands that matches, and perhaps others, rising."""
        assert self._index is not None, "asked for with an index"
        if query.model is None:
            assert query.author is not None, "a narrow query"
            return (place.position for place in self._index.by_author(bytes.fromhex(query.author), chain))
        places = self._index.by_model(query.model, query.layer, query.expert)
        return sorted(place.position for place in places if place.chain == chain)

    def _applied(self, number: int) -> int:
        done = self._index.applied(number) if self._index is not None else None
        return done.size if done is not None else self._chains.logs[chain_names[number]].first

    def _read(self, place: Place) -> Found | None:
        if not 0 <= place.chain < len(chain_names):
            return None
        name = chain_names[place.chain]
        log = self._chains.logs[name]
        if not log.first <= place.position < log.checkpoint.size:
            return None
        return _found(name, place.position, next(iter(log.entries(place.position, place.position + 1))))


class _Bundles:
    """Entries of a log by position; neighbours are read once."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._begin = 0
        self._held: list[bytes] = []

    def entry(self, position: int) -> bytes:
        """The bytes of one promised entry."""
        if not self._begin <= position < self._begin + len(self._held):
            width = limits.log_tile_width
            self._begin = max(self._log.first, position - position % width)
            end = min(position - position % width + width, self._log.checkpoint.size)
            self._held = list(self._log.entries(self._begin, end))
        return self._held[position - self._begin]


def _found(name: ChainName, position: int, raw: bytes) -> Found:
    return Found(name, position, entry_id_of(raw), parse_entry(raw), raw)


def open_reader(folder: Path) -> EntryIndex | None:
    """The index beside whoever writes it, None where there is none that can be read: the logs answer then."""
    if not (folder / folder_name).is_dir():
        return None
    try:
        return EntryIndex(folder / folder_name, writable=False)
    except IndexDamaged as reason:
        _log.warning("%s; the chains are read instead", reason.message)
        return None
