"""An expert computed by blocks of rows, so that only some rows of a matrix need be in memory at a time.

A row of a product depends on its own row of the matrix alone, so blocks change no sum over inputs. Whether the blocks
come from a mapping, from memory or from a stream, they are cut at the same rows and lie at the same alignment: where an
expert's bytes are does not change a bit of its answer; nor do other hidden states that the same blocks are multiplied
with, each batch by itself. Against `swiglu`, which hands whole matrices to torch, nothing differs on the machines this
was tried on; what is promised is 1e-6 relative in fp32 (torch may choose another kernel for another number of rows) and
one rounding step in shorter types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from blyan.model.linear import linear
from blyan.model.lone_threads import lone_threads
from blyan.model.stored_tensors import scale_suffix
from blyan.storage.row_stream import Group, RowBlock, Table, rows_at_once
from blyan.storage.tensor_block import TensorPlace

Rows: TypeAlias = tuple[slice, Mapping[str, Tensor]]  # which rows of which matrix, and its tensors' rows
Task: TypeAlias = Callable[[slice, Mapping[str, Tensor]], None]  # what is done with rows for one batch

_matrices: Final = ("gate_proj", "up_proj", "down_proj")  # in the order in which they are needed
_few_rows: Final = 16  # of hidden states, whose products with a matrix are bound by reading it
_values_at_once: Final = 1 << 20  # of a quantised matrix that are multiplied out: 4 MiB in fp32


class ExpertLayout:
    """Where the matrices of one expert lie in its payload, and how they are cut."""

    def __init__(self, places: Sequence[TensorPlace]) -> None:
        self.all_places = tuple(places)
        by_name = {place.name: place for place in places}
        weights = [f"{matrix}.weight" for matrix in _matrices]
        self.places = [
            [by_name[name] for name in (weight, weight + scale_suffix) if name in by_name] for weight in weights
        ]
        self.groups: list[Group] = [[_table(place) for place in group] for group in self.places]
        self.inner: int = self.places[0][0].shape[0]  # outputs of gate and up
        self._large = any(tables[0].rows > rows_at_once(sum(map(_row_bytes, tables))) for tables in self.groups)

    def bound_by_memory(self, hidden: Tensor) -> bool:
        """Whether hidden [n, hidden] takes less arithmetic than reading: then one core computes each block.

        Whatever tier the expert is in: torch's sums may differ with the number of its threads.
        """
        return self._large and len(hidden) <= _few_rows

    def whole(self, tensors: Mapping[str, Tensor]) -> Iterator[Iterator[Rows]]:
        """The blocks of each matrix in turn, as views of tensors that are whole in memory."""
        for group, tables in zip(self.places, self.groups, strict=True):
            step = rows_at_once(sum(table.row_bytes for table in tables))
            yield (
                (
                    slice(begin, min(begin + step, tables[0].rows)),
                    {place.name: tensors[place.name][begin : begin + step] for place in group},
                )
                for begin in range(0, tables[0].rows, step)
            )

    def streamed(self, blocks: Iterator[RowBlock]) -> Iterator[Iterator[Rows]]:
        """The same from a stream over `groups`; a block's tensors are valid until the next is asked for."""
        waiting: list[RowBlock] = []  # the first of the next matrix, met while looking for more of this one

        def of(number: int) -> Iterator[Rows]:
            while True:
                block = waiting.pop() if waiting else next(blocks, None)
                if block is None:
                    return
                if block.group != number:
                    waiting.append(block)
                    return
                pieces = zip(self.places[number], block.pieces, strict=True)
                yield block.rows, {place.name: _rows_of(place, piece) for place, piece in pieces}

        return (of(number) for number in range(len(self.groups)))

    def answer_streamed(self, blocks: Iterator[RowBlock], batches: Sequence[Tensor]) -> list[Tensor]:
        """Each batch of hidden states [n, hidden] through the expert, every block taken from the stream once for all.

        A batch is multiplied by the threads that would multiply it alone: see `bound_by_memory`.
        """
        lone = [self.bound_by_memory(hidden) for hidden in batches]

        def each(tasks: Sequence[Task], items: Iterable[Rows]) -> None:
            few = [task for task, bound in zip(tasks, lone, strict=True) if bound]
            many = [task for task, bound in zip(tasks, lone, strict=True) if not bound]
            for item in items:
                if few:
                    lone_threads().in_turn(_all, [(few, item)])
                _all(many, item)

        return swiglu_by_rows(self.streamed(blocks), batches, self.inner, each)


