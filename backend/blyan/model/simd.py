"""Vectors of eight fp32 numbers inside jitted code: what numba lacks, as LLVM instructions.

A sum over many numbers is kept in eight lanes and added up by one fixed tree (`total`), so that it has the same value
whatever stands around it: how many rows share a product, which processor runs it, how many threads there are.
Addresses are bytes, as int64. The caller answers for what lies there; `fused_step` alone makes them.

How numbers are stored is said by an empty array whose dtype stands for it (`like`): float32, uint16 for bf16, int16 for
fp16, int8, uint8 for fp8 E4M3, uint32 for int4 (eight codes of four bits, the first lowest, each plus eight), and
float64 for codes that were widened to fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

# a typing context comes first, which callers do not pass
instruction = cast("Callable[..., Callable[..., Any]]", intrinsic)

fp32: Final = np.empty(0, np.float32)
bf16: Final = np.empty(0, np.uint16)
fp16: Final = np.empty(0, np.int16)
int8: Final = np.empty(0, np.int8)
fp8: Final = np.empty(0, np.uint8)
int4: Final = np.empty(0, np.uint32)
codes: Final = np.empty(0, np.float64)  # codes that were widened to fp32, and have a scale each row

_f32 = ir.FloatType()
_i8, _i16, _i32, _i64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_v8 = ir.VectorType(_f32, 8)
_v8i = ir.VectorType(_i32, 8)


class F32x8(types.Type):
    """The numba type of eight fp32 numbers."""

    def __init__(self) -> None:
        super().__init__(name="F32x8")


f32x8: Final = F32x8()


@register_model(F32x8)
class _F32x8Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _v8)


def _ints(*values: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(_i32, len(values)), list(values))


def _every(number: float) -> ir.Constant:
    return ir.Constant(_v8, [float(np.float32(number))] * 8)


def at_address(builder: Any, address: Any, kind: Any) -> Any:
    """LLVM: the int64 `address` as a pointer to `kind`."""
    return builder.inttoptr(address, kind.as_pointer())


def call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """LLVM: a call of an intrinsic, or of a function of the C library."""
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(result, [argument.type for argument in arguments]), name
    )
    return builder.call(function, arguments)


def _spread(builder: Any, scalar: Any, kind: Any) -> Any:
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(_i32, 0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), _ints(*[0] * 8))


def _widened(builder: Any, address: Any, dtype: Any) -> Any:
    """Eight stored numbers from `address` on, as fp32."""
    if dtype in (types.float32, types.float64):
        return builder.load(at_address(builder, address, _v8), align=4)
    if dtype == types.uint16:
        bits = builder.load(at_address(builder, address, ir.VectorType(_i16, 8)), align=2)
        return builder.bitcast(builder.shl(builder.zext(bits, _v8i), _ints(*[16] * 8)), _v8)
    if dtype == types.int16:
        return builder.fpext(builder.load(at_address(builder, address, ir.VectorType(ir.HalfType(), 8)), align=2), _v8)
    if dtype == types.int8:
        codes = builder.load(at_address(builder, address, ir.VectorType(_i8, 8)), align=1)
        return builder.sitofp(builder.sext(codes, _v8i), _v8)
    if dtype == types.uint8:
        codes = builder.zext(builder.load(at_address(builder, address, ir.VectorType(_i8, 8)), align=1), _v8i)
        sign = builder.shl(builder.and_(codes, _ints(*[0x80] * 8)), _ints(*[24] * 8))
        rest = builder.shl(builder.and_(codes, _ints(*[0x7F] * 8)), _ints(*[20] * 8))
        # the exponent's bias is 7 there and 127 here; a product by 2^120 sets it right, for subnormal codes too
        small = builder.bitcast(builder.or_(sign, rest), _v8)
        return builder.fmul(small, _every(2.0**120))
    raise TypeError(f"no way of storing numbers stands for {dtype}")


def _multiplied(builder: Any, address: Any, scale: Any) -> Any:
    """Eight codes of four bits, each less eight and times `scale`."""
    word = builder.load(at_address(builder, address, _i32), align=1)
    shifted = builder.lshr(_spread(builder, word, _v8i), _ints(*range(0, 32, 4)))
    codes = builder.sitofp(builder.and_(shifted, _ints(*[15] * 8)), _v8)
    # rounded once, as a code less eight times the scale is: both products are exact before
    return call(builder, "llvm.fma.v8f32", _v8, codes, scale, builder.fmul(scale, _every(-8.0)))


def _rounded(builder: Any, vector: Any, dtype: Any) -> Any:
    """fp32 numbers rounded to nearest even in the type that `dtype` stands for."""
    if dtype == types.uint16:
        bits = builder.bitcast(vector, _v8i)
        odd = builder.and_(builder.lshr(bits, _ints(*[16] * 8)), _ints(*[1] * 8))
        up = builder.add(bits, builder.add(odd, _ints(*[0x7FFF] * 8)))
        return builder.bitcast(builder.and_(up, _ints(*[-65536] * 8)), _v8)
    if dtype == types.int16:
        return builder.fpext(builder.fptrunc(vector, ir.VectorType(ir.HalfType(), 8)), _v8)
    return vector


def _exp(builder: Any, vector: Any) -> Any:
    """e to the power of each, within 2 units in the last place; Cephes' expf (Moshier 1984), reduced by ln 2."""
    low = call(builder, "llvm.maxnum.v8f32", _v8, vector, _every(-87.33654))
    bound = call(builder, "llvm.minnum.v8f32", _v8, low, _every(88.37626))
    turns = call(builder, "llvm.nearbyint.v8f32", _v8, builder.fmul(bound, _every(1.44269504088896341)))
    rest = call(builder, "llvm.fma.v8f32", _v8, turns, _every(-0.693359375), bound)
    rest = call(builder, "llvm.fma.v8f32", _v8, turns, _every(2.12194440e-4), rest)
    series = _every(1.9875691500e-4)
    for term in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        series = call(builder, "llvm.fma.v8f32", _v8, series, rest, _every(term))
    square = builder.fmul(rest, rest)
    near = builder.fadd(call(builder, "llvm.fma.v8f32", _v8, series, square, rest), _every(1.0))
    exponent = builder.shl(builder.add(builder.fptosi(turns, _v8i), _ints(*[127] * 8)), _ints(*[23] * 8))
    found = builder.fmul(near, builder.bitcast(exponent, _v8))
    return builder.select(builder.fcmp_ordered("<", vector, _every(-87.33654)), _every(0.0), found)


