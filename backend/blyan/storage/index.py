"""A RocksDB index of chain entries: by id, by position, by (model, layer, expert), by author. Derived, never trusted.

Rows say where in the logs to look, nothing else; whoever reads one looks there. What the index has applied of each
chain stands in the same write batch as the rows, so that after a crash it is behind at worst. Anything that RocksDB
finds wrong with its files is `IndexDamaged`: the index is thrown away and made again from the logs (`node/indexing`).
See docs/spec/index.md for the keys.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from rocksdict import AccessType, DBRecoveryMode, Options, Rdict, WriteBatch

from blyan.primitives import limits
from blyan.primitives.errors import IntegrityFault

_by_id: Final = b"i"
_by_position: Final = b"p"
_by_model: Final = b"m"
_by_author: Final = b"a"
_applied: Final = b"s"
_version: Final = b"v"
_layout: Final = b"2"
_number_bytes: Final = 8  # of a layer, an expert, a position
_place_bytes: Final = 1 + _number_bytes
_absent: Final = (1 << 64) - 1  # in place of a layer or expert that an entry does not name


class IndexDamaged(IntegrityFault):
    """The index does not open or read; it is derived, so it is made again."""

    code = "index_damaged"


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry stands: the number of its chain, and its number in it."""

    chain: int
    position: int

    def encode(self) -> bytes:
        """Nine bytes in the order of chains and positions."""
        return bytes([self.chain]) + self.position.to_bytes(8, "big")


@dataclass(frozen=True, slots=True)
class Row:
    """What the index knows of one entry."""

    place: Place
    identity: bytes  # 32 bytes, the leaf hash
    author: bytes  # 32 bytes
    model: str | None
    layer: int | None
    expert: int | None

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values that stand for it."""
        place = self.place.encode()
        yield _by_id + self.identity, place
        yield _by_position + place, self.identity
        yield _by_author + self.author + place, b""
        if self.model is not None:
            yield _model_prefix(self.model, self.layer, self.expert, whole=True) + place, b""


@dataclass(frozen=True, slots=True)
class Applied:
    """How much of one chain the index holds: its first `size` entries from `first` on, whose tree hash is `root`."""

    first: int
    size: int
    root: bytes


class EntryIndex:
    """An open index. One process writes; others read beside it what it had written when they opened."""

    def __init__(self, folder: Path, *, writable: bool) -> None:
        """Open or, to write, make it; `IndexDamaged` if what is there is no index."""
        self.folder = folder
        with _native(folder):
            access = AccessType.read_write() if writable else AccessType.read_only(False)
            self._rows: Any = Rdict(str(folder), _options(), access_type=access)  # raw mode: bytes in and out
            if writable and self._rows.get(_version) is None:
                self._rows.put(_version, _layout)
            found = self._rows.get(_version)
        if found != _layout:
            self.close()
            raise IndexDamaged(f"index {folder}: expected layout {_layout!r}, found {found!r}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _v: BaseException | None, _t: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        with _native(self.folder):
            self._rows.close()

    def applied(self, chain: int) -> Applied | None:
        """How much of a chain is here; none of one that was never applied."""
        with _native(self.folder):
            raw = self._rows.get(_applied + bytes([chain]))
        if raw is None:
            return None
        if len(raw) != 48:
            raise IndexDamaged(f"index {self.folder}: expected 48 bytes about chain {chain}, found {len(raw)}")
        return Applied(int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:16], "big"), raw[16:])

    def apply(self, rows: Iterable[Row], chain: int, applied: Applied) -> None:
        """Add rows of one chain and say how far it goes now, in one batch."""
        batch = WriteBatch(raw_mode=True)
        for row in rows:
            for key, value in row.pairs():
                batch.put(key, value)
        said = applied.first.to_bytes(8, "big") + applied.size.to_bytes(8, "big") + applied.root
        batch.put(_applied + bytes([chain]), said)
        with _native(self.folder):
            self._rows.write(batch)

    def flush(self) -> None:
        """Make everything durable, so that the next start has less to catch up with."""
        with _native(self.folder):
            self._rows.flush()

    def place_of(self, identity: bytes) -> Place | None:
        """Where the entry of that id stands, as far as the index knows."""
        with _native(self.folder):
            return self._place(self._rows.get(_by_id + identity))

    def by_model(self, model: str, layer: int | None, expert: int | None) -> Iterator[Place]:
        """Places of entries about a model, one of its layers, or its experts of one number, in no particular order."""
        whole = _model_prefix(model, None, None)
        for key in self._keys(_model_prefix(model, layer, expert if layer is not None else None)):
            number = key[len(whole) + _number_bytes : len(whole) + 2 * _number_bytes]
            if expert is None or int.from_bytes(number, "big") == expert:
                yield self._place_in(key)

    def by_author(self, author: bytes, chain: int) -> Iterator[Place]:
        """Places of entries by an author in one chain, rising."""
        return (self._place_in(key) for key in self._keys(_by_author + author + bytes([chain])))

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """Every key and value that stands for an entry, in order of keys."""
        for key, value in self._walk(b""):
            if key[:1] in (_by_id, _by_position, _by_model, _by_author):
                yield key, value

    def get(self, key: bytes) -> bytes | None:
        """The value of a key as `Row.pairs` gives them."""
        with _native(self.folder):
            return self._rows.get(key)

    def _keys(self, prefix: bytes) -> Iterator[bytes]:
        for key, _ in self._walk(prefix):
            if not key.startswith(prefix):
                return
            yield key

    def _walk(self, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values from `start` on. An iterator that meets damage only stops, so its status is asked for."""
        with _native(self.folder):
            at = self._rows.iter()
            at.seek(start)
            while at.valid():
                yield bytes(at.key()), bytes(at.value())
                at.next()
            at.status()

    def _place(self, raw: bytes | None) -> Place | None:
        if raw is None:
            return None
        if len(raw) != _place_bytes:
            raise IndexDamaged(f"index {self.folder}: expected a place of {_place_bytes} bytes, found {len(raw)}")
        return Place(raw[0], int.from_bytes(raw[1:], "big"))

    def _place_in(self, key: bytes) -> Place:
        """The place that ends a key."""
        place = self._place(key[-_place_bytes:])
        assert place is not None
        return place


