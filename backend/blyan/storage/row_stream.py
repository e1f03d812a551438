"""Rows of matrices out of a payload of any size, verified, in a few buffers that threads fill ahead of who computes.

Subtiles and rows do not end at the same bytes. Whole subtiles are read, each exactly once per matrix: what a block's
last subtile holds of the next block's rows is carried over. All is laid out beforehand (`_laid`), in pieces of some
subtiles: several threads take one after the other, so that the disk works for one while another hashes. The kernel
sees one file read from its beginning to its end and reads ahead by itself, in large pages.

Who may compute with what: a block's views are valid until the next block is asked for; then its buffer is filled anew.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeAlias

from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.storage.blob_reader import BlobReader

_subtile: Final = limits.subtile_bytes
_piece: Final = 4 * _subtile  # what a thread reads and hashes at once
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
class _Span:
    """A table's part of a block. File and buffer are congruent modulo a subtile, so tensors keep their alignment."""

    at: int  # bytes from the buffer's start, where `base` lies
    base: int  # bytes of the payload, as the others: where the first subtile begins
    read_from: int  # all before was read for the block before
    stop: int
    first: int  # of the rows
    last: int

    @property
    def tail(self) -> int:
        """Where the last subtile begins."""
        return (self.stop - 1) // _subtile * _subtile


@dataclass(frozen=True, slots=True)
class _Block:
    group: int
    rows: slice
    spans: tuple[_Span, ...]


@dataclass(frozen=True, slots=True)
class _Piece:
    block: int
    at: int  # bytes from the buffer's start
    begin: int  # bytes of the payload
    end: int


def rows_at_once(row_bytes: int) -> int:
    """How many rows of `row_bytes` (of all tables of a group together) make a block: what fits a tile, at least one."""
    fitting = limits.tile_bytes // row_bytes
    return max(1, fitting if fitting < _rows_multiple else fitting - fitting % _rows_multiple)


