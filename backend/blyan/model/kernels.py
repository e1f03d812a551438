"""Products of a stored matrix with rows of fp32 activations, on eight lanes.

One output is one sum, kept in one vector over the inputs in their order and added up by one tree. Rows and outputs are
computed in blocks (four rows times three outputs share their loads), and which block an output falls into changes
nothing in its value: a row's result does not depend on how many rows there are. Inputs are multiples of eight.
Weights come from memory at its full speed because they are asked for ahead of use; see docs/benchmarks/decode.md.
"""

from __future__ import annotations

from blyan.model.jit import compiled
from blyan.model.simd import (
    eight_bytes,
    fma,
    fp32,
    lane,
    load,
    peek,
    poke,
    prefetch,
    rounded,
    scaled,
    splat,
    store,
    total,
    totals4,
    zeros,
)

_ahead = 8192  # bytes between what is computed with and what is asked for
_panel_bytes = 24576
panel = 24  # outputs of a matrix that are computed for all rows before the next: a multiple of 8, 4 and 3


@compiled
def dots_1x4(x, w, stride, scales, groups, group, inner, kind):
    """Four outputs of one row: in the lanes 0 … 3."""
    a = b = c = d = zeros()
    eight = eight_bytes(kind)
    ahead = w + _ahead
    for g in range(groups):
        e = f = h = i = zeros()
        for _ in range(min(group, inner - g * group) // 8):
            v = load(x, fp32)
            e = fma(load(w, kind), v, e)
            f = fma(load(w + stride, kind), v, f)
            h = fma(load(w + 2 * stride, kind), v, h)
            i = fma(load(w + 3 * stride, kind), v, i)
            prefetch(ahead)
            if eight == 32:
                prefetch(ahead + 64)
            ahead += 4 * eight
            x += 32
            w += eight
        if scaled(kind):
            s, row = scales + g * 4, groups * 4
            a = fma(e, splat(peek(s)), a)
            b = fma(f, splat(peek(s + row)), b)
            c = fma(h, splat(peek(s + 2 * row)), c)
            d = fma(i, splat(peek(s + 3 * row)), d)
        else:
            a, b, c, d = e, f, h, i
    return totals4(a, b, c, d)


@compiled
def dot(x, w, scales, groups, group, inner, kind):
    """One output of one row."""
    a = zeros()
    eight = eight_bytes(kind)
    for g in range(groups):
        e = zeros()
        for _ in range(min(group, inner - g * group) // 8):
            e = fma(load(w, kind), load(x, fp32), e)
            x += 32
            w += eight
        a = fma(e, splat(peek(scales + g * 4)), a) if scaled(kind) else e
    return total(a)


@compiled
def dots_4x3(x0, x1, x2, x3, w, stride, scales, groups, group, inner, kind, out, out_stride):
    """Three outputs of four rows, written as fp32 from `out` on; rows of it are `out_stride` bytes apart."""
    a0 = a1 = a2 = b0 = b1 = b2 = c0 = c1 = c2 = d0 = d1 = d2 = zeros()
    eight = eight_bytes(kind)
    ahead = w + _ahead
    for g in range(groups):
        e0 = e1 = e2 = f0 = f1 = f2 = g0 = g1 = g2 = h0 = h1 = h2 = zeros()
        for _ in range(min(group, inner - g * group) // 8):
            u, v, t = load(w, kind), load(w + stride, kind), load(w + 2 * stride, kind)
            x = load(x0, fp32)
            e0, e1, e2 = fma(u, x, e0), fma(v, x, e1), fma(t, x, e2)
            x = load(x1, fp32)
            f0, f1, f2 = fma(u, x, f0), fma(v, x, f1), fma(t, x, f2)
            x = load(x2, fp32)
            g0, g1, g2 = fma(u, x, g0), fma(v, x, g1), fma(t, x, g2)
            x = load(x3, fp32)
            h0, h1, h2 = fma(u, x, h0), fma(v, x, h1), fma(t, x, h2)
            prefetch(ahead)
            ahead += 3 * eight
            x0 += 32
            x1 += 32
            x2 += 32
            x3 += 32
            w += eight
        if scaled(kind):
            s, row = scales + g * 4, groups * 4
            u, v, t = splat(peek(s)), splat(peek(s + row)), splat(peek(s + 2 * row))
            a0, a1, a2 = fma(e0, u, a0), fma(e1, v, a1), fma(e2, t, a2)
            b0, b1, b2 = fma(f0, u, b0), fma(f1, v, b1), fma(f2, t, b2)
            c0, c1, c2 = fma(g0, u, c0), fma(g1, v, c1), fma(g2, t, c2)
            d0, d1, d2 = fma(h0, u, d0), fma(h1, v, d1), fma(h2, t, d2)
        else:
            a0, a1, a2, b0, b1, b2 = e0, e1, e2, f0, f1, f2
            c0, c1, c2, d0, d1, d2 = g0, g1, g2, h0, h1, h2
    _put_rows(out, out_stride, totals4(a0, b0, c0, d0))
    _put_rows(out + 4, out_stride, totals4(a1, b1, c1, d1))
    _put_rows(out + 8, out_stride, totals4(a2, b2, c2, d2))


@compiled
def _put_rows(out, out_stride, sums):
    poke(out, lane(sums, 0))
    poke(out + out_stride, lane(sums, 1))
    poke(out + 2 * out_stride, lane(sums, 2))
    poke(out + 3 * out_stride, lane(sums, 3))


@compiled
def _put3(out, sums):
    poke(out, lane(sums, 0))
    poke(out + 4, lane(sums, 1))
    poke(out + 8, lane(sums, 2))


@compiled
def _widened(w, inner, to, kind):
    """One row of a stored matrix as fp32."""
    ahead = w + _ahead
    for at in range(0, inner * 4, 32):
        store(to + at, load(w, kind), fp32)
        prefetch(ahead)
        w += eight_bytes(kind)
        ahead += eight_bytes(kind)


@compiled
def _fours(x, x_stride, listed, rows, matrix, inner, begin, end, out, out_stride, wide):
    """Outputs of rows, four at a time, of a matrix in fp32."""
    w, stride, scales, groups, group = matrix
    for row in range(0, rows, 4):
        if len(listed) > 0:
            x0, x1 = x + listed[row] * x_stride, x + listed[row + 1] * x_stride
            x2, x3 = x + listed[row + 2] * x_stride, x + listed[row + 3] * x_stride
        else:
            x0 = x + row * x_stride
            x1, x2, x3 = x0 + x_stride, x0 + 2 * x_stride, x0 + 3 * x_stride
        to = out + row * out_stride
        n = begin
        while n + 3 <= end:
            of, by = w + n * stride, scales + n * groups * 4
            dots_4x3(x0, x1, x2, x3, of, stride, by, groups, group, inner, wide, to + n * 4, out_stride)
            n += 3
        while n < end:
            for one in range(row, row + 4):
                at = x + (listed[one] if len(listed) > 0 else one) * x_stride
                sums = dot(at, w + n * stride, scales + n * groups * 4, groups, group, inner, wide)
                poke(out + one * out_stride + n * 4, sums)
            n += 1


@compiled
def product(x, x_stride, listed, rows, matrix, inner, begin, end, out, out_stride, kind, wide, room):
    """Outputs begin … end of `rows` rows, as fp32 that is not rounded yet.

    Row i is that at x + listed[i] × x_stride, or x + i × x_stride where `listed` is empty; its outputs go to
    out + i × out_stride. `matrix` is (weights, bytes per row, scales, scales per row, inputs per scale). For four rows
    and more a panel of the matrix is widened once, to `room` for `panel` rows of it; `wide` says what it is then.
    """
    w, stride, scales, groups, group = matrix
    row = rows // 4 * 4
    if row > 0 and eight_bytes(kind) == 32:
        _fours(x, x_stride, listed, row, matrix, inner, begin, end, out, out_stride, wide)
    elif row > 0:
        for first in range(begin, end, panel):
            last = min(first + panel, end)
            for n in range(first, last):
                _widened(w + n * stride, inner, room + (n - first) * inner * 4, kind)
            widened = room - first * inner * 4, inner * 4, scales, groups, group
            _fours(x, x_stride, listed, row, widened, inner, first, last, out, out_stride, wide)
    while row < rows:
        at = x + (listed[row] if len(listed) > 0 else row) * x_stride
        to = out + row * out_stride
        n = begin
        while n + 4 <= end:
            sums = dots_1x4(at, w + n * stride, stride, scales + n * groups * 4, groups, group, inner, kind)
            _put3(to + n * 4, sums)
            poke(to + n * 4 + 12, lane(sums, 3))
            n += 4
        while n < end:
            poke(to + n * 4, dot(at, w + n * stride, scales + n * groups * 4, groups, group, inner, kind))
            n += 1
        row += 1


@compiled
def round_run(out, count, like):
    """Round `count` fp32 numbers from `out` on in the type of `like`."""
    if eight_bytes(like) == 32:
        return
    at = 0
    while at + 8 <= count:
        store(out + at * 4, rounded(load(out + at * 4, fp32), like), fp32)
        at += 8
    while at < count:
        poke(out + at * 4, lane(rounded(splat(peek(out + at * 4)), like), 0))
        at += 1


@compiled
def matrix_at(row, column):
    """A matrix as `product` takes it, of a row of a table."""
    return row[column], row[column + 1], row[column + 2], row[column + 3], row[column + 4]


@compiled
def span_of(stride):
    """Outputs of a matrix with rows of `stride` bytes that make one piece of work."""
    return max(1, _panel_bytes // (stride * panel)) * panel


@compiled
def pieces_of(stride, outputs):
    """How many pieces of work a product with `outputs` outputs is."""
    span = span_of(stride)
    return (outputs + span - 1) // span
