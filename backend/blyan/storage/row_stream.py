"""Rows of matrices out of a payload of any size, verified, in a few buffers that a thread fills ahead of who computes.

Subtiles and rows do not end at the same bytes. The reader reads whole subtiles, each exactly once per matrix: what a
block's last subtile holds of the next block's rows is carried over. The order of blocks is known beforehand, so the
kernel is told of a block while the one before it is being hashed.

Who may compute with what: a block's views are valid until the next block is asked for; then its buffer is filled anew.
"""

from __future__ import annotations

import mmap
import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final, TypeAlias

from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.storage.blob_reader import BlobReader

_subtile: Final = limits.subtile_bytes
_rows_multiple: Final = 16  # rows of a block, where there are more: products of odd sizes take slower kernels


@dataclass(frozen=True, slots=True)
class Table:
    """A matrix within a payload: rows of equal length without gaps."""

    offset: int  # bytes from the start of the payload
    row_bytes: int
    rows: int


Group: TypeAlias = Sequence[Table]  # of equally many rows, which are wanted together: a matrix and its scales


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Some rows of each table of a group, verified."""

    group: int
    rows: slice
    pieces: tuple[memoryview, ...]  # one per table: the bytes of exactly these rows


@dataclass(frozen=True, slots=True)
class _Wanted:
    group: int
    begin: int  # rows
    end: int


def rows_at_once(row_bytes: int) -> int:
    """How many rows of `row_bytes` (of all tables of a group together) make a block: what fits a tile, at least one."""
    fitting = limits.tile_bytes // row_bytes
    return max(1, fitting if fitting < _rows_multiple else fitting - fitting % _rows_multiple)


class Ring:
    """The buffers and the thread of one stream at a time; both are kept for the next. `close` ends the thread."""

    def __init__(self, monotonic: Monotonic) -> None:
        self._monotonic = monotonic
        self._buffers: list[memoryview] = []
        self._taken = threading.Lock()  # held while a stream runs: memory is that of one, however many callers wait
        self.bytes_read = 0
        self.wait_seconds = 0.0  # in which callers had nothing to compute with

    @property
    def buffer_bytes(self) -> int:
        """What the buffers take of memory."""
        return sum(map(len, self._buffers))

    @contextmanager
    def stream(
        self, reader: BlobReader, groups: Sequence[Group], *, keep_cached: bool
    ) -> Generator[Iterator[RowBlock], None, None]:
        """Every row of every group in order, block by block; a fault comes where the rows would have come.

        Without `keep_cached` the page cache is told to forget what was read, so that a large expert does not push out
        everything else. `BlockCorrupt` from the iterator names file and subtile.
        """
        with self._taken:
            run = _Run(reader, groups, self._buffers_of(_buffer_bytes(groups)), keep_cached, self._monotonic)
            work = self._executor.submit(run.fill_all)
            try:
                yield run.blocks()
            finally:
                run.stop(work)
                self.bytes_read += run.bytes_read
                self.wait_seconds += run.wait_seconds

    def load(self, reader: BlobReader, into: memoryview, *, keep_cached: bool) -> None:
        """The whole payload, verified where it lies, tile by tile on two threads."""
        starts = range(0, len(into), limits.tile_bytes)

        def load_some(first: int) -> None:
            for begin in starts[first::2]:
                part = into[begin : begin + limits.tile_bytes]
                reader.read(part, begin // _subtile)
                if not keep_cached:
                    reader.let_go(begin, len(part))

        with self._taken:
            began = self._monotonic()
            other = self._executor.submit(load_some, 1)
            try:
                load_some(0)
            finally:
                other.result()
                self.wait_seconds += self._monotonic() - began
            self.bytes_read += len(into)

    def close(self) -> None:
        """End the thread; no stream may run."""
        with self._taken:
            self._executor.shutdown()

    @cached_property
    def _executor(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, "blyan-read-ahead")

    def _buffers_of(self, size: int) -> list[memoryview]:
        if not self._buffers or len(self._buffers[0]) < size:
            self._buffers = []  # let go of before more is taken
            self._buffers = [memoryview(mmap.mmap(-1, size)) for _ in range(limits.stream_buffers)]
        return self._buffers


class _Run:
    """One pass over the groups: `fill_all` in the reading thread, `blocks` in the computing one."""

    def __init__(
        self,
        reader: BlobReader,
        groups: Sequence[Group],
        buffers: Sequence[memoryview],
        keep_cached: bool,
        monotonic: Monotonic,
    ) -> None:
        self._reader = reader
        self._groups = groups
        self._keep_cached = keep_cached
        self._monotonic = monotonic
        self._free: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()  # None: stop
        self._filled: queue.SimpleQueue[tuple[memoryview, RowBlock] | BaseException | None] = queue.SimpleQueue()
        self._cursors = [[_Cursor(reader, table) for table in group] for group in groups]
        for buffer in buffers:
            self._free.put(buffer)
        self.bytes_read = 0
        self.wait_seconds = 0.0

    def blocks(self) -> Iterator[RowBlock]:
        """Each block once it is verified; what was wrong instead of the block where it was found."""
        while True:
            began = self._monotonic()
            found = self._filled.get()  # the reading thread always puts an end or a fault
            self.wait_seconds += self._monotonic() - began
            if found is None:
                return
            if isinstance(found, BaseException):
                raise found
            buffer, block = found
            yield block
            self._free.put(buffer)

    def stop(self, work: Future[None]) -> None:
        """End the reading thread's work on this run, however far it is."""
        with suppress(queue.Empty):  # so that it meets the None before another buffer
            while True:
                self._free.get_nowait()  # it takes buffers meanwhile, so that none may be left to wait for
        self._free.put(None)
        work.result()

    def fill_all(self) -> None:
        """Fill buffers as they come free, to the end, the first fault, or `stop`."""
        try:
            wanted = list(self._wanted())
            for now, following in pairwise([*wanted, None]):
                assert now is not None
                buffer = self._free.get()
                if buffer is None:
                    return
                if following is not None:
                    self._announce(following)
                self._filled.put((buffer, self._fill(buffer, now)))
            self._filled.put(None)
        except BaseException as reason:  # noqa: BLE001 - thread boundary: raised again where the rows are waited for
            self._filled.put(reason)

    def _wanted(self) -> Iterator[_Wanted]:
        for number, group in enumerate(self._groups):
            step, rows = rows_at_once(_row_bytes(group)), group[0].rows
            for begin in range(0, rows, step):
                yield _Wanted(number, begin, min(begin + step, rows))

    def _announce(self, wanted: _Wanted) -> None:
        for table in self._groups[wanted.group]:
            begin = table.offset + wanted.begin * table.row_bytes
            self._reader.will_read(begin, (wanted.end - wanted.begin) * table.row_bytes)

    def _fill(self, buffer: memoryview, wanted: _Wanted) -> RowBlock:
        pieces: list[memoryview] = []
        for cursor in self._cursors[wanted.group]:
            begun, piece, taken = cursor.fill(buffer, wanted.begin, wanted.end)
            pieces.append(piece)
            buffer = buffer[taken:]
            length = max(cursor.verified_to - begun, 0)
            self.bytes_read += length
            if length and not self._keep_cached:
                self._reader.let_go(begun, length)
        return RowBlock(wanted.group, slice(wanted.begin, wanted.end), tuple(pieces))


