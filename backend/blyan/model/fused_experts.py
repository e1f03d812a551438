"""The mixture of a layer in jitted code: rows sorted by expert, every expert's products, and their sum by share.

A shared expert, or the MLP of a layer without experts, is one more expert that every row goes to.
"""

from __future__ import annotations

from blyan.model.fused_layout import (
    DOWN,
    EXPERTS,
    EXTRA_INNER,
    FINAL_NORM,
    GATED,
    HIDDEN,
    INNER,
    INPUT_NORM,
    LAYERS,
    LOWERED,
    MIXED,
    MOE,
    NORMED,
    RAISED,
    ROOM,
    SHARED_GATE,
    TOP_K,
    UP,
    UP_GATE,
    WIDE,
    X,
)
from blyan.model.fused_rows import add_rounded, add_shared, gated, mix, norm
from blyan.model.jit import compiled
from blyan.model.kernels import matrix_at, pieces_of, product, round_run, span_of
from blyan.model.meeting import finish, last, next_piece, open_next, rows_at_once


@compiled
def group_rows(layer, dims, trunk, rows, chosen, listed, slots, ranges):
    """Sort pairs (row, expert) by expert. ranges: [experts + 1, 3] of expert, first slot, rows; how many are used."""
    experts, count = dims[EXPERTS], len(rows)
    used = first = 0
    if trunk[layer, MOE] > 0:
        picks = chosen[trunk[layer, MOE] - 1]
        for expert in range(experts):
            ranges[expert, 3] = 0
        for row in range(count):
            for rank in range(dims[TOP_K]):
                ranges[picks[row, rank], 3] += 1
        for expert in range(experts):
            taken = ranges[expert, 3]
            ranges[expert, 3] = first
            if taken:
                ranges[used, 0], ranges[used, 1], ranges[used, 2] = expert, first, taken
                used += 1
            first += taken
        for row in range(count):
            for rank in range(dims[TOP_K]):
                slot = ranges[picks[row, rank], 3]
                ranges[picks[row, rank], 3] = slot + 1
                listed[slot], slots[row, rank] = row, slot
    if trunk[layer, EXTRA_INNER]:
        ranges[used, 0], ranges[used, 1], ranges[used, 2] = experts, first, count
        used += 1
        for row in range(count):
            listed[first + row] = row
    ranges[experts + 1, 0] = used
    ranges[experts + 1, 1] = first


@compiled
def _pieces(dims, experts, layer, column, extra, plain, ranges):
    """How many pieces of work one product of all experts is."""
    whole = 0
    for which in range(ranges[dims[EXPERTS] + 1, 0]):
        expert = ranges[which, 0]
        whole += pieces_of(experts[layer, expert, column + 1], extra if expert == dims[EXPERTS] else plain)
    return whole


@compiled
def _piece(piece, dims, experts, layer, column, extra, plain, ranges):
    """Which expert a piece of work belongs to, and its outputs: (place in `ranges`, begin, end)."""
    which = 0
    while True:
        expert = ranges[which, 0]
        width = extra if expert == dims[EXPERTS] else plain
        stride = experts[layer, expert, column + 1]
        if piece < pieces_of(stride, width):
            span = span_of(stride, width)
            return which, piece * span, min((piece + 1) * span, width)
        piece -= pieces_of(stride, width)
        which += 1


