"""The whole step in jitted code: embeddings to scores, all threads together, without the interpreter in between.

Every thread runs `step`. Work of a phase is taken piece by piece (`meeting`); whoever ends the last piece does what
one thread must do alone, and opens the next phase. Nothing here allocates: tables of addresses and room
for every intermediate are handed in (`fused_step` lays them out, and says what stands in which column).
"""

from __future__ import annotations

import math

import numpy as np

from blyan.model.argument_table import floats1, floats2, ints1, ints2, ints3
from blyan.model.fused_attention import attend_rows
from blyan.model.fused_experts import group_rows, lower_rows, mix_rows, raise_rows
from blyan.model.fused_layout import (
    ATTENDED,
    ATTENTION,
    EMBED,
    EXPERTS,
    GATE,
    HEAD,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    INPUT_NORM,
    K_NORM,
    KEYS,
    KV_HEADS,
    LAYERS,
    MOE,
    NEW_KEYS,
    NEW_VALUES,
    NORMALISE,
    NORMED,
    PAGES,
    PANEL_BYTES,
    PANELS,
    POST_NORM,
    PROJECTED,
    Q_NORM,
    QK_NORM,
    QUERIES,
    ROUTING,
    SCORE_BYTES,
    SCORES,
    TOP_K,
    VALUES,
    VOCAB,
    WIDE,
    WINDOW,
    K,
    O,
    Q,
    V,
    X,
)
from blyan.model.fused_rows import add_bias, add_rounded, clip, finite, keep, norm, rotate, route
from blyan.model.jit import compiled, entry
from blyan.model.kernels import matrix_at, pieces_of, product, round_run, span_of
from blyan.model.meeting import (
    GO,
    STOP,
    begin,
    begun,
    finish,
    give_way,
    last,
    next_piece,
    open_next,
    pass_on,
    pause,
    read_shared,
    rows_at_once,
)
from blyan.model.simd import eight_bytes, fp32, load, store


