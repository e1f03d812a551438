"""Files of one log in the C2SP tlog-tiles layout (https://c2sp.org/tlog-tiles): names, bounded reads, durable writes.

`tile/<L>/<N>[.p/<W>]` holds up to 256 hashes, `tile/entries/<N>[.p/<W>]` up to 256 entries (u16 length ‖ bytes). What a
tile must hold is for `chain/log` to know.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from blyan.primitives import limits
from blyan.primitives.errors import IntegrityFault
from blyan.primitives.ids import Digest
from blyan.storage import durable

Level: TypeAlias = int | Literal["entries"]

_width: Final = limits.log_tile_width
_name: Final = re.compile(r"(?P<level>\d|entries)/(?P<number>(?:x\d{3}/){0,4}\d{3})(?:\.p/(?P<width>[1-9]\d{0,2}))?")
_bundle_bytes_max: Final = _width * (2 + limits.entry_bytes_max)


@dataclass(frozen=True, slots=True)
class TileName:
    """Which tile, and how much of it: `width` is 256 for a full one."""

    level: Level
    number: int
    width: int

    @property
    def shift(self) -> int:
        """One thing in this tile stands for 2^shift entries."""
        return 0 if self.level == "entries" else 8 * self.level


def parse_tile_name(name: str) -> TileName | None:
    """Read a name as the layout writes it (`0/000`, `entries/x001/067.p/5`); None for any other."""
    match = _name.fullmatch(name)
    if match is None:
        return None
    level: Level = "entries" if match["level"] == "entries" else int(match["level"])
    number = int(re.sub(r"[x/]", "", match["number"]))
    if _number_path(number) != match["number"] or (match["width"] and int(match["width"]) >= _width):
        return None
    return TileName(level, number, int(match["width"] or _width))


@dataclass(frozen=True, slots=True)
class TileFiles:
    """The files under one log's folder. Every fault is an `IntegrityFault` that names log and file."""

    folder: Path
    origin: str

    def path(self, level: Level, number: int, width: int = _width) -> Path:
        """Where the first `width` of a tile are, or would be."""
        suffix = "" if width == _width else f".p/{width}"
        return self.folder / f"tile/{level}/{_number_path(number)}{suffix}"

    def read_bundle(self, number: int, width: int) -> list[bytes]:
        """The first `width` entries of a bundle."""
        path, wide, raw = self._read_tile("entries", number, width, _bundle_bytes_max)
        found = _decode_bundle(raw)
        if len(found) != wide or _encode_bundle(found) != raw:
            raise self.differs(path, f"{wide} entries", f"{len(found)}")
        return found[:width]

    def read_hashes(self, level: int, number: int, width: int) -> list[Digest]:
        """The first `width` hashes of a hash tile."""
        path, wide, raw = self._read_tile(level, number, width, 32 * _width)
        if len(raw) != 32 * wide:
            raise self.differs(path, f"{wide} hashes", f"{len(raw)} bytes")
        return [Digest(raw[at : at + 32]) for at in range(0, 32 * width, 32)]

    def read(self, path: Path, bytes_max: int) -> bytes:
        """Any file of the log."""
        try:
            return durable.read_limited(path, bytes_max)
        except (OSError, ValueError) as reason:
            raise self._unreadable(path, reason) from None

    def write_bundle(self, number: int, entries: Sequence[bytes]) -> None:
        """Write a bundle durably; it is full if it has 256 entries."""
        self._write(self.path("entries", number, len(entries)), _encode_bundle(entries))

    def write_hashes(self, level: int, number: int, hashes: Sequence[bytes]) -> None:
        """Write a hash tile durably; it is full if it has 256 hashes."""
        self._write(self.path(level, number, len(hashes)), b"".join(hashes))

    def remove_partial(self, full: Path) -> bool:
        """Remove the partial versions of a tile that is full; a reader finds the full one. Whether there were any."""
        partial = full.with_name(f"{full.name}.p")
        found = os.path.lexists(partial)
        if found:
            durable.remove_tree(partial)
        return found

    def differs(self, path: Path, expected: str, found: str = "something else") -> IntegrityFault:
        """What to raise where a file does not hold what it must."""
        return IntegrityFault(
            f"chain {self.origin}: expected {expected} in {path}, found {found}", detail={"file": str(path)}
        )

    def _read_tile(self, level: Level, number: int, width: int, bytes_max: int) -> tuple[Path, int, bytes]:
        """The file that holds the first `width` of a tile, how many it holds, and its bytes.

        A commit beside us replaces partial tiles by the full one, which begins with the same.
        """
        path, full = self.path(level, number, width), self.path(level, number)
        try:
            return path, width, durable.read_limited(path, bytes_max)
        except FileNotFoundError as reason:
            if full.exists():
                return full, _width, self.read(full, bytes_max)
            raise self._unreadable(path, reason) from None
        except (OSError, ValueError) as reason:
            raise self._unreadable(path, reason) from None

    def _write(self, path: Path, data: bytes) -> None:
        durable.make_folder(path.parent, within=self.folder.parent)
        durable.write_file(path, data)

    def _unreadable(self, path: Path, reason: Exception) -> IntegrityFault:
        return IntegrityFault(
            f"chain {self.origin}: expected to read {path}, found {reason}", detail={"file": str(path)}
        )


def _number_path(number: int) -> str:
    """Three digits a folder, all but the last with `x` before them: 1234067 is x001/x234/067."""
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
