"""The chain root: the Merkle tree hash of RFC 6962 section 2.1, kept as tiles (C2SP tlog-tiles).

Not the tile root of a payload (`storage/tile`): other hash, other shape, other name. `RightEdge` is all one needs to
append: for each tile level the hashes of its last, unfinished tile. `Subtrees` is what one needs for the root at any
earlier size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from blyan.primitives import limits
from blyan.primitives.ids import Digest, EntryId


def leaf_hash(data: bytes) -> Digest:
    """SHA-256(0x00 ‖ data)."""
    return Digest(hashlib.sha256(b"\x00" + data).digest())


def node_hash(left: bytes, right: bytes) -> Digest:
    """SHA-256(0x01 ‖ left ‖ right)."""
    return Digest(hashlib.sha256(b"\x01" + left + right).digest())


def entry_id_of(raw: bytes) -> EntryId:
    """An entry's id: the leaf hash of its bytes, in text form."""
    return EntryId(leaf_hash(raw).hex())


empty_root = Digest(hashlib.sha256(b"").digest())


@dataclass(frozen=True, slots=True)
class HashTile:
    """Up to 256 hashes of one tile level; `width` below 256 means not yet full."""

    level: int
    number: int
    hashes: tuple[Digest, ...]


@dataclass(slots=True)
class RightEdge:
    """The unfinished tile of every level: `edges[L]` holds hashes of complete subtrees of 256^L leaves."""

    size: int = 0
    edges: list[list[Digest]] = field(default_factory=lambda: [[]])

    def append(self, leaf: Digest) -> list[HashTile]:
        """Add one leaf hash; return the tiles that this filled."""
        assert self.size < limits.chain_size_max, "a chain within its limit"
        self.size += 1
        filled: list[HashTile] = []
        level, rising = 0, leaf
        while True:
            if level == len(self.edges):
                self.edges.append([])
            self.edges[level].append(rising)
            if len(self.edges[level]) < limits.log_tile_width:
                return filled
            tile = tuple(self.edges[level])
            number = (self.size >> (8 * (level + 1))) - 1
            filled.append(HashTile(level, number, tile))
            rising = perfect_root(tile)
            self.edges[level] = []
            level += 1

    def partial_tiles(self) -> list[HashTile]:
        """The unfinished, non-empty tiles, lowest level first."""
        return [
            HashTile(level, self.size >> (8 * (level + 1)), tuple(hashes))
            for level, hashes in enumerate(self.edges)
            if hashes
        ]

    def root(self) -> Digest:
        """The Merkle tree hash of all leaves so far."""
        subtrees: list[Digest] = []  # perfect subtrees, largest and leftmost first
        for hashes in reversed(self.edges):
            begin = 0
            for bit in reversed(range(8)):
                if len(hashes) >> bit & 1:
                    subtrees.append(perfect_root(hashes[begin : begin + (1 << bit)]))
                    begin += 1 << bit
        if not subtrees:
            return empty_root
        root = subtrees[-1]
        for subtree in reversed(subtrees[:-1]):
            root = node_hash(subtree, root)
        return root


@dataclass(slots=True)
class Subtrees:
    """The hashes of all perfect subtrees: `levels[L]` holds, 32 bytes each, those of 2^L leaves, left to right."""

    levels: list[bytearray] = field(default_factory=lambda: [bytearray()])

    def append(self, leaf: Digest) -> None:
        """Add one leaf hash and what it completes."""
        level, rising = 0, leaf
        self.levels[0] += rising
        while len(self.levels[level]) % 64 == 0:
            rising = node_hash(bytes(self.levels[level][-64:-32]), rising)
            level += 1
            if level == len(self.levels):
                self.levels.append(bytearray())
            self.levels[level] += rising

    def node(self, level: int, index: int) -> Digest:
        """The hash over leaves index·2^level … (index+1)·2^level, as `proofs.Node` wants it."""
        assert 0 <= index < len(self.levels[level]) // 32, "a subtree that is complete"
        return Digest(bytes(self.levels[level][32 * index : 32 * (index + 1)]))


def perfect_root(hashes: Iterable[Digest]) -> Digest:
    """Root over a power of two of equally high subtrees."""
    level = list(hashes)
    assert level and len(level) & (len(level) - 1) == 0, "a power of two"
    while len(level) > 1:
        level = [node_hash(level[at], level[at + 1]) for at in range(0, len(level), 2)]
    return level[0]
