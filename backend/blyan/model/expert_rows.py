"""An expert computed by blocks of rows, so that only some rows of a matrix need be in memory at a time.

A row of a product depends on its own row of the matrix alone, so blocks change no sum over inputs. Whether the blocks
come from a mapping, from memory or from a stream, they are cut at the same rows and lie at the same alignment: where an
expert's bytes are does not change a bit of its answer. Against `swiglu`, which hands whole matrices to torch, nothing
differs on the machines this was tried on; what is promised is 1e-6 relative in fp32 (torch may choose another kernel
for another number of rows) and one rounding step in shorter types.
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


@dataclass(frozen=True, slots=True)
class ResidentExpert:
    """An expert whose tensors are whole in memory, mapped or our own."""

    layout: ExpertLayout
    tensors: Mapping[str, Tensor]

    def answer(self, hidden: Tensor) -> Tensor:
        """hidden [n, hidden] through the expert."""
        each = lone_threads().spread if self.layout.bound_by_memory(hidden) else in_turn
        return swiglu_by_rows(self.layout.whole(self.tensors), hidden, self.layout.inner, each)


def in_turn(task: Callable[..., None], items: Iterable[Rows]) -> None:
    """The task for one item after the other, here."""
    for item in items:
        task(*item)


def swiglu_by_rows(
    matrices: Iterator[Iterable[Rows]], hidden: Tensor, inner: int, each: Callable[..., None] = in_turn
) -> Tensor:
    """What `swiglu` gives for hidden [n, hidden], the rows of gate, up and down coming in this order.

    Memory: [n, inner], the answer, and what one block takes. `each` applies a task to blocks, here or elsewhere.
    """
    between = hidden.new_empty(len(hidden), inner)
    each(lambda rows, tensors: _product(tensors, "gate_proj", hidden, between[:, rows]), next(matrices))
    between = functional.silu(between)

    def up(rows: slice, tensors: Mapping[str, Tensor]) -> None:
        found = hidden.new_empty(len(hidden), rows.stop - rows.start)
        _product(tensors, "up_proj", hidden, found)
        between[:, rows] *= found

    each(up, next(matrices))
    answer = torch.empty_like(hidden, memory_format=torch.contiguous_format)
    each(lambda rows, tensors: _product(tensors, "down_proj", between, answer[:, rows]), next(matrices))
    return answer


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
