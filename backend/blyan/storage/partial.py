"""Payloads on their way in: verified subtile by subtile, from any source in any order, resumable after a crash.

Under `blobs/partial/`: `<payload_id>` (allocated in full, so that a full disk is found at the beginning), its tile
index `<payload_id>.tiles`, and `<payload_id>.have`: which subtiles are here. Order of `sync`: (1) data durable, (2) a
new `.have` in one rename. So a bit is set only for bytes that were verified and are durable; a crash loses at most what
came since the last `sync`. `finish` hashes all of it again from the disk before it becomes a blob.
"""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

from blyan.primitives import limits
from blyan.primitives.digest import Bytes, digest_bytes, hash_partial, hash_subtile
from blyan.primitives.errors import IntegrityFault, InvalidInput, Unavailable
from blyan.primitives.ids import PayloadId
from blyan.storage import durable
from blyan.storage.tile import TileIndex, subtile_slice

folder_name: Final = "partial"
index_suffix: Final = ".tiles"
have_suffix: Final = ".have"
_magic: Final = b"BLYHAVE1"
_mode: Final = 0o600
_stored_mode: Final = 0o444


class BeingFetched(Unavailable):
    """Another thread or process takes that payload in just now."""


class Home(Protocol):
    """The store that a payload comes into."""

    def publish(self, payload: PayloadId, blob: Path, index: Path) -> None:
        """Give the blob and its index their names."""
        ...

    def counting(self, *paths: Path) -> AbstractContextManager[None]:
        """Count what comes and goes at `paths`."""
        ...


def paths(folder: Path, payload: PayloadId) -> tuple[Path, Path, Path]:
    """Where the data, the tile index and the record of a payload on its way in are, or would be."""
    return folder / payload, folder / f"{payload}{index_suffix}", folder / f"{payload}{have_suffix}"


def bytes_of(index: TileIndex) -> int:
    """What a payload takes on its way in: all three files, from the beginning."""
    have_bytes = len(_magic) + digest_bytes + 8 + _bitmap_bytes(index.length) + digest_bytes
    return index.length + digest_bytes * len(index.leaves) + have_bytes