class Ring:
    """The buffers and the threads of one stream at a time; all are kept for the next. `close` ends the threads."""

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
            reader.read_in_order()
            run = _Run(reader, groups, self._buffers_of(_buffer_bytes(groups)), keep_cached, self._monotonic)
            work = [self._executor.submit(run.fill) for _ in range(limits.stream_readers)]
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
        """End the threads; no stream may run."""
        with self._taken:
            self._executor.shutdown()

    @cached_property
    def _executor(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(limits.stream_readers, "blyan-read-ahead")

    def _buffers_of(self, size: int) -> list[memoryview]:
        if not self._buffers or len(self._buffers[0]) < size:
            self._buffers = []  # let go of before more is taken
            self._buffers = [memoryview(mmap.mmap(-1, size)) for _ in range(limits.stream_buffers)]
        return self._buffers


class _Run:
    """One pass over the groups: `fill` in each reading thread, `blocks` in the computing one."""

    def __init__(
        self,
        reader: BlobReader,
        groups: Sequence[Group],
        buffers: Sequence[memoryview],
        keep_cached: bool,
        monotonic: Monotonic,
    ) -> None:
        self._reader, self._buffers = reader, buffers
        self._keep_cached = keep_cached
        self._monotonic = monotonic
        self._blocks = list(_laid(groups, reader.length))
        self._pieces = list(_cut(self._blocks))
        self._moved = threading.Condition()  # guards what follows
        self._left = [0] * len(self._blocks)  # pieces of each block that are not verified yet
        for piece in self._pieces:
            self._left[piece.block] += 1
        self._next = 0  # piece to be taken
        self._freed = 0  # blocks that were computed with
        self._faults: dict[int, tuple[int, BaseException]] = {}  # by block: the first of its pieces, and what was wrong
        self._ended = False  # no more pieces are taken
        self.bytes_read = 0
        self.wait_seconds = 0.0

    def blocks(self) -> Iterator[RowBlock]:
        """Each block once it is verified; what was wrong instead of the block where it was found."""
        for number, block in enumerate(self._blocks):
            self._wait_for(number)
            buffer = self._buffer_of(number)
            yield RowBlock(
                block.group,
                block.rows,
                tuple(buffer[span.at + span.first - span.base :][: span.last - span.first] for span in block.spans),
            )
            if number + 1 < len(self._blocks):
                self._carry(number)
            with self._moved:
                self._freed = number + 1
                self._moved.notify_all()

    def fill(self) -> None:
        """Read and verify one piece after the other, to the end, a fault, or `stop`. For any number of threads."""
        while (number := self._taken()) is not None:
            piece, fault = self._pieces[number], None
            try:
                self._read(piece)
            except BaseException as reason:  # noqa: BLE001 - thread boundary: raised again where the rows are waited for
                fault = reason
            with self._moved:
                if fault is None:
                    self._left[piece.block] -= 1
                    self.bytes_read += piece.end - piece.begin
                else:  # pieces are taken in order, so that all blocks before this one come to their end
                    self._ended = True
                    first = self._faults.get(piece.block, (number, fault))
                    self._faults[piece.block] = min(first, (number, fault), key=lambda each: each[0])
                if fault is not None or not self._left[piece.block]:
                    self._moved.notify_all()

    def stop(self, work: Sequence[Future[None]]) -> None:
        """End the reading threads' work on this run, however far it is."""
        with self._moved:
            self._ended = True
            self._moved.notify_all()
        for each in work:
            each.result()

    def _taken(self) -> int | None:
        """The next piece, once there is a buffer for it."""
        with self._moved:
            while not self._ended and self._next < len(self._pieces):
                if self._pieces[self._next].block < self._freed + len(self._buffers):
                    self._next += 1
                    return self._next - 1
                self._moved.wait()
        return None

    def _wait_for(self, number: int) -> None:
        began = self._monotonic()
        with self._moved:
            while self._left[number] and number not in self._faults:
                self._moved.wait()
            fault = self._faults.get(number)
        self.wait_seconds += self._monotonic() - began
        if fault is not None:
            raise fault[1]

    def _read(self, piece: _Piece) -> None:
        into = self._buffer_of(piece.block)[piece.at :][: piece.end - piece.begin]
        self._reader.read(into, piece.begin // _subtile)
        if not self._keep_cached:
            self._reader.let_go(piece.begin, piece.end - piece.begin)

    def _buffer_of(self, block: int) -> memoryview:
        return self._buffers[block % len(self._buffers)]

    def _carry(self, number: int) -> None:
        """What the next block's rows begin with and this one's buffer has, before it is filled anew.

        No thread reads to where it goes: that block has its buffer already, and is read from behind it on.
        """
        done, following = self._blocks[number], self._blocks[number + 1]
        if done.group != following.group:
            return
        source, target = self._buffer_of(number), self._buffer_of(number + 1)
        for span, after in zip(done.spans, following.spans, strict=True):
            if after.base < after.read_from:
                length = span.stop - span.tail
                target[after.at : after.at + length] = source[span.at + span.tail - span.base :][:length]


def _laid(groups: Sequence[Group], length: int) -> Iterator[_Block]:
    """The blocks of a payload of `length` bytes, in order."""
    for number, group in enumerate(groups):
        step, rows = rows_at_once(_row_bytes(group)), group[0].rows
        read = [0] * len(group)  # how far each table was read
        for begin in range(0, rows, step):
            end = min(begin + step, rows)
            spans: list[_Span] = []
            at = 0
            for place, table in enumerate(group):
                first, last = table.offset + begin * table.row_bytes, table.offset + end * table.row_bytes
                base = first - first % _subtile
                stop = min(-(-last // _subtile) * _subtile, length)
                spans.append(_Span(at, base, max(base, read[place]), stop, first, last))
                read[place] = stop
                at += -(-(stop - base) // _subtile) * _subtile
            yield _Block(number, slice(begin, end), tuple(spans))


def _cut(blocks: Sequence[_Block]) -> Iterator[_Piece]:
    """What is to be read for each block, in order."""
    for number, block in enumerate(blocks):
        for span in block.spans:
            for begin in range(span.read_from, span.stop, _piece):
                yield _Piece(number, span.at + begin - span.base, begin, min(begin + _piece, span.stop))


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
