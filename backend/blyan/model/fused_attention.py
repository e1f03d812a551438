"""Attention of one or two queries over the pages of a sequence, on eight lanes.

Scores of positions, their softmax, then the sum of values in the order of positions. Lanes belong to positions, not to
what a step happens to compute, so a row's result depends on nothing but its own sequence. Neighbouring queries of one
key head share their loads: heads of a group, or positions that follow each other.
"""

from __future__ import annotations

import numpy as np

from blyan.model.jit import compiled
from blyan.model.simd import (
    add,
    eight_bytes,
    exp,
    fma,
    fp32,
    greatest,
    larger,
    load,
    multiply,
    peek,
    poke,
    rounded,
    splat,
    store,
    subtract,
    total,
    totals4,
    zeros,
)

page_shift = 5  # 32 positions in a page: see stepping.page_positions
_lowest = np.float32(-np.inf)


@compiled
def _scores(q, keys, page_bytes, table, first, last, head_dim, scale, scores, like):
    """scores[i] of positions first + i up to `last`, rounded up to four; `first` is a multiple of eight."""
    row = head_dim // 8 * eight_bytes(like)
    factor = splat(scale)
    for position in range(first, last, 4):
        k = keys + table[position >> page_shift] * page_bytes + (position & 31) * row
        a = b = c = d = zeros()
        at = q
        for _ in range(head_dim // 8):
            v = load(at, fp32)
            a = fma(load(k, like), v, a)
            b = fma(load(k + row, like), v, b)
            c = fma(load(k + 2 * row, like), v, c)
            d = fma(load(k + 3 * row, like), v, d)
            at += 32
            k += eight_bytes(like)
        # eight are written, of which the next four follow or are beyond the end
        store(scores + (position - first) * 4, multiply(totals4(a, b, c, d), factor), fp32)


@compiled
def _scores_of_two(q0, q1, keys, page_bytes, table, first, last, head_dim, scale, scores, apart, like):
    """The same for two queries; the second's scores are `apart` bytes further."""
    row = head_dim // 8 * eight_bytes(like)
    factor = splat(scale)
    for position in range(first, last, 4):
        k = keys + table[position >> page_shift] * page_bytes + (position & 31) * row
        a = b = c = d = e = f = g = h = zeros()
        at = 0
        for _ in range(head_dim // 8):
            v, w = load(q0 + at, fp32), load(q1 + at, fp32)
            t = load(k, like)
            a, e = fma(t, v, a), fma(t, w, e)
            t = load(k + row, like)
            b, f = fma(t, v, b), fma(t, w, f)
            t = load(k + 2 * row, like)
            c, g = fma(t, v, c), fma(t, w, g)
            t = load(k + 3 * row, like)
            d, h = fma(t, v, d), fma(t, w, h)
            at += 32
            k += eight_bytes(like)
        to = scores + (position - first) * 4
        store(to, multiply(totals4(a, b, c, d), factor), fp32)
        store(to + apart, multiply(totals4(e, f, g, h), factor), fp32)


@compiled
def _shares(scores, first, low, high, last):
    """Scores of low … high to exponentials, the others up to `last` to zero; their sum."""
    for position in range(first, low):
        poke(scores + (position - first) * 4, _lowest)
    end = first + (last - first + 7) // 8 * 8
    for position in range(high, end):
        poke(scores + (position - first) * 4, _lowest)
    best = splat(_lowest)
    for at in range(0, (end - first) * 4, 32):
        best = larger(best, load(scores + at, fp32))
    top = splat(greatest(best))
    sums = zeros()
    for at in range(0, (end - first) * 4, 32):
        share = exp(subtract(load(scores + at, fp32), top))
        sums = add(sums, share)
        store(scores + at, share, fp32)
    return total(sums)


@compiled
def _values(scores, apart, values, page_bytes, table, first, last, head_dim, sums0, sums1, out0, out1, like):
    """Sums of values by share, for two queries, divided by the shares' sums and rounded.

    Thirty-two numbers at once, because eight sums that do not wait for each other keep the adders busy.
    """
    eight = eight_bytes(like)
    row = head_dim // 8 * eight
    over0, over1 = splat(np.float32(1.0) / sums0), splat(np.float32(1.0) / sums1)
    wide = head_dim // 32 * 32
    for part in range(0, wide, 32):
        a = b = c = d = e = f = g = h = zeros()
        offset = part // 8 * eight
        s = scores
        for position in range(first, last):
            v = values + table[position >> page_shift] * page_bytes + (position & 31) * row + offset
            p, q = splat(peek(s)), splat(peek(s + apart))
            t = load(v, like)
            a, e = fma(t, p, a), fma(t, q, e)
            t = load(v + eight, like)
            b, f = fma(t, p, b), fma(t, q, f)
            t = load(v + 2 * eight, like)
            c, g = fma(t, p, c), fma(t, q, g)
            t = load(v + 3 * eight, like)
            d, h = fma(t, p, d), fma(t, q, h)
            s += 4
        _put_four(out0 + part * 4, a, b, c, d, over0, like)
        _put_four(out1 + part * 4, e, f, g, h, over1, like)
    for part in range(wide, head_dim, 16):
        a = b = c = d = zeros()
        offset = part // 8 * eight_bytes(like)
        s = scores
        for position in range(first, last):
            v = values + table[position >> page_shift] * page_bytes + (position & 31) * row + offset
            t, u = load(v, like), load(v + eight_bytes(like), like)
            p, q = splat(peek(s)), splat(peek(s + apart))
            a, b = fma(t, p, a), fma(u, p, b)
            c, d = fma(t, q, c), fma(u, q, d)
            s += 4
        store(out0 + part * 4, rounded(multiply(a, over0), like), fp32)
        store(out0 + part * 4 + 32, rounded(multiply(b, over0), like), fp32)
        store(out1 + part * 4, rounded(multiply(c, over1), like), fp32)
        store(out1 + part * 4 + 32, rounded(multiply(d, over1), like), fp32)


@compiled
def _put_four(out, a, b, c, d, over, like):
    store(out, rounded(multiply(a, over), like), fp32)
    store(out + 32, rounded(multiply(b, over), like), fp32)
    store(out + 64, rounded(multiply(c, over), like), fp32)
    store(out + 96, rounded(multiply(d, over), like), fp32)


@compiled
def _values_of_one(scores, values, page_bytes, table, first, last, head_dim, sums, out, like):
    eight = eight_bytes(like)
    row = head_dim // 8 * eight
    over = splat(np.float32(1.0) / sums)
    wide = head_dim // 32 * 32
    for part in range(0, wide, 32):
        a = b = c = d = zeros()
        offset = part // 8 * eight
        s = scores
        for position in range(first, last):
            v = values + table[position >> page_shift] * page_bytes + (position & 31) * row + offset
            p = splat(peek(s))
            a, b = fma(load(v, like), p, a), fma(load(v + eight, like), p, b)
            c, d = fma(load(v + 2 * eight, like), p, c), fma(load(v + 3 * eight, like), p, d)
            s += 4
        _put_four(out + part * 4, a, b, c, d, over, like)
    for part in range(wide, head_dim, 16):
        a = b = zeros()
        offset = part // 8 * eight_bytes(like)
        s = scores
        for position in range(first, last):
            v = values + table[position >> page_shift] * page_bytes + (position & 31) * row + offset
            p = splat(peek(s))
            a = fma(load(v, like), p, a)
            b = fma(load(v + eight_bytes(like), like), p, b)
            s += 4
        store(out + part * 4, rounded(multiply(a, over), like), fp32)
        store(out + part * 4 + 32, rounded(multiply(b, over), like), fp32)


@compiled
def attend_rows(q, q_stride, out, out_stride, start, rows, group, head_dim, scale, window, pool, scores, apart, like):
    """All queries of one key head in `rows` following rows of a run, the first of them at position `start`.

    Query heads of the group stand side by side from `q` on, fp32; so do their outputs. `pool` is (keys, values, bytes
    per page, page table): addresses of this layer and key head in the pool's page 0. `scores` is room for two rows of
    scores, `apart` bytes each.
    """
    keys, values, page_bytes, table = pool
    queries = rows * group
    at = 0
    while at < queries:
        row, head = at // group, at % group
        high = start + row + 1
        low = max(0, high - window) if window else 0
        first = low & ~7
        q0, out0 = q + row * q_stride + head * head_dim * 4, out + row * out_stride + head * head_dim * 4
        if at + 1 == queries:
            _scores(q0, keys, page_bytes, table, first, high, head_dim, scale, scores, like)
            sums = _shares(scores, first, low, high, high)
            _values_of_one(scores, values, page_bytes, table, first, high, head_dim, sums, out0, like)
            return
        row, head = (at + 1) // group, (at + 1) % group
        last = start + row + 1
        least = max(0, last - window) if window else 0
        q1, out1 = q + row * q_stride + head * head_dim * 4, out + row * out_stride + head * head_dim * 4
        _scores_of_two(q0, q1, keys, page_bytes, table, first, last, head_dim, scale, scores, apart, like)
        sums0 = _shares(scores, first, low, high, last)
        sums1 = _shares(scores + apart, first, least, last, last)
        _values(scores, apart, values, page_bytes, table, first, last, head_dim, sums0, sums1, out0, out1, like)
        at += 2
