"""The arrays of a step as one array of numbers: where each lies, and its shape.

Handing a compiled function thirty arrays costs more than a small step's work between them; handing it one costs little.
Whoever makes a table keeps its arrays alive for as long as the table is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import types
from numba.np.numpy_support import carray
from numpy.typing import NDArray

from blyan.model.jit import compiled
from blyan.model.simd import instruction

_fields = 4  # of an array: its address and up to three dimensions


def laid_out(arrays: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    """The table of some contiguous arrays of one to three dimensions."""
    table = np.zeros((len(arrays), _fields), np.int64)
    for row, array in zip(table, arrays, strict=True):
        assert array.flags.c_contiguous and 1 <= array.ndim < _fields, "an array that an address and a shape tell of"
        row[0] = array.ctypes.data
        row[1 : 1 + array.ndim] = array.shape
    return table


@instruction
def _int64s(_typing: Any, address: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.int64)(types.int64), code


@instruction
def _float32s(_typing: Any, address: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.float32)(types.int64), code


@compiled
def ints1(table, number):
    """An array [n] of int64."""
    return carray(_int64s(table[number, 0]), (table[number, 1],))


@compiled
def ints2(table, number):
    """An array [n, m] of int64."""
    return carray(_int64s(table[number, 0]), (table[number, 1], table[number, 2]))


@compiled
def ints3(table, number):
    """An array [n, m, k] of int64."""
    return carray(_int64s(table[number, 0]), (table[number, 1], table[number, 2], table[number, 3]))


@compiled
def floats1(table, number):
    """An array [n] of fp32."""
    return carray(_float32s(table[number, 0]), (table[number, 1],))


@compiled
def floats2(table, number):
    """An array [n, m] of fp32."""
    return carray(_float32s(table[number, 0]), (table[number, 1], table[number, 2]))