@compiled
def _project(piece, x, inner, rows, table, columns, widths, outs, listed, room, kind, like, wide):
    """A piece of the products of the same rows with some of a layer's matrices, with bias and rounding."""
    which = 0
    while piece >= pieces_of(table[columns[which] + 1], widths[which]):
        piece -= pieces_of(table[columns[which] + 1], widths[which])
        which += 1
    span = span_of(table[columns[which] + 1], widths[which])
    width, out, bias = widths[which], outs[which], table[columns[which] + 5]
    start = piece * span
    end = min(start + span, width)
    matrix = matrix_at(table, columns[which])
    product(x, inner * 4, listed, rows, matrix, inner, start, end, out, width * 4, kind, wide, room)
    for row in range(rows):
        at = out + (row * width + start) * 4
        if bias:
            add_bias(at, bias + start // 8 * eight_bytes(like), end - start, like)
        else:
            round_run(at, end - start, like)


@compiled
def _asked(team, layer, dims, floats, trunk, places, rows, few, nothing, room, kind, like, wide):
    """Queries, keys and values of every row. `few`: whoever ends the last piece places them too (`_placed`)."""
    hidden, table, count = dims[HIDDEN], trunk[layer], len(rows)
    width, narrow = dims[HEADS] * dims[HEAD_DIM], dims[KV_HEADS] * dims[HEAD_DIM]
    outs = places[QUERIES], places[NEW_KEYS], places[NEW_VALUES]
    columns, widths = (Q, K, V), (width, narrow, narrow)
    whole = pieces_of(table[Q + 1], width) + pieces_of(table[K + 1], narrow) + pieces_of(table[V + 1], narrow)
    while True:
        piece = next_piece(team, whole)
        if piece >= whole:
            return
        x = places[NORMED]
        _project(piece, x, hidden, count, table, columns, widths, outs, nothing, room, kind, like, wide)
        if last(team, whole):
            if few:
                for row in range(count):
                    _place(row, layer, dims, floats, trunk, places, rows, like)
            open_next(team)


@compiled
def _answered(team, layer, dims, floats, trunk, places, work, few, room, kind, like, wide):
    """What attention gave, through its last matrix. `few`: whoever ends the last piece routes the rows too."""
    sizes, all_rows, _, _, _, _, chosen, shares, slots, listed, ranges = work
    rows, hidden, inner, table = all_rows[: sizes[0]], dims[HIDDEN], dims[HEADS] * dims[HEAD_DIM], trunk[layer]
    out, nothing, count = places[PROJECTED], listed[:0], len(rows)
    columns, widths, outs = (O, O, O), (hidden, hidden, hidden), (out, out, out)
    whole = pieces_of(table[O + 1], hidden)
    while True:
        piece = next_piece(team, whole)
        if piece >= whole:
            return
        x = places[ATTENDED]
        _project(piece, x, inner, count, table, columns, widths, outs, nothing, room, kind, like, wide)
        if last(team, whole):
            if few:
                for row in range(count):
                    _route(row, layer, dims, floats, trunk, places, chosen, shares, like)
                group_rows(layer, dims, trunk, rows, chosen, listed, slots, ranges)
            open_next(team)


@compiled
def _embedded(team, dims, floats, trunk, places, rows, like):
    """Embeddings of the tokens, and the first norm."""
    hidden = dims[HIDDEN]
    stride = hidden // 8 * eight_bytes(like)
    at_once = rows_at_once(team, len(rows))
    whole = max(1, (len(rows) + at_once - 1) // at_once)
    while True:
        piece = next_piece(team, whole)
        if piece >= whole:
            return
        for row in range(piece * at_once, min((piece + 1) * at_once, len(rows))):
            of, to = places[EMBED] + rows[row, 0] * stride, places[X] + row * hidden * 4
            for part in range(hidden // 8):
                store(to + part * 32, load(of + part * eight_bytes(like), like), fp32)
            norm(to, trunk[0, INPUT_NORM], hidden, floats[0], places[NORMED] + row * hidden * 4, like)
        finish(team, whole)


@compiled
def _placed(team, layer, dims, floats, trunk, places, rows, like):
    """Norms, clipping and rotation of queries and keys; keys and values into their pages."""
    at_once = rows_at_once(team, len(rows))
    whole = max(1, (len(rows) + at_once - 1) // at_once)
    while True:
        piece = next_piece(team, whole)
        if piece >= whole:
            return
        for row in range(piece * at_once, min((piece + 1) * at_once, len(rows))):
            _place(row, layer, dims, floats, trunk, places, rows, like)
        finish(team, whole)


@compiled
def _place(row, layer, dims, floats, trunk, places, rows, like):
    heads, kv_heads, head_dim = dims[HEADS], dims[KV_HEADS], dims[HEAD_DIM]
    wide, narrow = heads * head_dim, kv_heads * head_dim
    head_bytes = 32 * head_dim // 8 * eight_bytes(like)
    eps, bound = floats[0], floats[1]
    q, k = places[QUERIES] + row * wide * 4, places[NEW_KEYS] + row * narrow * 4
    v = places[NEW_VALUES] + row * narrow * 4
    if dims[QK_NORM] == 2:
        norm(q, trunk[layer, Q_NORM], wide, eps, q, like)
        norm(k, trunk[layer, K_NORM], narrow, eps, k, like)
    if bound > 0:
        clip(q, wide, bound)
        clip(k, narrow, bound)
        clip(v, narrow, bound)
    if dims[QK_NORM] == 1:
        for head in range(heads):
            at = q + head * head_dim * 4
            norm(at, trunk[layer, Q_NORM], head_dim, eps, at, like)
        for head in range(kv_heads):
            at = k + head * head_dim * 4
            norm(at, trunk[layer, K_NORM], head_dim, eps, at, like)
    rotate(q, heads, head_dim, rows[row, 1], like)
    rotate(k, kv_heads, head_dim, rows[row, 1], like)
    slot = (layer * dims[PAGES] + rows[row, 2]) * kv_heads * head_bytes
    slot += rows[row, 3] * head_dim // 8 * eight_bytes(like)
    keep(k, kv_heads, head_dim, places[KEYS] + slot, head_bytes, like)
    keep(v, kv_heads, head_dim, places[VALUES] + slot, head_bytes, like)


@compiled
def _attended(team, layer, dims, trunk, places, tasks, tables, like):
    """Attention of every run, a few rows of one key head at a time."""
    heads, kv_heads, head_dim = dims[HEADS], dims[KV_HEADS], dims[HEAD_DIM]
    group = heads // kv_heads
    head_bytes = 32 * head_dim // 8 * eight_bytes(like)
    stride = heads * head_dim * 4
    scale = np.float32(1.0 / math.sqrt(head_dim))
    scores = places[ATTENTION] + team[2] * 2 * places[SCORE_BYTES]
    whole = len(tasks) * kv_heads
    while True:
        piece = next_piece(team, whole)
        if piece >= whole:
            return
        task, head = piece // kv_heads, piece % kv_heads
        first, count, start = tasks[task, 0], tasks[task, 1], tasks[task, 2]
        offset = first * stride + head * group * head_dim * 4
        of = layer * dims[PAGES] * kv_heads * head_bytes + head * head_bytes
        pool = places[KEYS] + of, places[VALUES] + of, kv_heads * head_bytes, tables[tasks[task, 3] :]
        q, out = places[QUERIES] + offset, places[ATTENDED] + offset
        window, apart = trunk[layer, WINDOW], places[SCORE_BYTES]
        attend_rows(q, stride, out, stride, start, count, group, head_dim, scale, window, pool, scores, apart, like)
        finish(team, whole)


@compiled
def _routed(team, layer, dims, floats, trunk, places, rows, chosen, shares, listed, slots, ranges, like):
    """The residual after attention, the second norm, and the experts of every row; then the rows of every expert."""
    at_once = rows_at_once(team, len(rows))
    whole = max(1, (len(rows) + at_once - 1) // at_once)
    while True:
        piece = next_piece(team, whole)
        if piece >= whole:
            return
        for row in range(piece * at_once, min((piece + 1) * at_once, len(rows))):
            _route(row, layer, dims, floats, trunk, places, chosen, shares, like)
        if last(team, whole):
            group_rows(layer, dims, trunk, rows, chosen, listed, slots, ranges)
            open_next(team)


@compiled
def _route(row, layer, dims, floats, trunk, places, chosen, shares, like):
    hidden = dims[HIDDEN]
    at, to = places[X] + row * hidden * 4, places[NORMED] + row * hidden * 4
    add_rounded(at, places[PROJECTED] + row * hidden * 4, hidden, like)
    norm(at, trunk[layer, POST_NORM], hidden, floats[0], to, like)
    if trunk[layer, MOE] > 0:
        room, gate = places[ROUTING] + row * ((dims[EXPERTS] + 7) // 8 * 8) * 4, trunk[layer, GATE]
        picked, given = chosen[trunk[layer, MOE] - 1, row], shares[row]
        route(to, gate, hidden, dims[EXPERTS], dims[TOP_K], dims[NORMALISE], dims[WIDE], room, picked, given, like)


@compiled
def _scored(team, dims, places, scored, bad, room, like):
    """Scores over the vocabulary of the rows that are asked for; those that are not all finite are noted as bad."""
    hidden, vocab = dims[HIDDEN], dims[VOCAB]
    stride = hidden // 8 * eight_bytes(like)
    span = span_of(stride, vocab)
    whole = pieces_of(stride, vocab)
    while True:
        piece = next_piece(team, whole)
        if piece >= whole:
            return
        start = piece * span
        end = min(start + span, vocab)
        matrix = places[HEAD], stride, 0, 1, hidden
        x, out = places[NORMED], places[SCORES]
        product(x, hidden * 4, scored, len(scored), matrix, hidden, start, end, out, vocab * 4, like, fp32, room)
        for row in range(len(scored)):
            at = out + (row * vocab + start) * 4
            round_run(at, end - start, like)
            if not finite(at, end - start):
                bad[row] = 1
        finish(team, whole)


@compiled
def _chosen(team, layer, dims, floats, trunk, places, work, few, room, kind, like, into):
    """Attention of a layer, and the experts of every row; the team in the next phase."""
    sizes, all_rows, all_tasks, tables, _, _, chosen, shares, slots, listed, ranges = work
    rows, tasks = all_rows[: sizes[0]], all_tasks[: sizes[1]]
    _asked(team, layer, dims, floats, trunk, places, rows, few, listed[:0], room, kind, like, into)
    team = pass_on(team)
    if not few:
        _placed(team, layer, dims, floats, trunk, places, rows, like)
        team = pass_on(team)
    _attended(team, layer, dims, trunk, places, tasks, tables, like)
    team = pass_on(team)
    _answered(team, layer, dims, floats, trunk, places, work, few, room, kind, like, into)
    team = pass_on(team)
    if not few:
        _routed(team, layer, dims, floats, trunk, places, rows, chosen, shares, listed, slots, ranges, like)
        team = pass_on(team)
    return team


@compiled
def _entered(team, layer, dims, floats, trunk, places, rows, like):
    """The first norm of a layer whose hidden states were handed in."""
    hidden = dims[HIDDEN]
    at_once = rows_at_once(team, len(rows))
    whole = max(1, (len(rows) + at_once - 1) // at_once)
    while True:
        piece = next_piece(team, whole)
        if piece >= whole:
            return
        for row in range(piece * at_once, min((piece + 1) * at_once, len(rows))):
            at = row * hidden * 4
            norm(places[X] + at, trunk[layer, INPUT_NORM], hidden, floats[0], places[NORMED] + at, like)
        finish(team, whole)


@compiled
def _step(thread, threads, shared, announced, dims, floats, trunk, experts, places, work, kind, like, into):
    """The announced parts of a step, as one of `threads` threads. `work` has room for more than `sizes` tells."""
    first, of, to, few = announced
    sizes, all_rows, _, _, all_scored, all_bad, chosen, shares, slots, listed, ranges = work
    rows = all_rows[: sizes[0]]
    scored, bad = all_scored[: sizes[2]], all_bad[: sizes[2]]
    team = (shared, first, thread, threads)
    room = places[PANELS] + thread * places[PANEL_BYTES]
    if of == 0:
        _embedded(team, dims, floats, trunk, places, rows, like)
        team = pass_on(team)
    for layer in range(max(0, of - 1) // 3, min(dims[LAYERS], (to + 1) // 3)):
        part = 1 + 3 * layer
        if part == of:
            _entered(team, layer, dims, floats, trunk, places, rows, like)
            team = pass_on(team)
        if of <= part < to:
            team = _chosen(team, layer, dims, floats, trunk, places, work, few, room, kind, like, into)
        mixed = few == 1 and part + 2 < to
        if of <= part + 1 < to:
            raise_rows(team, layer, dims, trunk, experts, places, listed, ranges, room, kind, like, into)
            team = pass_on(team)
            lower_rows(team, layer, dims, floats, trunk, experts, places, work, mixed, room, kind, like, into)
            team = pass_on(team)
        if of <= part + 2 < to and not (mixed and of <= part + 1):
            mix_rows(team, layer, dims, floats, trunk, places, rows, chosen, shares, slots, ranges, like)
            team = pass_on(team)
    if to > 1 + 3 * dims[LAYERS]:
        _scored(team, dims, places, scored, bad, room, like)
        pass_on(team)


@entry
def serve(thread, threads, seen, patience, once, table, kind, like, into):
    """Run every step that is announced after number `seen`, until none comes for a while; the last number seen.

    With `once`, return after the first. `table` tells of the arrays (`argument_table`) in the order of the lines below.
    """
    shared, dims, floats = ints1(table, 0), ints1(table, 1), floats1(table, 2)
    trunk, experts, places = ints2(table, 3), ints3(table, 4), ints1(table, 5)
    sizes, rows, tasks, pages = ints1(table, 6), ints2(table, 7), ints2(table, 8), ints1(table, 9)
    scored, bad, chosen = ints1(table, 10), ints1(table, 11), ints3(table, 12)
    shares, slots, listed, ranges = floats2(table, 13), ints2(table, 14), ints1(table, 15), ints2(table, 16)
    work = sizes, rows, tasks, pages, scored, bad, chosen, shares, slots, listed, ranges
    address = shared.ctypes.data + GO * 8
    while True:
        looks = 0
        while read_shared(address) == seen:
            looks += 1
            pause()
            if looks % 64 == 0:
                give_way()
            if looks > patience:
                return seen
        seen = read_shared(address)
        # a latecomer may find the first phase of a later step here: then it takes part in that one
        announced = begun(shared)
        if shared[STOP]:  # looked at last: what ends the threads is announced as a step whose phases never come
            return seen
        _step(thread, threads, shared, announced, dims, floats, trunk, experts, places, work, kind, like, into)
        if once:
            return seen


@entry
def announce(shared, of, to, few):
    """Make the other threads look up: the parts `of` to `to` of a step are to be computed. `few`: of so few rows (1)
    that what is done to single rows is done by whoever ends the phase before: it would be one piece of work anyway.
    """
    begin(shared, of, to, few)
