"""One chain on disk: static files in the C2SP tlog-tiles layout (https://c2sp.org/tlog-tiles).

`checkpoint`, `tile/<L>/<N>[.p/<W>]` (hashes) and `tile/entries/<N>[.p/<W>]` (u16 length ‖ bytes, 256 to a bundle).

Write order of `publish`, each step durable before the next: (1) entry bundles, (2) hash tiles, (3) the checkpoint,
whose rename is the commit. What a crash before 3 leaves lies beyond the checkpoint and is overwritten by the next
publish. The first publish of a log is of nothing: a checkpoint of size 0, so that tiles without one are damage.
Opening is recovery: it reads the checkpoint, reads that many entries, and computes the root again. A publish that
failed half way leaves the disk unknown, so the log then takes nothing until it is opened again.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from blyan.chain.checkpoint import Checkpoint, origin_of, parse_checkpoint, sign_checkpoint
from blyan.chain.entries import ChainName
from blyan.chain.merkle import HashTile, RightEdge, empty_root, leaf_hash, perfect_root
from blyan.primitives import limits
from blyan.primitives.errors import IntegrityFault, Unavailable
from blyan.primitives.ids import Digest, PublicKey
from blyan.primitives.keys import Key
from blyan.storage import durable

_width = limits.log_tile_width
_tile_name = re.compile(r"(?P<level>\d|entries)/(?P<number>(?:x\d{3}/){0,4}\d{3})(?:\.p/(?P<width>[1-9]\d{0,2}))?")
_bundle_bytes_max = _width * (2 + limits.entry_bytes_max)


class Log:
    """The published entries of one chain, and the staged ones that the next `publish` adds."""

    def __init__(self, folder: Path, network: str, chain: ChainName, author: PublicKey) -> None:
        """Open the log; `IntegrityFault` names the file when what is on disk is not what the checkpoint says."""
        self.folder = folder
        self.origin = origin_of(network, chain)
        self._author = author
        self._staged: list[bytes] = []
        self._edge = RightEdge()
        self._failed = False  # a publish stopped half way
        self.created = False  # there is a checkpoint, be it of nothing
        self.checkpoint = self._read_checkpoint()
        for raw in self.entries(0, self.checkpoint.size):
            self._edge.append(leaf_hash(raw))
        size = self.checkpoint.size
        self._last_bundle = list(self.entries(size - size % _width, size))  # entries of the unfinished bundle
        if self._edge.root() != self.checkpoint.root:
            raise IntegrityFault(
                f"chain {self.origin}: expected root {self.checkpoint.root.hex()} over {self.checkpoint.size} entries, "
                f"computed {self._edge.root().hex()} in {folder}",
                detail={"file": str(folder)},
            )

    @property
    def size(self) -> int:
        """Published and staged entries."""
        return self.checkpoint.size + len(self._staged)

    def stage(self, raw: bytes) -> None:
        """Queue one encoded entry for the next `publish`; `Unavailable` after one that failed."""
        self._want_sound()
        assert self.created, "an empty log is published before its first entry"
        assert 0 < len(raw) <= limits.entry_bytes_max, "Entry.encode limits its bytes"
        self._staged.append(raw)

    def publish(self, key: Key) -> Checkpoint:
        """Make the staged entries durable and promised; see the write order above. `Unavailable` after a failure."""
        self._want_sound()
        self._failed = True  # until the last step
        tiles: dict[tuple[int, int], HashTile] = {}
        full_bundles: list[int] = []
        bundle, number = list(self._last_bundle), self._edge.size // _width
        edge = RightEdge(self._edge.size, [list(hashes) for hashes in self._edge.edges])
        for raw in self._staged:
            bundle.append(raw)
            for tile in edge.append(leaf_hash(raw)):
                tiles[tile.level, tile.number] = tile
            if len(bundle) == _width:
                self._write(f"tile/entries/{_tile_path(number)}", _encode_bundle(bundle))
                full_bundles.append(number)
                bundle, number = [], number + 1
        if bundle:
            self._write(f"tile/entries/{_tile_path(number)}.p/{len(bundle)}", _encode_bundle(bundle))
        for tile in [*tiles.values(), *edge.partial_tiles()]:
            suffix = _width_suffix(len(tile.hashes))
            self._write(f"tile/{tile.level}/{_tile_path(tile.number)}{suffix}", b"".join(tile.hashes))
        checkpoint = Checkpoint(self.origin, edge.size, edge.root())
        self._write("checkpoint", sign_checkpoint(checkpoint, key))
        self._edge, self._last_bundle, self.checkpoint = edge, bundle, checkpoint
        self._staged.clear()
        for level, tile_number in tiles:  # partial versions of what is full now; a reader finds the full one
            shutil.rmtree(self.folder / f"tile/{level}/{_tile_path(tile_number)}.p", ignore_errors=True)
        for bundle_number in full_bundles:
            shutil.rmtree(self.folder / f"tile/entries/{_tile_path(bundle_number)}.p", ignore_errors=True)
        self.created, self._failed = True, False
        return checkpoint

    def entries(self, begin: int, end: int) -> Iterator[bytes]:
        """The bytes of published entries begin … end."""
        assert 0 <= begin <= end <= self.checkpoint.size, "a range within the checkpoint"
        for number in range(begin // _width, -(-end // _width)):
            first = number * _width
            bundle = self._read_bundle(number, min(_width, self.checkpoint.size - first))
            yield from bundle[max(0, begin - first) : end - first]

    def checkpoint_note(self) -> bytes:
        """The signed checkpoint as it stands on disk."""
        return self._read(self.folder / "checkpoint", limits.checkpoint_bytes_max)

    def node(self, level: int, index: int) -> Digest:
        """The hash of the perfect subtree over published leaves index·2^level … (index+1)·2^level, from one tile."""
        tile_level, rest = divmod(level, 8)
        begin = index << rest
        number, offset = divmod(begin, _width)
        held = min(_width, (self.checkpoint.size >> (8 * tile_level)) - number * _width)
        assert 0 <= offset < offset + (1 << rest) <= held, "a subtree within the checkpoint"
        _, raw = self._read_hashes(tile_level, number, held)
        return perfect_root([Digest(raw[at : at + 32]) for at in range(32 * offset, 32 * (offset + (1 << rest)), 32)])

    def tile_file(self, name: str) -> Path | None:
        """The file of a tile named as the layout does (`0/000`, `entries/x001/067.p/5`); None beyond the checkpoint."""
        match = _tile_name.fullmatch(name)
        if match is None:
            return None
        number = int(re.sub(r"[x/]", "", match["number"]))
        width = int(match["width"]) if match["width"] else _width
        shift = 0 if match["level"] == "entries" else 8 * int(match["level"])
        whole = match["width"] is None or 0 < width < _width
        if (
            not whole
            or number * _width + width > self.checkpoint.size >> shift
            or _tile_path(number) != match["number"]
        ):
            return None
        path = self.folder / "tile" / name
        return path if path.is_file() else None

    def verify_tiles(self) -> int:
        """Compare every hash tile on disk with one computed from the entries; return how many were read."""
        edge, expected = RightEdge(), list[HashTile]()
        for raw in self.entries(0, self.checkpoint.size):
            expected += edge.append(leaf_hash(raw))
        expected += edge.partial_tiles()
        for tile in expected:
            path, found = self._read_hashes(tile.level, tile.number, len(tile.hashes))
            if found != b"".join(tile.hashes):
                raise IntegrityFault(
                    f"chain {self.origin}: {path} does not hold the hashes of its entries", detail={"file": str(path)}
                )
        return len(expected)

    def _read_checkpoint(self) -> Checkpoint:
        begun = (self.folder / "tile").exists()  # asked first: a writer beside us makes the checkpoint before any tile
        self.created = (self.folder / "checkpoint").exists()
        if self.created:
            return parse_checkpoint(self.checkpoint_note(), self.origin, self._author)
        if begun:
            raise self.lost()
        return Checkpoint(self.origin, 0, empty_root)

    def _read_bundle(self, number: int, width: int) -> list[bytes]:
        path, wide, raw = self._read_tile("entries", number, width, _bundle_bytes_max)
        found = _decode_bundle(raw)
        if len(found) != wide or _encode_bundle(found) != raw:
            raise IntegrityFault(
                f"chain {self.origin}: expected {wide} entries, found {len(found)} in {path}",
                detail={"file": str(path)},
            )
        return found[:width]

    def _read_hashes(self, level: int, number: int, width: int) -> tuple[Path, bytes]:
        path, wide, raw = self._read_tile(str(level), number, width, 32 * _width)
        if len(raw) != 32 * wide:
            raise IntegrityFault(
                f"chain {self.origin}: expected {wide} hashes, found {len(raw)} bytes in {path}",
                detail={"file": str(path)},
            )
        return path, raw[: 32 * width]

    def _read_tile(self, kind: str, number: int, width: int, bytes_max: int) -> tuple[Path, int, bytes]:
        """The file that holds the first `width` of a tile, how many it holds, and its bytes.

        A publish beside us replaces partial tiles by the full one, which begins with the same (C2SP tlog-tiles).
        """
        full = self.folder / f"tile/{kind}/{_tile_path(number)}"
        path = Path(f"{full}{_width_suffix(width)}")
        try:
            return path, width, durable.read_limited(path, bytes_max)
        except FileNotFoundError as reason:
            if full.exists():
                return full, _width, self._read(full, bytes_max)
            raise self._unreadable(path, reason) from None
        except (OSError, ValueError) as reason:
            raise self._unreadable(path, reason) from None

    def lost(self) -> IntegrityFault:
        """What to raise where this log was begun and has no checkpoint."""
        return IntegrityFault(
            f"chain {self.origin}: expected a checkpoint in {self.folder}, found none",
            detail={"file": str(self.folder)},
            hint="restore the folder from a backup; a new history must not begin over the old one",
        )

    def _want_sound(self) -> None:
        if self._failed:
            raise Unavailable(
                f"chain {self.origin}: expected it sound, found a publish that failed half way; open it again",
                hint="restart: opening the data directory again finds out what reached the disk",
            )

    def _unreadable(self, path: Path, reason: Exception) -> IntegrityFault:
        return IntegrityFault(
            f"chain {self.origin}: expected to read {path}, found {reason}", detail={"file": str(path)}
        )

    def _read(self, path: Path, bytes_max: int) -> bytes:
        try:
            return durable.read_limited(path, bytes_max)
        except (OSError, ValueError) as reason:
            raise self._unreadable(path, reason) from None

    def _write(self, name: str, data: bytes) -> None:
        path = self.folder / name
        durable.make_folder(path.parent)
        durable.write_file(path, data)


def _width_suffix(width: int) -> str:
    return "" if width == _width else f".p/{width}"


def _tile_path(number: int) -> str:
    """Three digits a folder, all but the last with `x` before them: 1234067 is x001/x234/067 (C2SP tlog-tiles)."""
    groups = [f"{number % 1000:03d}"]
    while number := number // 1000:
        groups.append(f"x{number % 1000:03d}")
    return "/".join(reversed(groups))


def _decode_bundle(raw: bytes) -> list[bytes]:
    """What would encode to `raw`; if it is cut short, encoding again gives something else."""
    found: list[bytes] = []
    at = 0
    while at < len(raw):
        length = int.from_bytes(raw[at : at + 2], "big")
        found.append(raw[at + 2 : at + 2 + length])
        at += 2 + length
    return found


def _encode_bundle(entries: Sequence[bytes]) -> bytes:
    return b"".join(len(raw).to_bytes(2, "big") + raw for raw in entries)
