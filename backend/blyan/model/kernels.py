"""Products of a stored matrix with rows of fp32 activations, on eight lanes.

One output is one sum, kept in one vector over the inputs in their order and added up by one tree. Rows and outputs are
computed in blocks (four rows times three outputs share their loads), and which block an output falls into changes
nothing in its value: a row's result does not depend on how many rows there are. Inputs are multiples of eight.
Weights come from memory at its full speed because they are asked for ahead of use; see docs/benchmarks/decode.md.
"""

from __future__ import annotations

from blyan.model.jit import compiled
from blyan.model.simd import (
    both,
    eight_bytes,
    fma,
    fp32,
    group_scale,
    lane,
    load,
    load_times,
    multiply,
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
_panel_bytes = 24576  # of a matrix that make a piece of work, at most, if they are several panels
_pieces = 4  # of a small matrix
panel = 24  # outputs of a matrix that are computed for all rows before the next: a multiple of 8 and 3


@compiled
def dots_1x8(x, w, stride, scales, groups, group, inner, kind, out):
    """Eight outputs of one row, written as fp32 from `out` on: so many sums do not wait for each other."""
    a = b = c = d = e = f = g = h = zeros()
    eight, row, third, fifth, seventh = eight_bytes(kind), groups * 4, 3 * stride, 5 * stride, 7 * stride
    ahead = w + _ahead
    for part in range(groups):
        s = scales + part * 4
        i, j = group_scale(s, kind), group_scale(s + row, kind)
        k, t = group_scale(s + 2 * row, kind), group_scale(s + 3 * row, kind)
        m, n = group_scale(s + 4 * row, kind), group_scale(s + 5 * row, kind)
        o, p = group_scale(s + 6 * row, kind), group_scale(s + 7 * row, kind)
        for _ in range(min(group, inner - part * group) // 8):
            v = load(x, fp32)
            a = fma(load_times(w, i, kind), v, a)
            b = fma(load_times(w + stride, j, kind), v, b)
            c = fma(load_times(w + 2 * stride, k, kind), v, c)
            d = fma(load_times(w + third, t, kind), v, d)
            e = fma(load_times(w + 4 * stride, m, kind), v, e)
            f = fma(load_times(w + fifth, n, kind), v, f)
            g = fma(load_times(w + 2 * third, o, kind), v, g)
            h = fma(load_times(w + seventh, p, kind), v, h)
            for line in range(0, 8 * eight, 64):
                prefetch(ahead + line)
            ahead += 8 * eight
            x += 32
            w += eight
    if scaled(kind):
        a, b = multiply(a, splat(peek(scales))), multiply(b, splat(peek(scales + 4)))
        c, d = multiply(c, splat(peek(scales + 8))), multiply(d, splat(peek(scales + 12)))
        e, f = multiply(e, splat(peek(scales + 16))), multiply(f, splat(peek(scales + 20)))
        g, h = multiply(g, splat(peek(scales + 24))), multiply(h, splat(peek(scales + 28)))
    store(out, both(totals4(a, b, c, d), totals4(e, f, g, h)), fp32)


@compiled
def dot(x, w, scales, groups, group, inner, kind):
    """One output of one row."""
    a = zeros()
    for part in range(groups):
        scale = group_scale(scales + part * 4, kind)
        for _ in range(min(group, inner - part * group) // 8):
            a = fma(load_times(w, scale, kind), load(x, fp32), a)
            x += 32
            w += eight_bytes(kind)
    return total(multiply(a, splat(peek(scales))) if scaled(kind) else a)


@compiled
def dots_4x3(x0, x1, x2, x3, w, stride, scales, inner, wide, out, out_stride):
    """Three outputs of four rows, written as fp32 from `out` on; rows of it are `out_stride` bytes apart."""
    a0 = a1 = a2 = b0 = b1 = b2 = c0 = c1 = c2 = d0 = d1 = d2 = zeros()
    ahead = w + _ahead
    for _ in range(inner // 8):
        u, v, t = load(w, wide), load(w + stride, wide), load(w + 2 * stride, wide)
        x = load(x0, fp32)
        a0, a1, a2 = fma(u, x, a0), fma(v, x, a1), fma(t, x, a2)
        x = load(x1, fp32)
        b0, b1, b2 = fma(u, x, b0), fma(v, x, b1), fma(t, x, b2)
        x = load(x2, fp32)
        c0, c1, c2 = fma(u, x, c0), fma(v, x, c1), fma(t, x, c2)
        x = load(x3, fp32)
        d0, d1, d2 = fma(u, x, d0), fma(v, x, d1), fma(t, x, d2)
        prefetch(ahead)
        ahead += 96
        x0 += 32
        x1 += 32
        x2 += 32
        x3 += 32
        w += 32
    if scaled(wide):
        u, v, t = splat(peek(scales)), splat(peek(scales + 4)), splat(peek(scales + 8))
        a0, a1, a2 = multiply(a0, u), multiply(a1, v), multiply(a2, t)
        b0, b1, b2 = multiply(b0, u), multiply(b1, v), multiply(b2, t)
        c0, c1, c2 = multiply(c0, u), multiply(c1, v), multiply(c2, t)
        d0, d1, d2 = multiply(d0, u), multiply(d1, v), multiply(d2, t)
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
def _widened(w, inner, scales, groups, group, to, kind):
    """One row of a stored matrix as fp32; codes whose scales are those of groups are multiplied out."""
    ahead = w + _ahead
    for part in range(groups):
        scale = group_scale(scales + part * 4, kind)
        for _ in range(min(group, inner - part * group) // 8):
            store(to, load_times(w, scale, kind), fp32)
            prefetch(ahead)
            to += 32
            w += eight_bytes(kind)
            ahead += eight_bytes(kind)


@compiled
def _fours(x, x_stride, listed, rows, w, stride, scales, inner, begin, end, out, out_stride, wide):
    """Outputs of rows, four at a time, of a matrix in fp32 (or codes of it, which have a scale each row)."""
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
            dots_4x3(x0, x1, x2, x3, w + n * stride, stride, scales + n * 4, inner, wide, to + n * 4, out_stride)
            n += 3
        while n < end:
            for one in range(row, row + 4):
                at = x + (listed[one] if len(listed) > 0 else one) * x_stride
                sums = dot(at, w + n * stride, scales + n * 4, 1, inner, inner, wide)
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
        _fours(x, x_stride, listed, row, w, stride, scales, inner, begin, end, out, out_stride, wide)
    elif row > 0:
        for first in range(begin, end, panel):
            last = min(first + panel, end)
            for n in range(first, last):
                to = room + (n - first) * inner * 4
                _widened(w + n * stride, inner, scales + n * groups * 4, groups, group, to, kind)
            widened = room - first * inner * 4
            _fours(x, x_stride, listed, row, widened, inner * 4, scales, inner, first, last, out, out_stride, wide)
    while row < rows:
        at = x + (listed[row] if len(listed) > 0 else row) * x_stride
        run_of_dots(at, w, stride, scales, groups, group, inner, begin, end, out + row * out_stride, kind)
        row += 1


@compiled
def run_of_dots(x, w, stride, scales, groups, group, inner, begin, end, out, kind):
    """Outputs begin … end of one row."""
    n = begin
    while n + 8 <= end:
        of, by = w + n * stride, scales + n * groups * 4
        dots_1x8(x, of, stride, by, groups, group, inner, kind, out + n * 4)
        n += 8
    while n < end:
        poke(out + n * 4, dot(x, w + n * stride, scales + n * groups * 4, groups, group, inner, kind))
        n += 1


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
def span_of(stride, outputs):
    """How many of a matrix's `outputs` make one piece of work, its rows being of `stride` bytes.

    Enough that taking it costs little beside it, and few enough that two threads end together.
    """
    return max(1, min(_panel_bytes // (stride * panel), (outputs + _pieces * panel - 1) // (_pieces * panel))) * panel


@compiled
def pieces_of(stride, outputs):
    """How many pieces of work a product is."""
    span = span_of(stride, outputs)
    return (outputs + span - 1) // span
