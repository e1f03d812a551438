"""The file format of an archive: three chains in one file, read as a stream with a limit before every allocation.

`blyan archive v1` and a line feed, then one zstd frame (`chain/zstd_frame`) of: u32 LE header length ‖
header (canonical JSON) ‖ the snapshot's bytes, if any ‖ the entries of meta, parameter, dataset, each u16 BE length ‖
bytes; then a last line that says the file is whole. The header holds the joint checkpoint, the three notes, the first
entry of each chain and the right edge before it. What the bytes must say is for `chain/archive` to check. See
docs/spec/archive.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import zstandard

from blyan.chain.entries import ChainName, chain_names
from blyan.chain.joint import JointCheckpoint, parse_joint
from blyan.chain.merkle import RightEdge
from blyan.chain.zstd_frame import OneFrame, frame_parameters, window_bytes
from blyan.primitives import canonical, limits
from blyan.primitives.errors import IntegrityFault, InvalidInput
from blyan.primitives.ids import Digest, parse_hex64

magic: Final = b"blyan archive v1\n"
end_line: Final = b"\nblyan archive end\n"

_chunk_bytes: Final = 1 << 20
_levels_max: Final = 5  # 256^5 leaves is the longest chain
_fields: Final = frozenset({"v", "joint", "notes", "first", "edges", "snapshot_bytes"})

assert 256**_levels_max >= limits.chain_size_max


@dataclass(frozen=True, slots=True)
class ArchiveHeader:
    """What an archive says of itself before its entries."""

    joint: bytes
    notes: Mapping[ChainName, bytes]
    edges: Mapping[ChainName, RightEdge]  # before the first entry that it holds
    snapshot_length: int  # bytes; 0: none

    @property
    def first(self) -> dict[ChainName, int]:
        """Number of the first entry of each chain."""
        return {name: edge.size for name, edge in self.edges.items()}

    def encode(self) -> bytes:
        """Canonical bytes."""
        value: dict[str, canonical.Canonical] = {
            "v": 1,
            "joint": self.joint.decode("utf-8"),
            "notes": {name: note.decode("utf-8") for name, note in self.notes.items()},
            "first": {name: edge.size for name, edge in self.edges.items()},
            "edges": {name: [[h.hex() for h in level] for level in edge.edges] for name, edge in self.edges.items()},
            "snapshot_bytes": self.snapshot_length,
        }
        return canonical.encode(value)


def write_archive(
    file: BinaryIO, header: ArchiveHeader, snapshot: Iterable[bytes | memoryview], entries: Iterable[bytes]
) -> None:
    """Write all of an archive to an open file; `entries` are those of meta, then parameter, then dataset."""
    raw = header.encode()
    assert len(raw) <= limits.archive_header_bytes_max, "edges and notes are bounded"
    file.write(magic)
    with zstandard.ZstdCompressor(compression_params=frame_parameters).stream_writer(file, closefd=False) as stream:
        stream.write(len(raw).to_bytes(4, "little") + raw)
        for chunk in snapshot:
            stream.write(chunk)
        for entry in entries:
            stream.write(len(entry).to_bytes(2, "big") + entry)
    file.write(end_line)


class ArchiveReader:
    """An open archive: the header at once, then snapshot and entries in their order, each read once."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        """Read magic and header; `IntegrityFault` names `path` where it is no archive of this version."""
        self._path = path
        begins = file.read(len(magic)) == magic
        length = file.seek(0, os.SEEK_END) - len(magic) - len(end_line)
        if not begins or length <= 0:
            raise self._broken("expected a Blyan archive of version 1, found another beginning")
        file.seek(-len(end_line), os.SEEK_END)
        if file.read() != end_line:
            raise self._broken("expected its last line, found it cut short or gone on")
        file.seek(len(magic))
        self._frame = OneFrame(file, length)
        decompressor = zstandard.ZstdDecompressor(max_window_size=window_bytes)
        self._stream = decompressor.stream_reader(cast("BinaryIO", self._frame), read_size=_chunk_bytes, closefd=False)
        length = int.from_bytes(self._read(4), "little")
        if not 0 < length <= limits.archive_header_bytes_max:
            raise self._broken(f"header: expected at most {limits.archive_header_bytes_max} bytes, found {length}")
        try:
            self.header = parse_header(self._read(length))
            self.joint = parse_joint(self.header.joint, path)
            _check_sizes(self.header, self.joint)
        except InvalidInput as reason:
            raise self._broken(reason.message) from None

    def snapshot(self) -> Iterator[bytes]:
        """The snapshot's bytes in chunks."""
        left = self.header.snapshot_length
        while left:
            yield self._read(min(left, _chunk_bytes))
            left -= min(left, _chunk_bytes)

    def entries(self, name: ChainName) -> Iterator[bytes]:
        """The entries of one chain; call it for meta, parameter, dataset, and read each to its end."""
        for _ in range(self.header.first[name], self.joint.heads[name].size):
            length = int.from_bytes(self._read(2), "big")
            if not 0 < length <= limits.entry_bytes_max:
                raise self._broken(f"entry: expected 1 to {limits.entry_bytes_max} bytes, found {length}")
            yield self._read(length)

    def end(self) -> None:
        """`IntegrityFault` unless this is the end of the content and of the frame."""
        if self._some(1):
            raise self._broken("expected its end after the last entry, found more")
        try:
            self._frame.end()
        except InvalidInput as reason:
            raise self._broken(reason.message) from None

    def _read(self, count: int) -> bytes:
        parts: list[bytes] = []
        while count:
            part = self._some(count)
            if not part:
                raise self._broken(f"expected {count} more bytes, found its end")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _some(self, count: int) -> bytes:
        try:
            return self._stream.read(count)
        except zstandard.ZstdError as reason:
            raise self._broken(f"expected a zstd frame, found {reason}") from None
        except InvalidInput as reason:
            raise self._broken(reason.message) from None

    def _broken(self, why: str) -> IntegrityFault:
        return IntegrityFault(f"archive {self._path}: {why}", detail={"file": str(self._path)})