@dataclass(frozen=True, slots=True)
class ResidentExpert:
    """An expert whose tensors are whole in memory, mapped or our own."""

    layout: ExpertLayout
    tensors: Mapping[str, Tensor]

    def answer(self, hidden: Tensor) -> Tensor:
        """hidden [n, hidden] through the expert."""
        each = _spread if self.layout.bound_by_memory(hidden) else in_turn
        [answer] = swiglu_by_rows(self.layout.whole(self.tensors), [hidden], self.layout.inner, each)
        return answer


def in_turn(tasks: Sequence[Task], items: Iterable[Rows]) -> None:
    """All tasks for one item after the other, here."""
    for item in items:
        _all(tasks, item)


def _spread(tasks: Sequence[Task], items: Iterable[Rows]) -> None:
    """Items that stay valid, several at once, on one core each."""
    lone_threads().spread(_all, ((tasks, item) for item in items))


def _all(tasks: Sequence[Task], item: Rows) -> None:
    for task in tasks:
        task(*item)


def swiglu_by_rows(
    matrices: Iterator[Iterable[Rows]],
    batches: Sequence[Tensor],
    inner: int,
    each: Callable[[Sequence[Task], Iterable[Rows]], None] = in_turn,
) -> list[Tensor]:
    """What `swiglu` gives for each batch [n, hidden] by itself, the rows of gate, up and down coming in this order.

    Memory: [n, inner] and the answer of each batch, and what one block takes. `each` has all tasks, one for each batch,
    done with every block, here or elsewhere.
    """
    passages = [_Passage(hidden, inner) for hidden in batches]
    each([passage.gate for passage in passages], next(matrices))
    for passage in passages:
        passage.activate()
    each([passage.up for passage in passages], next(matrices))
    each([passage.down for passage in passages], next(matrices))
    return [passage.answer for passage in passages]


class _Passage:
    """One batch on its way through an expert."""

    def __init__(self, hidden: Tensor, inner: int) -> None:
        self._hidden = hidden
        self._between = hidden.new_empty(len(hidden), inner)
        self.answer = torch.empty_like(hidden, memory_format=torch.contiguous_format)

    def gate(self, rows: slice, tensors: Mapping[str, Tensor]) -> None:
        _product(tensors, "gate_proj", self._hidden, self._between[:, rows])

    def activate(self) -> None:
        self._between = functional.silu(self._between)

    def up(self, rows: slice, tensors: Mapping[str, Tensor]) -> None:
        found = self._hidden.new_empty(len(self._hidden), rows.stop - rows.start)
        _product(tensors, "up_proj", self._hidden, found)
        self._between[:, rows] *= found

    def down(self, rows: slice, tensors: Mapping[str, Tensor]) -> None:
        _product(tensors, "down_proj", self._between, self.answer[:, rows])


def _product(tensors: Mapping[str, Tensor], name: str, hidden: Tensor, into: Tensor) -> None:
    """hidden [n, in] times the rows, into [n, rows]; quantised rows some at a time, for they are multiplied out."""
    count = into.shape[1]
    quantised = f"{name}.weight{scale_suffix}" in tensors
    step = max(1, _values_at_once // hidden.shape[1]) if quantised else count
    for begin in range(0, count, step):
        some = {each: tensor[begin : begin + step] for each, tensor in tensors.items()} if step < count else tensors
        into[:, begin : begin + step] = linear(some, name, hidden)


def _row_bytes(table: Table) -> int:
    return table.row_bytes


def _table(place: TensorPlace) -> Table:
    rows = place.shape[0]
    return Table(place.offset, place.length // rows, rows)


def _rows_of(place: TensorPlace, piece: memoryview) -> Tensor:
    flat = torch.frombuffer(piece, dtype=place.dtype)
    return flat.view(-1, *place.shape[1:])