class _Cursor:
    """How far one table was read, and the last subtile, which the next rows may begin in."""

    def __init__(self, reader: BlobReader, table: Table) -> None:
        self._reader = reader
        self._table = table
        self._carried = b""  # the verified subtile that ends at `verified_to`
        self.verified_to = 0  # bytes of the payload

    def fill(self, buffer: memoryview, begin: int, end: int) -> tuple[int, memoryview, int]:
        """Put rows `begin` to `end` into `buffer`: where reading began, the rows' bytes, and what they take of it.

        File and buffer are congruent modulo a subtile, so tensors keep the alignment that they have in the file.
        """
        first = self._table.offset + begin * self._table.row_bytes
        last = self._table.offset + end * self._table.row_bytes
        base = first - first % _subtile
        stop = min(-(-last // _subtile) * _subtile, self._reader.length)
        read_from = base
        if self._carried and self.verified_to > base:
            buffer[: len(self._carried)] = self._carried
            read_from = self.verified_to
        if read_from < stop:
            self._reader.read(buffer[read_from - base : stop - base], read_from // _subtile)
            self.verified_to = stop
            tail = (stop - 1) // _subtile * _subtile
            self._carried = bytes(buffer[tail - base : stop - base])
        return read_from, buffer[first - base : last - base], -(-(stop - base) // _subtile) * _subtile


def _row_bytes(group: Group) -> int:
    return sum(table.row_bytes for table in group)


def _buffer_bytes(groups: Sequence[Group]) -> int:
    """What the largest block takes: its rows, and per table up to two subtiles that are not all its own."""
    return max(
        sum(
            (-(-min(rows_at_once(_row_bytes(group)), table.rows) * table.row_bytes // _subtile) + 2) * _subtile
            for table in group
        )
        for group in groups
    )