def parse_header(raw: bytes) -> ArchiveHeader:
    """Read a header; `InvalidInput` says what was expected and found."""
    value = cast("dict[str, Any]", canonical.decode_object(raw, bytes_max=limits.archive_header_bytes_max))
    if value.keys() != _fields or value["v"] != 1 or type(value["v"]) is not int:
        raise InvalidInput(f"header: expected version 1 with fields {sorted(_fields)}, found {sorted(value)}")
    first, edges = _by_chain(value["first"], "first"), _by_chain(value["edges"], "edges")
    given = _by_chain(value["notes"], "notes")
    notes: dict[ChainName, bytes] = {name: _text(given[name], limits.checkpoint_bytes_max, "note") for name in given}
    length = value["snapshot_bytes"]
    if type(length) is not int or not 0 <= length <= limits.payload_bytes_max:
        raise InvalidInput(f"snapshot_bytes: expected 0 to {limits.payload_bytes_max}, found {length!r}")
    return ArchiveHeader(
        joint=_text(value["joint"], limits.joint_bytes_max, "joint"),
        notes=notes,
        edges={name: _parse_edge(first[name], edges[name]) for name in chain_names},
        snapshot_length=length,
    )


def _check_sizes(header: ArchiveHeader, joint: JointCheckpoint) -> None:
    for name, first in header.first.items():
        known = joint.state.sizes[name] if header.snapshot_length and joint.state else 0
        if first > known:
            raise InvalidInput(f"first entry of chain {name}: expected at most {known}, found {first}")
    expected = joint.state.length if joint.state and header.snapshot_length else 0
    if header.snapshot_length != expected:
        raise InvalidInput(f"snapshot: expected {expected} bytes, found {header.snapshot_length}")


def _parse_edge(first: object, value: object) -> RightEdge:
    """The unfinished tiles at `first`, a multiple of 256: as many hashes at each level as that size has."""
    if type(first) is not int or not 0 <= first <= limits.chain_size_max or first % limits.log_tile_width:
        raise InvalidInput(f"first: expected a multiple of {limits.log_tile_width}, found {first!r}")
    if not isinstance(value, list) or len(cast("list[Any]", value)) > _levels_max:
        raise InvalidInput(f"edge: expected a list of at most {_levels_max} levels")
    edges: list[list[Digest]] = []
    for level, hashes in enumerate(cast("list[Any]", value)):
        width = (first >> (8 * level)) % limits.log_tile_width
        if not isinstance(hashes, list) or len(cast("list[Any]", hashes)) != width:
            raise InvalidInput(f"edge: expected {width} hashes at level {level}")
        edges.append([Digest(bytes.fromhex(parse_hex64(each, "hash"))) for each in cast("list[Any]", hashes)])
    if not edges or first >> (8 * len(edges)):
        raise InvalidInput(f"edge: expected every level of size {first}, found {len(edges)}")
    return RightEdge(first, edges)


def _by_chain(value: object, what: str) -> dict[ChainName, Any]:
    if not isinstance(value, dict) or cast("dict[str, Any]", value).keys() != set(chain_names):
        raise InvalidInput(f"{what}: expected fields {sorted(chain_names)}")
    given = cast("dict[str, Any]", value)
    return {name: given[name] for name in chain_names}


def _text(value: object, bytes_max: int, what: str) -> bytes:
    if not isinstance(value, str) or len(value) > bytes_max or len(raw := value.encode()) > bytes_max:
        raise InvalidInput(f"{what}: expected text of at most {bytes_max} bytes")
    return raw
