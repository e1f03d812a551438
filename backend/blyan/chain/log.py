"""One chain on disk, in the tlog-tiles layout of `chain/tile_files`, with its C2SP note in `checkpoint`.

How far the log goes is not said here but by the joint checkpoint (`chain/chains`, which owns the order of writes): a
log is opened at a promised size and root, from the tiles of its right edge alone. What lies beyond belongs to a commit
that never was, and is overwritten. A log that began at a snapshot holds entries from `first` on, a multiple of 256.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from blyan.chain.checkpoint import Checkpoint
from blyan.chain.merkle import HashTile, RightEdge, leaf_hash, perfect_root
from blyan.chain.tile_audit import bundle_fault, edge_fault
from blyan.chain.tile_files import TileFiles, parse_tile_name
from blyan.primitives import limits
from blyan.primitives.errors import NotFound
from blyan.primitives.ids import Digest
from blyan.storage import durable

_width: Final = limits.log_tile_width


@dataclass(slots=True)
class Extension:
    """What follows the promised entries of a log: its bundles are written, and nobody sees them yet."""

    edge: RightEdge
    bundle: list[bytes]  # entries of the unfinished bundle
    tiles: dict[tuple[int, int], HashTile] = field(default_factory=dict[tuple[int, int], HashTile])  # that it filled
    bundles: list[int] = field(default_factory=list[int])  # that it filled


def begin_at(folder: Path, origin: str, edge: RightEdge) -> Log:
    """A log that begins at `edge.size`, a multiple of 256, as if all before were there: its edge tiles, durable."""
    files = TileFiles(folder, origin)
    for tile in edge.partial_tiles():
        files.write_hashes(tile.level, tile.number, tile.hashes)
    return Log(folder, Checkpoint(origin, edge.size, edge.root()), edge.size)


class Log:
    """The promised entries of one chain, and the staged ones that the next commit adds."""

    def __init__(self, folder: Path, promised: Checkpoint, first: int = 0, note: bytes | None = None) -> None:
        """Open at what the joint checkpoint promises; `IntegrityFault` names the file that does not agree with it."""
        assert first % _width == 0 and first <= promised.size, "whole bundles are missing, and none else"
        self.folder = folder
        self.origin = promised.origin
        self.first = first  # number of the first entry that is held
        self.promised = promised, note  # one value, so that readers beside a commit get both of one moment
        self.staged: list[bytes] = []
        self.files = TileFiles(folder, promised.origin)
        self._edge = self.edge_at(promised.size)
        if self._edge.root() != promised.root:
            raise edge_fault(self)
        begin = promised.size - promised.size % _width
        self._bundle = list(self.entries(begin, promised.size))

    @property
    def checkpoint(self) -> Checkpoint:
        """How far the log goes."""
        return self.promised[0]

    @property
    def size(self) -> int:
        """Promised and staged entries."""
        return self.checkpoint.size + len(self.staged)

    @property
    def created(self) -> bool:
        """Whether there is a signed note, be it of nothing."""
        return self.promised[1] is not None

    def stage(self, raw: bytes) -> None:
        """Queue one encoded entry for the next commit."""
        assert 0 < len(raw) <= limits.entry_bytes_max, "Entry.encode limits its bytes"
        assert self.size < limits.chain_size_max, "a chain within its limit"
        self.staged.append(raw)

    def extend(self, entries: Iterable[bytes]) -> Extension:
        """Step 1 of a commit: write the bundles of what follows, each durable; see `Chains.publish`."""
        new = Extension(RightEdge(self._edge.size, [list(hashes) for hashes in self._edge.edges]), list(self._bundle))
        for raw in entries:
            new.bundle.append(raw)
            for tile in new.edge.append(leaf_hash(raw)):
                new.tiles[tile.level, tile.number] = tile
            if len(new.bundle) == _width:
                number = new.edge.size // _width - 1
                self.files.write_bundle(number, new.bundle)
                new.bundles.append(number)
                new.bundle = []
        if new.bundle:
            self.files.write_bundle(new.edge.size // _width, new.bundle)
        return new

    def write_tiles(self, new: Extension) -> None:
        """Step 2 of a commit: write the hash tiles, each durable."""
        for tile in [*new.tiles.values(), *new.edge.partial_tiles()]:
            self.files.write_hashes(tile.level, tile.number, tile.hashes)

    def write_note(self, note: bytes) -> None:
        """Step 4 of a commit: the signed note of what is promised."""
        durable.make_folder(self.folder, within=self.folder.parent)
        durable.write_file(self.folder / "checkpoint", note)

    def adopt(self, new: Extension | None, note: bytes) -> None:
        """After the commit: this is the log now, and nothing is staged. None if only the note is new."""
        if new is None:
            self.promised = self.checkpoint, note
            return
        self.promised = Checkpoint(self.origin, new.edge.size, new.edge.root()), note
        self._edge, self._bundle = new.edge, new.bundle
        self.staged = []
        for level, number in new.tiles:
            self.files.remove_partial(self.files.path(level, number))
        for number in new.bundles:
            self.files.remove_partial(self.files.path("entries", number))

    def entries(self, begin: int, end: int) -> Iterator[bytes]:
        """The bytes of promised entries begin … end, as `leaves` reads them."""
        return (raw for raw, _ in self.leaves(begin, end))

    def leaves(self, begin: int, end: int) -> Iterator[tuple[bytes, Digest]]:
        """Promised entries begin … end and their leaf hashes, which are those of the hash tile.

        `NotFound` below `first`, `IntegrityFault` where a bundle and its hash tile differ.
        """
        assert 0 <= begin <= end <= self.checkpoint.size, "a range within the checkpoint"
        if begin == end:
            return
        if begin < self.first:
            raise self._not_held(f"entry {begin}")
        for number in range(begin // _width, -(-end // _width)):
            at = number * _width
            known = self.hash_tile(0, number)
            bundle = self.files.read_bundle(number, len(known))
            if [leaf_hash(raw) for raw in bundle] != known:
                raise bundle_fault(self, number, len(known))
            yield from zip(bundle[max(0, begin - at) : end - at], known[max(0, begin - at) : end - at], strict=True)

    def checkpoint_note(self) -> bytes:
        """The signed note; a writer beside us may have written a newer one, which says more than this log."""
        note = self.promised[1]
        assert note is not None, "ask `created` first"
        return note

    def node(self, level: int, index: int) -> Digest:
        """The hash of the perfect subtree over promised leaves index·2^level … (index+1)·2^level, from one tile.

        `NotFound` where the log began later.
        """
        tile_level, rest = divmod(level, 8)
        number, offset = divmod(index << rest, _width)
        hashes = self.hash_tile(tile_level, number)[offset : offset + (1 << rest)]
        assert len(hashes) == 1 << rest, "a subtree within the checkpoint"
        return perfect_root(hashes)

    def edge_at(self, size: int) -> RightEdge:
        """The right edge as it was at `size`, from one tile of each level; `NotFound` where the log began later."""
        assert size <= self.checkpoint.size, "a size within the checkpoint"
        edges: list[list[Digest]] = []
        while not edges or size >> (8 * len(edges)):
            level = len(edges)
            number, width = divmod(size >> (8 * level), _width)
            edges.append(self.hash_tile(level, number)[:width] if width else [])
        return RightEdge(size, edges)

    def promises(self, name: str) -> bool:
        """Whether a tile so named (`0/000`, `entries/x001/067.p/5`) lies within the checkpoint."""
        tile = parse_tile_name(name)
        return tile is not None and tile.number * _width + tile.width <= self.checkpoint.size >> tile.shift

    def tile_file(self, name: str) -> Path | None:
        """The file of a tile named as the layout does; None beyond the checkpoint, or where no regular file is."""
        path = self.folder / "tile" / name
        return path if self.promises(name) and path.is_file() and not path.is_symlink() else None

    def backfill(self, source: Log) -> None:
        """Write the bundles and hash tiles left of `first` that `source` holds, each durable; nobody sees them yet.

        `source` is the same log, verified, and begins earlier.
        """
        for number in range(source.first // _width, self.first // _width):
            self.files.write_bundle(number, list(source.entries(number * _width, (number + 1) * _width)))
        level = 0
        while count := self.first >> (8 * (level + 1)):  # full tiles; the one that `first` lies in is here
            for number in range(source.first >> (8 * (level + 1)), count):
                self.files.write_hashes(level, number, source.hash_tile(level, number))
            level += 1

    def hash_tile(self, level: int, number: int) -> list[Digest]:
        """The promised hashes of one tile; `NotFound` where the log began later."""
        if number < self.first >> (8 * (level + 1)):
            raise self._not_held(f"a proof through hash tile {level}/{number}")
        held = min(_width, (self.checkpoint.size >> (8 * level)) - number * _width)
        assert held > 0, "a tile within the checkpoint"
        return self.files.read_hashes(level, number, held)

    def _not_held(self, what: str) -> NotFound:
        return NotFound(
            f"chain {self.origin}: expected {what}, found the log to begin at entry {self.first}",
            detail={"first": self.first},
            hint="this node joined from a snapshot: `blyan chain import` of a full archive brings the rest",
        )