def _model_prefix(model: str, layer: int | None, expert: int | None, *, whole: bool = False) -> bytes:
    """The beginning of the keys of a model, ended by zero; a `whole` one says absent layers and experts too."""
    prefix = _by_model + model.encode("ascii", "strict") + b"\0"
    for number in (layer, expert):
        if number is None and not whole:
            break
        prefix += (_absent if number is None else number).to_bytes(_number_bytes, "big")
    return prefix


def _options() -> Options:
    """For a laptop: little memory, few files, no storm of threads; and nothing damaged is passed over."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_paranoid_checks(True)
    options.set_wal_recovery_mode(DBRecoveryMode.absolute_consistency())
    options.set_max_open_files(limits.index_files_max)
    options.set_write_buffer_size(8 * limits.MIB)
    options.set_max_total_wal_size(32 * limits.MIB)
    options.set_max_background_jobs(2)
    options.set_keep_log_file_num(1)
    options.set_max_log_file_size(limits.MIB)
    return options


@contextmanager
def _native(folder: Path) -> Generator[None, None, None]:
    """Turn what RocksDB raises into `IndexDamaged`."""
    try:
        yield
    except IndexDamaged:
        raise
    except Exception as reason:  # noqa: BLE001 - boundary of a native library that raises nothing narrower
        raise IndexDamaged(
            f"index {folder}: expected RocksDB to open and read it, found {reason}",
            detail={"file": str(folder)},
            hint="`blyan db rebuild` makes it again from the chains",
        ) from None
