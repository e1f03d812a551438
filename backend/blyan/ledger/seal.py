"""The sealed history: an RFC 6962 tree over the leaves of all records, in their order, and promises of its root.

A seal says that the first `size` records have this root; the joint checkpoint carries the last one (chain/joint). Full
tiles of the tree are kept beside the records, so that sealing and proving cost what is new and a logarithm of the rest.
Sealers follow each other: each reads the last seal inside the transaction in which it writes the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from blyan.chain.merkle import RightEdge, leaf_hash, perfect_root
from blyan.chain.proofs import Node, check_inclusion, inclusion_path, range_root
from blyan.ledger import reading
from blyan.ledger.records import encode
from blyan.ledger.store import Row, Session
from blyan.primitives import canonical, limits
from blyan.primitives.clock import UnixSeconds
from blyan.primitives.errors import IntegrityFault, InvalidInput, NotFound
from blyan.primitives.ids import Digest, parse_hex64

_last_seal: Final = "SELECT number, size, root, time FROM seal ORDER BY number DESC LIMIT 1"
_seal_of: Final = "SELECT number, size, root, time FROM seal WHERE size = ? LIMIT 1"
_new_seal: Final = "INSERT INTO seal (number, size, root, time) VALUES (?, ?, ?, ?)"
_new_tile: Final = "INSERT INTO tile (level, number, hashes) VALUES (?, ?, ?)"
_tile: Final = "SELECT hashes FROM tile WHERE level = ? AND number = ?"
_leaves: Final = "SELECT leaf FROM record WHERE seq >= ? AND seq < ? ORDER BY seq"
_sealed_at_once: Final = 16_384
_width: Final = limits.log_tile_width


@dataclass(frozen=True, slots=True)
class Seal:
    """Seal `number`: `root` is the tree hash over the first `size` records."""

    number: int
    size: int
    root: Digest
    time: int


@dataclass(frozen=True, slots=True)
class Inclusion:
    """That a record, in its canonical bytes, is number `index` of the `size` under `root`."""

    record: bytes
    index: int
    size: int
    root: Digest
    path: tuple[Digest, ...]

    def encode(self) -> bytes:
        """Canonical JSON: whoever has it needs the root from a joint checkpoint and nothing else."""
        return canonical.encode(
            {
                "v": 1,
                "record": self.record.decode(),
                "index": self.index,
                "size": self.size,
                "root": self.root.hex(),
                "path": [each.hex() for each in self.path],
            }
        )

    def check(self) -> None:
        """`IntegrityFault` unless the path leads from the record to the root."""
        check_inclusion(leaf_hash(self.record), self.index, self.size, self.path, self.root)


def last_seal(session: Session) -> Seal | None:
    """The newest promise, None before the first."""
    found = session.rows(_last_seal)
    return Seal(found[0][0], found[0][1], Digest(found[0][2]), found[0][3]) if found else None


def seal_of(session: Session, size: int) -> Seal | None:
    """The promise about the first `size` records, None if there is none of that size."""
    found = session.rows(_seal_of, size)
    return Seal(found[0][0], found[0][1], Digest(found[0][2]), found[0][3]) if found else None


def seal(session: Session, now: UnixSeconds) -> Seal | None:
    """Promise what is new, up to a bound at once; the newest seal, None while there are no records."""
    with session.writing():
        before = last_seal(session)
        begin = before.size if before else 0
        size, last_time = reading.size_and_time(session)
        end = min(size, begin + _sealed_at_once)
        if begin == end:
            return before
        edge = _edge_at(session, begin)
        tiles: list[Row] = []
        for (leaf,) in session.rows(_leaves, begin, end):
            tiles += [(tile.level, tile.number, b"".join(tile.hashes)) for tile in edge.append(Digest(leaf))]
        assert edge.size == end, "records without gaps"
        # a clock that was put back after the last seal puts neither records nor seals back
        time = max(now(), last_time, before.time if before else 0)
        made = Seal(before.number + 1 if before else 0, end, edge.root(), time)
        if tiles:
            session.many(_new_tile, tiles)
        session.many(_new_seal, [(made.number, made.size, bytes(made.root), made.time)])
    return made


def inclusion(session: Session, number: int, size: int | None = None) -> Inclusion:
    """The proof of a record under the last seal, or under the first `size` sealed records.

    `NotFound` where it is not sealed yet. A joint checkpoint may promise less than the last seal, so whoever proves
    something under a checkpoint gives its size.
    """
    promise = last_seal(session)
    sealed = promise.size if promise else 0
    within = sealed if size is None else min(size, sealed)
    if promise is None or number >= within:
        raise NotFound(
            f"record {number}: expected it sealed, found {within} sealed records",
            hint="ask again: records are sealed a moment after they are written",
        )
    raw = encode(reading.record(session, number))
    node = _node(session)
    root = promise.root if within == sealed else range_root(node, 0, within)
    found = Inclusion(raw, number, within, root, tuple(inclusion_path(node, number, within)))
    found.check()
    return found


def parse_inclusion(raw: bytes) -> Inclusion:
    """Read a proof as `encode` wrote it and check it; `InvalidInput` or `IntegrityFault` otherwise."""
    found = read_inclusion(raw)
    found.check()
    return found


def read_inclusion(raw: bytes) -> Inclusion:
    """Read a proof as `encode` wrote it, unchecked; `InvalidInput` for another form."""
    value = cast("dict[str, Any]", canonical.decode_object(raw, bytes_max=2 * limits.ledger_record_bytes_max))
    if (
        value.keys() != {"v", "record", "index", "size", "root", "path"}
        or type(value["v"]) is not int
        or value["v"] != 1
    ):
        raise InvalidInput(f"inclusion: expected a proof of version 1, found fields {sorted(value)}")
    record, path = value["record"], value["path"]
    if not isinstance(record, str) or not isinstance(path, list) or len(cast("list[object]", path)) > 64:
        raise InvalidInput("inclusion: expected a record and a path of at most 64 hashes")
    for name in ("index", "size"):
        if type(value[name]) is not int:
            raise InvalidInput(f"inclusion: expected {name} to be an integer, found {value[name]!r}")
    hashes = [bytes.fromhex(parse_hex64(each, "path")) for each in cast("list[object]", path)]
    root = bytes.fromhex(parse_hex64(value["root"], "root"))
    return Inclusion(
        record.encode(), value["index"], value["size"], Digest(root), tuple(Digest(each) for each in hashes)
    )


def _edge_at(session: Session, size: int) -> RightEdge:
    """The unfinished tiles of the tree over the first `size` leaves."""
    edges: list[list[Digest]] = []
    level = 0
    while True:
        complete = size >> (8 * level)  # subtrees of 256^level leaves
        first = complete - complete % _width
        edges.append(_hashes(session, level, first, complete))
        if complete < _width:
            return RightEdge(size, edges)
        level += 1


def _hashes(session: Session, level: int, begin: int, end: int) -> list[Digest]:
    """Hashes `begin` to `end` of a tile level: leaves, or roots of the full tiles one level down."""
    if level == 0:
        return [Digest(leaf) for (leaf,) in session.rows(_leaves, begin, end)]
    return [perfect_root(_full_tile(session, level - 1, number)) for number in range(begin, end)]


def _full_tile(session: Session, level: int, number: int) -> Sequence[Digest]:
    found = session.rows(_tile, level, number)
    if not found or len(found[0][0]) != 32 * _width:
        raise IntegrityFault(
            f"ledger: expected tile {level}/{number} of the sealed tree, found {'a short one' if found else 'none'}",
            hint="run `blyan ledger verify`",
        )
    raw: bytes = found[0][0]
    return [Digest(raw[at : at + 32]) for at in range(0, len(raw), 32)]


def _node(session: Session) -> Node:
    """Hashes of perfect subtrees, from full tiles where there are, else from the leaves of the last one."""
    known: dict[tuple[int, int], Sequence[Digest]] = {}

    def tile(level: int, number: int, width: int) -> Sequence[Digest]:
        key = (level, number)
        if key not in known or len(known[key]) < width:
            whole = width == _width and session.rows(_tile, level, number)
            begin = number * _width
            known[key] = _full_tile(session, level, number) if whole else _hashes(session, level, begin, begin + width)
        return known[key]

    def node(level: int, index: int) -> Digest:
        inside = level % 8
        first = index << inside
        number, place = divmod(first, _width)
        width = place + (1 << inside)
        return perfect_root(tile(level // 8, number, width)[place:width])

    return node
