"""Tile arithmetic and tile roots: how a payload's bytes become one id.

A subtile is 256 KiB of the file, the last one short. Leaf = H_subtile; while a level has more than one node the next
takes groups of up to eight in order. `payload_id` = H_payload(length ‖ root). The flat list of leaves is the tile
index; once checked against the payload id, each subtile verifies alone. See docs/spec/tile-root.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blyan.primitives import limits
from blyan.primitives.digest import Bytes, digest_bytes, hash_node, hash_payload, hash_subtile
from blyan.primitives.errors import IntegrityFault, InvalidInput
from blyan.primitives.ids import PayloadId


@dataclass(frozen=True, slots=True)
class TileIndex:
    """The leaves of one payload and its length; knows the payload's id."""

    length: int  # bytes of the payload
    leaves: tuple[bytes, ...]

    @property
    def payload_id(self) -> PayloadId:
        """The id these leaves and this length give."""
        return PayloadId(hash_payload(self.length, tile_root(self.leaves)))

    def encode(self) -> bytes:
        """The file beside the blob: 32 bytes per leaf, nothing else."""
        return b"".join(self.leaves)

    @classmethod
    def decode(cls, raw: bytes, length: int, expected: PayloadId) -> TileIndex:
        """Parse an index file and check it against the payload id."""
        count = subtile_count(length)
        if len(raw) != count * digest_bytes:
            raise IntegrityFault(f"tile index of {expected}: expected {count * digest_bytes} bytes, found {len(raw)}")
        index = cls(length, tuple(raw[at : at + digest_bytes] for at in range(0, len(raw), digest_bytes)))
        if index.payload_id != expected:
            raise IntegrityFault(f"tile index: expected one of payload {expected}, computed {index.payload_id}")
        return index


def differing(found: Sequence[bytes], expected: Sequence[bytes]) -> list[int]:
    """Numbers of the leaves that differ, which are the damaged subtiles; both lists are of one payload."""
    return [number for number, (one, other) in enumerate(zip(found, expected, strict=True)) if one != other]


def subtile_count(length: int) -> int:
    """How many subtiles a payload of `length` bytes has; an empty payload is refused."""
    if not 0 < length <= limits.payload_bytes_max:
        raise InvalidInput(f"payload: expected 1 to {limits.payload_bytes_max} bytes, found {length}")
    return -(-length // limits.subtile_bytes)


def subtile_slice(number: int) -> slice:
    """The bytes of one subtile within the payload; slicing shortens the last one."""
    return slice(number * limits.subtile_bytes, (number + 1) * limits.subtile_bytes)


def subtile_leaves(data: Bytes) -> list[bytes]:
    """The leaf of each subtile of `data`, which begins at a subtile's start."""
    view = memoryview(data)
    return [hash_subtile(view[subtile_slice(number)]) for number in range(-(-len(view) // limits.subtile_bytes))]


def tile_root(leaves: tuple[bytes, ...]) -> bytes:
    """The root over leaves: levels of groups of up to eight; a single leaf is its own root."""
    level, nodes = 0, list(leaves)
    while len(nodes) > 1:
        level += 1
        nodes = _level_above(level, nodes)
    return nodes[0]


def subtile_path(leaves: Sequence[bytes], number: int) -> list[list[bytes]]:
    """What shows that a subtile is number `number` of a payload: on each level its siblings within its group."""
    assert 0 <= number < len(leaves), "a subtile of the payload"
    path: list[list[bytes]] = []
    level, nodes = 0, list(leaves)
    while len(nodes) > 1:
        begin = number - number % limits.tile_fanout
        group = nodes[begin : begin + limits.tile_fanout]
        path.append([*group[: number - begin], *group[number - begin + 1 :]])
        level, number = level + 1, number // limits.tile_fanout
        nodes = _level_above(level, nodes)
    return path


def check_subtile(payload: PayloadId, length: int, number: int, data: Bytes, path: Sequence[Sequence[bytes]]) -> None:
    """Raise `IntegrityFault` unless `data` is subtile `number` of the payload of that id and length."""
    count = subtile_count(length)
    place = subtile_slice(number)
    if not 0 <= number < count or len(data) != min(place.stop, length) - place.start:
        raise IntegrityFault(f"subtile proof: expected one of {count} subtiles of {payload}, found {len(data)} bytes")
    node, at, level, rest = hash_subtile(data), number, 0, list(path)
    while count > 1:
        within = at % limits.tile_fanout
        expected = min(limits.tile_fanout, count - (at - within)) - 1
        siblings = rest.pop(0) if rest else ()
        if len(siblings) != expected or any(len(each) != digest_bytes for each in siblings):
            raise IntegrityFault(f"subtile proof: expected {expected} siblings on level {level}, found {len(siblings)}")
        level, at, count = level + 1, at // limits.tile_fanout, -(-count // limits.tile_fanout)
        node = hash_node(level, [*siblings[:within], node, *siblings[within:]])
    computed = hash_payload(length, node)
    if rest or computed != payload:
        raise IntegrityFault(f"subtile proof: expected payload {payload}, computed {computed}")


def _level_above(level: int, nodes: Sequence[bytes]) -> list[bytes]:
    fanout = limits.tile_fanout
    return [hash_node(level, list(nodes[at : at + fanout])) for at in range(0, len(nodes), fanout)]


class TileHasher:
    """Hash a payload while it is written, in pieces of any size."""

    def __init__(self) -> None:
        self._leaves: list[bytes] = []
        self._rest = bytearray()  # less than one subtile
        self._length = 0

    def update(self, data: Bytes) -> None:
        """Take the next bytes of the payload."""
        view = memoryview(data).cast("B")
        self._length += len(view)
        if self._rest:
            take = limits.subtile_bytes - len(self._rest)
            self._rest += view[:take]
            view = view[take:]
            if len(self._rest) < limits.subtile_bytes:
                return
            self._leaves.append(hash_subtile(self._rest))
            self._rest.clear()
        whole = len(view) // limits.subtile_bytes
        for number in range(whole):
            self._leaves.append(hash_subtile(view[subtile_slice(number)]))
        self._rest += view[whole * limits.subtile_bytes :]

    def finish(self) -> TileIndex:
        """The index of all bytes taken; an empty payload is refused."""
        subtile_count(self._length)
        leaves = [*self._leaves, hash_subtile(self._rest)] if self._rest else self._leaves
        return TileIndex(self._length, tuple(leaves))


def index_of(data: Bytes) -> TileIndex:
    """The tile index of a payload in memory."""
    hasher = TileHasher()
    hasher.update(data)
    return hasher.finish()
