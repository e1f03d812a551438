"""What is done to one row of hidden states between products: norms, rotation, routing, the mixture's sum.

Everything is rounded where the plain path rounds (`attention`, `gate`, `experts`, `transformer`), to the type `like`.
"""

from __future__ import annotations

import math

import numpy as np

from blyan.model.jit import compiled
from blyan.model.kernels import dot, round_run, run_of_dots
from blyan.model.simd import (
    add,
    divide,
    eight_bytes,
    exp,
    fma,
    fp32,
    larger,
    load,
    multiply,
    peek,
    poke,
    rounded,
    rounded_one,
    smaller,
    splat,
    store,
    subtract,
    total,
    zeros,
)

_one = np.float32(1.0)


@compiled
def norm(x, weight, count, eps, out, like):
    """Root-mean-square norm of `count` fp32 numbers; the weight is stored as `like`."""
    squares = zeros()
    for at in range(0, count * 4, 32):
        v = load(x + at, fp32)
        squares = fma(v, v, squares)
    factor = splat(_one / np.float32(math.sqrt(total(squares) / np.float32(count) + eps)))
    for at in range(0, count * 4, 32):
        even = rounded(multiply(load(x + at, fp32), factor), like)
        store(out + at, rounded(multiply(even, load(weight, like)), like), fp32)
        weight += eight_bytes(like)


@compiled
def add_bias(x, bias, count, like):
    """Add the bias, stored as `like`, and round."""
    for at in range(0, count * 4, 32):
        store(x + at, rounded(add(load(x + at, fp32), load(bias, like)), like), fp32)
        bias += eight_bytes(like)


@compiled
def clip(x, count, bound):
    """Bound every number by ± `bound`."""
    high, low = splat(bound), splat(-bound)
    for at in range(0, count * 4, 32):
        store(x + at, larger(smaller(load(x + at, fp32), high), low), fp32)


@compiled
def rotate(x, heads, head_dim, angles, like):
    """Rotate every head in place; `angles` has the row's cosines, then its sines, `head_dim` each."""
    half = head_dim * 2  # bytes
    for head in range(heads):
        at = x + head * head_dim * 4
        for part in range(0, half, 32):
            first, second = load(at + part, fp32), load(at + half + part, fp32)
            cosine, sine = load(angles + part, fp32), load(angles + head_dim * 4 + part, fp32)
            turned = subtract(rounded(multiply(first, cosine), like), rounded(multiply(second, sine), like))
            cosine, sine = load(angles + half + part, fp32), load(angles + head_dim * 4 + half + part, fp32)
            other = add(rounded(multiply(second, cosine), like), rounded(multiply(first, sine), like))
            store(at + part, rounded(turned, like), fp32)
            store(at + half + part, rounded(other, like), fp32)


@compiled
def keep(x, heads, head_dim, pages, head_bytes, like):
    """Write one position's keys or values to its page: heads are `head_bytes` apart there."""
    eight = eight_bytes(like)
    for head in range(heads):
        to = pages + head * head_bytes
        for part in range(head_dim // 8):
            store(to + part * eight, load(x + (head * head_dim + part * 8) * 4, fp32), like)


@compiled
def add_rounded(x, more, count, like):
    """x + more, rounded, in place of x."""
    for at in range(0, count * 4, 32):
        store(x + at, rounded(add(load(x + at, fp32), load(more + at, fp32)), like), fp32)


@compiled
def gated(gate, up, count, out, like):
    """silu(gate) · up of products that are not rounded yet."""
    for at in range(0, count * 4, 32):
        g = rounded(load(gate + at, fp32), like)
        activated = rounded(divide(g, add(splat(_one), exp(subtract(zeros(), g)))), like)
        store(out + at, rounded(multiply(activated, rounded(load(up + at, fp32), like)), like), fp32)


@compiled
def route(x, gate, hidden, experts, top_k, normalise, wide, scratch, chosen, shares, like):
    """The experts of one row, best first, and their shares.

    `scratch` is room for the experts' numbers, a multiple of eight; of equal scores the lower number is chosen.
    """
    row = hidden // 8 * eight_bytes(like)
    lanes = (experts + 7) // 8 * 8
    best = np.float32(-np.inf)
    run_of_dots(x, gate, row, 0, 1, hidden, hidden, 0, experts, scratch, like)
    round_run(scratch, experts, like)
    for expert in range(experts):
        best = max(best, peek(scratch + expert * 4))
    for expert in range(experts, lanes):
        poke(scratch + expert * 4, np.float32(-np.inf))
    sums = zeros()
    for at in range(0, lanes * 4, 32):
        share = exp(subtract(load(scratch + at, fp32), splat(best)))
        store(scratch + at, share, fp32)
        sums = add(sums, share)
    whole = total(sums)
    picked = np.float32(0.0)
    for rank in range(top_k):
        most, which = np.float32(-1.0), 0
        for expert in range(experts):
            share = peek(scratch + expert * 4)
            if share > most:
                most, which = share, expert
        poke(scratch + which * 4, np.float32(-2.0))
        chosen[rank] = which
        shares[rank] = most / whole
        picked += shares[rank]
    for rank in range(top_k):
        share = shares[rank] / picked if normalise else shares[rank]
        shares[rank] = share if wide else rounded_one(share, like)


@compiled
def mix(outputs, stride, slots, chosen, shares, hidden, wide, out, like):
    """The experts' outputs by share, summed from the lowest expert to the highest, rounded."""
    top_k = len(chosen)
    for at in range(0, hidden * 4, 32):
        store(out + at, zeros(), fp32)
    last = -1
    for _ in range(top_k):
        rank, lowest = -1, 1 << 40
        for other in range(top_k):
            if last < chosen[other] < lowest:
                rank, lowest = other, chosen[other]
        if rank < 0:
            break
        last = lowest
        share, of = splat(shares[rank]), outputs + slots[rank] * stride
        for at in range(0, hidden * 4, 32):
            part = multiply(rounded(load(of + at, fp32), like), share)
            if wide:
                store(out + at, add(load(out + at, fp32), part), fp32)
            else:
                store(out + at, rounded(add(load(out + at, fp32), rounded(part, like)), like), fp32)
    for at in range(0, hidden * 4, 32):
        store(out + at, rounded(load(out + at, fp32), like), fp32)


@compiled
def add_shared(mixed, x, gate, output, hidden, like):
    """Add the shared expert's output, times the sigmoid of its own gate."""
    score = rounded_one(dot(x, gate, 0, 1, hidden, hidden, like), like)
    share = splat(rounded_one(np.float32(1.0) / (_one + np.float32(math.exp(-score))), like))
    for at in range(0, hidden * 4, 32):
        part = rounded(multiply(rounded(load(output + at, fp32), like), share), like)
        store(mixed + at, rounded(add(load(mixed + at, fp32), part), like), fp32)


@compiled
def finite(x, count):
    """Whether all of `count` numbers are."""
    found = zeros()
    at = 0
    while at + 8 <= count:
        v = load(x + at * 4, fp32)
        found = add(found, subtract(v, v))  # NaN for what is not finite
        at += 8
    rest = total(found)
    while at < count:
        rest += peek(x + at * 4) - peek(x + at * 4)
        at += 1
    return rest == np.float32(0.0)
