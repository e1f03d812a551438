"""Which tile of a log is to blame: each hash tile is what is below it says, and what is above it says of it.

For one damaged file the answer is that file: where a tile and the one above disagree, what is below decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from blyan.chain.merkle import leaf_hash, perfect_root
from blyan.chain.tile_files import parse_tile_name
from blyan.primitives import limits
from blyan.primitives.errors import IntegrityFault
from blyan.primitives.ids import Digest

if TYPE_CHECKING:
    from blyan.chain.log import Log

_width: Final = limits.log_tile_width


def verify_tiles(log: Log) -> int:
    """Compare every held hash tile with those below it, and the right edge with the root; return how many there are.

    That entries are what the lowest tiles say is compared wherever entries are read (`Log.leaves`).
    """
    size = log.checkpoint.size
    count = level = 0
    while size >> (8 * level):
        end = -(-(size >> (8 * level)) // _width)
        for number in range(log.first >> (8 * (level + 1)), end):
            hashes = log.hash_tile(level, number)
            count += 1
            for at, each in enumerate(hashes if level else ()):
                below = number * _width + at
                if below >= log.first >> (8 * level) and perfect_root(log.hash_tile(level - 1, below)) != each:
                    raise _disagreement(log, level - 1, below, number)
        level += 1
    if log.edge_at(size).root() != log.checkpoint.root:
        raise edge_fault(log)
    _verify_earlier(log)
    return count


def _verify_earlier(log: Log) -> None:
    """Earlier partial tiles, served to those who know an earlier checkpoint, are beginnings of the present ones."""
    tiles = log.folder / "tile"
    for path in sorted(tiles.rglob("*.p/*")):
        name = path.relative_to(tiles).as_posix()
        tile = parse_tile_name(name)
        if tile is None or not log.promises(name):
            continue  # beyond the checkpoint: nobody was promised that
        level: int = 0 if tile.level == "entries" else tile.level
        known = log.hash_tile(level, tile.number)[: tile.width]
        if tile.level == "entries":
            found = [leaf_hash(raw) for raw in log.files.read_bundle(tile.number, tile.width)]
        else:
            found = log.files.read_hashes(level, tile.number, tile.width)
        if found != known:
            raise log.files.differs(path, "the beginning of what is there now")


def bundle_fault(log: Log, number: int, width: int) -> IntegrityFault:
    """What to raise where a bundle's entries are not what its hash tile says."""
    if width == _width:
        above = log.hash_tile(1, number // _width)[number % _width]
        if perfect_root(leaf_hash(raw) for raw in log.files.read_bundle(number, width)) == above:
            return log.files.differs(log.files.path(0, number), "the hashes of its entries")
    return log.files.differs(log.files.path("entries", number, width), "the entries of its hash tile")


def edge_fault(log: Log) -> IntegrityFault:
    """What to raise where the right edge does not give the promised root."""
    size, level = log.checkpoint.size, 0
    while size >> (8 * level):
        number, width = divmod(size >> (8 * level), _width)
        if width and _below(log, level, number, width) != log.hash_tile(level, number):
            return log.files.differs(log.files.path(level, number, width), "the hashes of what is below it")
        level += 1
    expected = f"root {log.checkpoint.root.hex()} over {size} entries"
    return log.files.differs(log.folder, expected, f"root {log.edge_at(size).root().hex()}")


def _disagreement(log: Log, level: int, number: int, above: int) -> IntegrityFault:
    """Of a full tile and the one above it, the one that what is below does not speak for."""
    right = _below(log, level, number, _width) == log.hash_tile(level, number)
    blamed = (level + 1, above) if right else (level, number)
    width = len(log.hash_tile(*blamed))
    return log.files.differs(log.files.path(*blamed, width), "the hashes of what is below it")


def _below(log: Log, level: int, number: int, width: int) -> list[Digest] | None:
    """What a tile must hold, computed from what is below it; None where that is not all held."""
    if level == 0:
        return [leaf_hash(raw) for raw in log.files.read_bundle(number, width)]
    begin = number * _width
    if begin < log.first >> (8 * level):
        return None
    return [perfect_root(log.hash_tile(level - 1, each)) for each in range(begin, begin + width)]