class PartialBlob:
    """One payload of which some subtiles are here; `close` it in the end.

    Threads may `write`, also while one other does `sync`; everything else is for one thread, while nobody writes.
    """

    def __init__(self, folder: Path, payload: PayloadId, index: TileIndex, home: Home) -> None:
        """Begin, or resume what an earlier process left; steps: (1) tile index, (2) allocated data, (3) `.have`.

        `BeingFetched` while another thread or process has it. `OSError` as the disk gives it, ENOSPC where there is
        no room for the whole payload.
        """
        self.payload = payload
        self.index = index
        self._folder = folder
        self._home = home
        self._have = bytearray(_bitmap_bytes(index.length))
        self._changed = False
        self._marking = threading.Lock()  # held while bits change and while they are copied
        durable.make_folder(folder, within=folder.parent)
        if self._path("").is_symlink() and self._recorded() is None:
            durable.discard(self._path(""))
        try:
            self._handle = self._opened()
        except BlockingIOError:
            raise BeingFetched(f"payload {payload}: expected nobody else fetching it, found somebody") from None
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _opened(self) -> int:
        try:
            return durable.open_alone(self._path(""))
        except PermissionError:  # left in the middle of `finish`: read-only, and not yet a blob
            durable.regain(self._path(""), _mode)
            return durable.open_alone(self._path(""))

    def _prepare(self) -> None:
        durable.write_file(self._path(index_suffix), self.index.encode(), _mode)
        have = self._recorded()
        if have is not None:
            self._have = bytearray(have)
        durable.allocate(self._handle, self._path(""), self.length, fresh=have is None)
        if have is None:
            self._write_have(self._have)

    def _recorded(self) -> bytes | None:
        """Which subtiles are here; None where nothing vouches for what the data may be."""
        try:
            return read_have(self._path(have_suffix), self.payload, self.length)
        except (OSError, ValueError, IntegrityFault):
            return None

    @property
    def length(self) -> int:
        """Bytes of the whole payload."""
        return self.index.length

    def missing(self) -> list[int]:
        """Numbers of the subtiles that are not here yet."""
        return [number for number in range(len(self.index.leaves)) if not self._has(number)]

    def write(self, number: int, data: Bytes) -> None:
        """Take one subtile; `IntegrityFault` names it if the bytes are others, and nothing has changed."""
        if not 0 <= number < len(self.index.leaves):
            raise InvalidInput(f"subtile: expected 0 to {len(self.index.leaves) - 1}, found {number}")
        place = subtile_slice(number)
        expected = min(place.stop, self.length) - place.start
        if len(data) != expected:
            raise IntegrityFault(f"subtile {number} of {self.payload}: expected {expected} bytes, found {len(data)}")
        found = hash_subtile(data)
        if found != self.index.leaves[number]:
            raise IntegrityFault(
                f"subtile {number} of {self.payload}: expected leaf {self.index.leaves[number].hex()}, "
                f"computed {found.hex()}",
                detail={"payload": self.payload, "bad_subtiles": [number]},
            )
        durable.write_at(self._handle, data, place.start)
        with self._marking:
            self._have[number // 8] |= 1 << number % 8
            self._changed = True

    def sync(self) -> None:
        """Make durable what was written, then say so in `.have`."""
        with self._marking:
            changed, have = self._changed, bytes(self._have)
            self._changed = False
        if changed:
            try:
                durable.sync(self._handle)  # of what `have` says, and perhaps of more
                self._write_have(have)
            except BaseException:
                self._changed = True
                raise

    def finish(self) -> None:
        """Hash everything once more from the disk and make it a blob.

        `InvalidInput` if subtiles are missing; `IntegrityFault` names those that the disk gave back otherwise, which
        are missing from then on. Steps: (1) data and `.have` durable, (2) the blob's tile index, (3) blob renamed,
        (4) `.have` and our index gone.
        """
        missing = self.missing()
        if missing:
            raise InvalidInput(f"payload {self.payload}: expected every subtile, found {len(missing)} missing")
        self.sync()
        bad = [number for number in range(len(self.index.leaves)) if not self._is_whole(number)]
        if bad:
            for number in bad:
                self._have[number // 8] &= ~(1 << number % 8)
            self._write_have(self._have)
            raise IntegrityFault(
                f"payload {self.payload}: expected the subtiles that were written, found others at {bad[:8]}",
                detail={"payload": self.payload, "file": str(self._path("")), "bad_subtiles": bad},
            )
        os.fchmod(self._handle, _stored_mode)
        durable.sync(self._handle)
        name = self.payload + index_suffix
        with durable.writing(self._folder, name, _stored_mode) as file:
            file.write(self.index.encode())
        with self._home.counting(*paths(self._folder, self.payload)):
            self._home.publish(self.payload, self._path(""), durable.temporary_path(self._folder, name))
            self.close()
            for suffix in (have_suffix, index_suffix):
                durable.remove(self._path(suffix))

    def abandon(self) -> None:
        """Remove what is here."""
        with self._home.counting(*paths(self._folder, self.payload)):
            for suffix in (have_suffix, index_suffix, ""):  # the data last: whoever can open that has it
                durable.remove(self._path(suffix))
            self.close()

    def close(self) -> None:
        """Let go of the file; what was synced stays for the next `begin`."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _path(self, suffix: str) -> Path:
        return self._folder / f"{self.payload}{suffix}"

    def _has(self, number: int) -> bool:
        return bool(self._have[number // 8] >> number % 8 & 1)

    def _is_whole(self, number: int) -> bool:
        place = subtile_slice(number)
        return hash_subtile(os.pread(self._handle, limits.subtile_bytes, place.start)) == self.index.leaves[number]

    def _write_have(self, have: Bytes) -> None:
        body = _magic + bytes.fromhex(self.payload) + self.length.to_bytes(8, "little") + have
        durable.write_file(self._path(have_suffix), body + hash_partial(body), _mode)


def sweep_partials(folder: Path) -> None:
    """Remove what a crash left: temporary files, and records of payloads whose data has become a blob or never came."""
    durable.sweep(folder, within=folder.parent)
    for path in folder.glob("*"):
        if path.suffix in (have_suffix, index_suffix) and not path.with_suffix("").exists():
            durable.discard(path)


def read_have(path: Path, payload: PayloadId, length: int | None) -> bytes:
    """The bitmap of a `.have` file, bit n of it for subtile n; `IntegrityFault` names the file if it is no such."""
    head = len(_magic) + digest_bytes + 8
    raw = durable.read_limited(path, head + limits.payload_bytes_max // limits.subtile_bytes // 8 + 1 + digest_bytes)
    body, checksum = raw[:-digest_bytes], raw[-digest_bytes:]
    said = int.from_bytes(body[head - 8 : head], "little")
    whole = (
        len(body) >= head
        and hash_partial(body) == checksum
        and body[: head - 8] == _magic + bytes.fromhex(payload)
        and length in (None, said)
        and len(body) - head == _bitmap_bytes(said)
    )
    if not whole:
        raise IntegrityFault(
            f"unfinished payload {payload}: expected the record of its subtiles in {path}, found something else",
            detail={"payload": payload, "file": str(path)},
            hint="remove it: what it speaks of is fetched again",
        )
    return body[head:]


def _bitmap_bytes(length: int) -> int:
    subtiles = -(-length // limits.subtile_bytes)
    return -(-subtiles // 8)


def check_partial(folder: Path, payload: PayloadId) -> None:
    """Raise `IntegrityFault` unless `.have`, tile index and every subtile that it claims are what they should be."""
    have_path, data_path = folder / f"{payload}{have_suffix}", folder / f"{payload}"
    try:
        length = data_path.stat(follow_symlinks=False).st_size
        have = read_have(have_path, payload, length)
        count = -(-length // limits.subtile_bytes)
        index_path = folder / f"{payload}{index_suffix}"
        raw = durable.read_limited(index_path, digest_bytes * count)
        try:
            index = TileIndex.decode(raw, length, payload)
        except IntegrityFault as reason:
            raise IntegrityFault(f"{reason.message} in {index_path}", detail={"file": str(index_path)}) from None
        handle = os.open(data_path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (OSError, ValueError) as reason:
        raise IntegrityFault(
            f"unfinished payload {payload}: expected its files in {folder}, found {reason}",
            detail={"payload": payload, "file": str(data_path)},
        ) from None
    try:
        bad = [
            number
            for number in range(count)
            if have[number // 8] >> number % 8 & 1
            and hash_subtile(os.pread(handle, limits.subtile_bytes, number * limits.subtile_bytes))
            != index.leaves[number]
        ]
    finally:
        os.close(handle)
    if bad:
        raise IntegrityFault(
            f"unfinished payload {payload}: expected the subtiles that {have_path} claims, found others at {bad[:8]}",
            detail={"payload": payload, "file": str(data_path), "bad_subtiles": bad},
        )