@compiled
def raise_rows(team, layer, dims, trunk, experts, places, listed, ranges, widening, kind, like, wide):
    """Gate and up products of every expert's rows, and what comes of them."""
    hidden, extra, stride = dims[HIDDEN], trunk[layer, EXTRA_INNER], places[RAISED] - places[GATED]
    room = dims[ROOM] * 4  # bytes of a slot
    whole = _pieces(dims, experts, layer, UP_GATE, extra, dims[INNER], ranges)
    while True:
        piece = next_piece(team, whole)
        if piece >= whole:
            return
        which, begin, end = _piece(piece, dims, experts, layer, UP_GATE, extra, dims[INNER], ranges)
        expert, first, count = ranges[which, 0], ranges[which, 1], ranges[which, 2]
        table, of = experts[layer, expert], listed[first : first + count]
        gate = places[GATED] + first * room
        x = places[NORMED]
        for up in range(2):
            matrix = matrix_at(table, UP if up else UP_GATE)
            product(
                x, hidden * 4, of, count, matrix, hidden, begin, end, gate + up * stride, room, kind, wide, widening
            )
        for row in range(count):
            at = gate + row * room + begin * 4
            gated(at, at + stride, end - begin, at, like)
        finish(team, whole)


@compiled
def lower_rows(team, layer, dims, floats, trunk, experts, places, work, few, widening, kind, like, wide):
    """Down products of every expert's rows. `few`: whoever ends the last one mixes them too (`mix_rows`)."""
    sizes, _, _, _, _, _, chosen, shares, slots, listed, ranges = work
    nothing = listed[:0]
    hidden, extra, room = dims[HIDDEN], trunk[layer, EXTRA_INNER], dims[ROOM] * 4
    whole = _pieces(dims, experts, layer, DOWN, hidden, hidden, ranges)
    while True:
        piece = next_piece(team, whole)
        if piece >= whole:
            return
        which, begin, end = _piece(piece, dims, experts, layer, DOWN, hidden, hidden, ranges)
        expert, first, count = ranges[which, 0], ranges[which, 1], ranges[which, 2]
        inner = extra if expert == dims[EXPERTS] else dims[INNER]
        x, out = places[GATED] + first * room, places[LOWERED] + first * hidden * 4
        matrix = matrix_at(experts[layer, expert], DOWN)
        product(x, room, nothing, count, matrix, inner, begin, end, out, hidden * 4, kind, wide, widening)
        if last(team, whole):
            if few:
                for row in range(sizes[0]):
                    _mixed(row, layer, dims, floats, trunk, places, chosen, shares, slots, ranges, like)
            open_next(team)


@compiled
def mix_rows(team, layer, dims, floats, trunk, places, rows, chosen, shares, slots, ranges, like):
    """The residual after the experts, and the next norm."""
    at_once = rows_at_once(team, len(rows))
    whole = max(1, (len(rows) + at_once - 1) // at_once)
    while True:
        piece = next_piece(team, whole)
        if piece >= whole:
            return
        for row in range(piece * at_once, min((piece + 1) * at_once, len(rows))):
            _mixed(row, layer, dims, floats, trunk, places, chosen, shares, slots, ranges, like)
        finish(team, whole)


@compiled
def _mixed(row, layer, dims, floats, trunk, places, chosen, shares, slots, ranges, like):
    """The residual of one row after the experts, and the next norm."""
    hidden, top_k = dims[HIDDEN], dims[TOP_K]
    at, to = places[X] + row * hidden * 4, places[NORMED] + row * hidden * 4
    more, lowered = places[MIXED] + row * hidden * 4, places[LOWERED]
    extra = lowered + (ranges[dims[EXPERTS] + 1, 1] + row) * hidden * 4
    if trunk[layer, MOE] > 0:
        picks = chosen[trunk[layer, MOE] - 1, row]
        mix(lowered, hidden * 4, slots[row], picks[:top_k], shares[row], hidden, dims[WIDE], more, like)
        if trunk[layer, EXTRA_INNER]:
            add_shared(more, to, trunk[layer, SHARED_GATE], extra, hidden, like)
    else:
        round_run(extra, hidden, like)
        more = extra
    add_rounded(at, more, hidden, like)
    weight = places[FINAL_NORM] if layer + 1 == dims[LAYERS] else trunk[layer + 1, INPUT_NORM]
    if weight:  # else what follows is computed elsewhere
        norm(at, weight, hidden, floats[0], to, like)