def _folded(builder: Any, left: Any, right: Any, lanes: int) -> Any:
    """Within each group of `lanes` lanes, lane i plus lane i + half: the sums of `left`, then those of `right`."""
    half = lanes // 2
    first = [group * lanes + lane for group in range(8 // lanes) for lane in range(half)]
    low = first + [8 + lane for lane in first]
    high = [lane + half for lane in low]
    return builder.fadd(
        builder.shuffle_vector(left, right, _ints(*low)), builder.shuffle_vector(left, right, _ints(*high))
    )


@instruction
def load(_typing: Any, address: Any, like: Any) -> Any:
    """Eight stored numbers as fp32."""

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return _widened(builder, arguments[0], like.dtype)

    return f32x8(types.int64, like), code


@instruction
def load_times(_typing: Any, address: Any, scale: Any, like: Any) -> Any:
    """Eight stored numbers as fp32: int4 codes times the scale of their group, others as `load` has them."""

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        if like.dtype == types.uint32:
            return _multiplied(builder, arguments[0], arguments[1])
        return _widened(builder, arguments[0], like.dtype)

    return f32x8(types.int64, f32x8, like), code


@instruction
def group_scale(_typing: Any, address: Any, like: Any) -> Any:
    """The scale of a group of int4 codes, eight times; nothing is read for what is stored otherwise."""

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        if like.dtype != types.uint32:
            return _every(0.0)
        return _spread(builder, builder.load(at_address(builder, arguments[0], _f32), align=4), _v8)

    return f32x8(types.int64, like), code


@instruction
def store(_typing: Any, address: Any, vector: Any, like: Any) -> Any:
    """Write eight numbers, which are representable as they are, in the type of `like` (fp32, bf16 or fp16)."""

    def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        address, vector, _ = arguments
        if like.dtype == types.uint16:
            high = builder.lshr(builder.bitcast(vector, _v8i), _ints(*[16] * 8))
            kind = ir.VectorType(_i16, 8)
            builder.store(builder.trunc(high, kind), at_address(builder, address, kind), align=2)
        elif like.dtype == types.int16:
            kind = ir.VectorType(ir.HalfType(), 8)
            builder.store(builder.fptrunc(vector, kind), at_address(builder, address, kind), align=2)
        else:
            builder.store(vector, at_address(builder, address, _v8), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, f32x8, like), code


@instruction
def rounded(_typing: Any, vector: Any, like: Any) -> Any:
    """Rounded to nearest even in the type of `like`."""

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return _rounded(builder, arguments[0], like.dtype)

    return f32x8(f32x8, like), code


@instruction
def rounded_one(_typing: Any, number: Any, like: Any) -> Any:
    """One fp32 number, rounded to nearest even in the type of `like`."""

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        vector = _rounded(builder, _spread(builder, arguments[0], _v8), like.dtype)
        return builder.extract_element(vector, ir.Constant(_i32, 0))

    return types.float32(types.float32, like), code


@instruction
def zeros(_typing: Any) -> Any:
    """Eight zeros."""

    def code(_context: Any, _builder: Any, _signature: Any, _arguments: Any) -> Any:
        return _every(0.0)

    return f32x8(), code


@instruction
def fma(_typing: Any, left: Any, right: Any, more: Any) -> Any:
    """left × right + more, rounded once."""

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return call(builder, "llvm.fma.v8f32", _v8, *arguments)

    return f32x8(f32x8, f32x8, f32x8), code


def _binary(emit: Any) -> Any:
    def typed(_typing: Any, left: Any, right: Any) -> Any:
        def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return emit(builder, *arguments)

        return f32x8(f32x8, f32x8), code

    return instruction(typed)


def _unary(result: Any, argument: Any, emit: Any) -> Any:
    def typed(_typing: Any, given: Any) -> Any:
        def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return emit(builder, arguments[0])

        return result(argument), code

    return instruction(typed)


exp: Final = _unary(f32x8, f32x8, _exp)  # e to the power of each
splat: Final = _unary(f32x8, types.float32, lambda builder, number: _spread(builder, number, _v8))  # one, eight times
# one fp32 number at an address
peek: Final = _unary(
    types.float32, types.int64, lambda builder, place: builder.load(at_address(builder, place, _f32), align=4)
)
add: Final = _binary(lambda builder, left, right: builder.fadd(left, right))
subtract: Final = _binary(lambda builder, left, right: builder.fsub(left, right))
multiply: Final = _binary(lambda builder, left, right: builder.fmul(left, right))
divide: Final = _binary(lambda builder, left, right: builder.fdiv(left, right))
smaller: Final = _binary(lambda builder, left, right: call(builder, "llvm.minnum.v8f32", _v8, left, right))
larger: Final = _binary(lambda builder, left, right: call(builder, "llvm.maxnum.v8f32", _v8, left, right))


@instruction
def total(_typing: Any, vector: Any) -> Any:
    """The sum of the eight: lanes 4 apart, then 2, then 1."""

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        vector = arguments[0]
        for lanes in (8, 4, 2):
            vector = _folded(builder, vector, vector, lanes)
        return builder.extract_element(vector, ir.Constant(_i32, 0))

    return types.float32(f32x8), code


@instruction
def totals4(_typing: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """The sums of four vectors, each as `total` adds it: a, b, c, d and the same again."""

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        a, b, c, d = arguments
        pairs = [_folded(builder, a, c, 8), _folded(builder, b, d, 8)]  # a a a a c c c c, b b b b d d d d
        both = _folded(builder, pairs[0], pairs[1], 4)  # a a c c b b d d
        return _shuffled(builder, _folded(builder, both, both, 2), 0, 2, 1, 3, 0, 2, 1, 3)

    return f32x8(f32x8, f32x8, f32x8, f32x8), code


@instruction
def both(_typing: Any, left: Any, right: Any) -> Any:
    """The first four of `left`, then the first four of `right`."""

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.shuffle_vector(arguments[0], arguments[1], _ints(0, 1, 2, 3, 8, 9, 10, 11))

    return f32x8(f32x8, f32x8), code


def _shuffled(builder: Any, vector: Any, *lanes: int) -> Any:
    return builder.shuffle_vector(vector, vector, _ints(*lanes))


@instruction
def greatest(_typing: Any, vector: Any) -> Any:
    """The largest of the eight."""

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        vector = arguments[0]
        for half in (4, 2, 1):
            turned = _shuffled(builder, vector, *[(lane + half) % 8 for lane in range(8)])
            vector = call(builder, "llvm.maxnum.v8f32", _v8, vector, turned)
        return builder.extract_element(vector, ir.Constant(_i32, 0))

    return types.float32(f32x8), code


@instruction
def lane(_typing: Any, vector: Any, number: Any) -> Any:
    """One of the eight."""

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.extract_element(arguments[0], builder.trunc(arguments[1], _i32))

    return types.float32(f32x8, types.int64), code


@instruction
def poke(_typing: Any, address: Any, number: Any) -> Any:
    """Write one fp32 number."""

    def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        builder.store(arguments[1], at_address(builder, arguments[0], _f32), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), code


@instruction
def prefetch(_typing: Any, address: Any) -> Any:
    """Ask for the cache line of an address that will be read; any address will do."""

    def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        line = at_address(builder, arguments[0], _i8)
        call(builder, "llvm.prefetch.p0", ir.VoidType(), line, *(ir.Constant(_i32, n) for n in (0, 3, 1)))
        return context.get_dummy_value()

    return types.void(types.int64), code


def _known(kind: Any, constant: Callable[[Any], ir.Constant]) -> Any:
    """What is known of a way of storing numbers when code is compiled."""

    def typed(_typing: Any, like: Any) -> Any:
        def code(_context: Any, _builder: Any, _signature: Any, _arguments: Any) -> Any:
            return constant(like.dtype)

        return kind(like), code

    return instruction(typed)


_codes: Final = (types.int8, types.uint8, types.float64)
_eight: Final = {types.uint32: 4, types.float64: 32}
# whether numbers stored so are codes that have a scale each row
scaled: Final = _known(types.boolean, lambda dtype: ir.Constant(ir.IntType(1), int(dtype in _codes)))
# bytes that eight numbers stored so take
eight_bytes: Final = _known(types.int64, lambda dtype: ir.Constant(_i64, _eight.get(dtype, dtype.bitwidth)))
