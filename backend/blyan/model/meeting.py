"""How the threads of a step share its phases: pieces of work taken one by one, and whoever ends the last goes on.

A phase is over when its pieces are done, not when all threads have come: one that lost its core while it held nothing
is waited for by nobody, and finds its way to where the others are by passing the phases that are over. So a counter of
pieces names its phase, and is only moved on by whoever works in that phase; what a latecomer reads of tables that have
changed since comes to nothing. A thread that waits looks for a while, then lets others have its core between looks.
Nobody sleeps within a step.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import types

from blyan.model.jit import compiled
from blyan.model.simd import at_address, call, instruction

_line = 8  # int64 numbers in a cache line: each number that several threads write has one of its own
DONE, PHASE, GO, STOP, FIRST = 0, _line, 2 * _line, 3 * _line, 4 * _line
_counters = 5  # line of the first: one of each thread
_bits = 24  # of a counter that say how many pieces are taken; the others name the phase
_names = (1 << 39) - 1  # phases that differ by no more than this have different names
_part_bits = 12  # of a number that names a part of a step (`fused_layout`)
_told_bits = 2 * _part_bits + 1  # of what is announced beside the first phase
_firsts = (1 << 63 - _told_bits) - 1  # first phases that differ by no more than this are told apart
_patience = 1024  # looks at a shared number before another thread may have the core: some twenty microseconds
_waiting = {"x86_64": "llvm.x86.sse2.pause", "AMD64": "llvm.x86.sse2.pause"}.get(platform.machine())
_i32, _i64 = ir.IntType(32), ir.IntType(64)


@instruction
def pause(_typing: Any) -> Any:
    """Tell the core that this is a loop which waits."""

    def code(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        if _waiting is not None:
            call(builder, _waiting, ir.VoidType())
        return context.get_dummy_value()

    return types.void(), code


@instruction
def take_number(_typing: Any, address: Any) -> Any:
    """The int64 at an address, which is one more afterwards: atomically, so that no two threads get the same."""

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", at_address(builder, arguments[0], _i64), ir.Constant(_i64, 1), "seq_cst")

    return types.int64(types.int64), code


@instruction
def read_shared(_typing: Any, address: Any) -> Any:
    """An int64 that another thread may write; what it wrote before is seen after."""

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(at_address(builder, arguments[0], _i64), "acquire", 8)

    return types.int64(types.int64), code


@instruction
def write_shared(_typing: Any, address: Any, number: Any) -> Any:
    """Write an int64 for another thread, after everything that was written before."""

    def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        builder.store_atomic(arguments[1], at_address(builder, arguments[0], _i64), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


@instruction
def exchanged(_typing: Any, address: Any, old: Any, new: Any) -> Any:
    """Write `new` where `old` stands; whether it stood there: atomically."""

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        address, old, new = arguments
        found = builder.cmpxchg(at_address(builder, address, _i64), old, new, "acq_rel", "acquire")
        return builder.extract_value(found, 1)

    return types.boolean(types.int64, types.int64, types.int64), code


@instruction
def give_way(_typing: Any) -> Any:
    """Let another thread have this core (POSIX sched_yield)."""

    def code(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        call(builder, "sched_yield", _i32)
        return context.get_dummy_value()

    return types.void(), code


# What follows takes a team: (shared numbers, number of the phase, number of this thread, how many there are).


@compiled
def begin(shared, of, to, few):
    """Announce the parts `of` to `to` of a step of `few` rows (1) or many (0), whose first phase is the next. For one
    thread, while no other holds a piece. All lie in one number: a latecomer must not pass the phases of one step as if
    they were another's, so nothing else decides how many there are.
    """
    address = shared.ctypes.data
    first = read_shared(address + PHASE * 8) & _firsts
    write_shared(address + FIRST * 8, first << _told_bits | few << 2 * _part_bits | of << _part_bits | to)
    take_number(address + GO * 8)


@compiled
def begun(shared):
    """What was announced last: the first phase, the parts of the step, and whether its rows are few."""
    address = shared.ctypes.data
    found = read_shared(address + FIRST * 8)
    now, mask = read_shared(address + PHASE * 8), (1 << _part_bits) - 1
    first = now - (now - (found >> _told_bits) & _firsts)
    return first, found >> _part_bits & mask, found & mask, found >> 2 * _part_bits & 1


@compiled
def next_piece(team, pieces):
    """The next of the phase's `pieces` of work for this thread; `pieces` when none is left.

    Each thread has its own stretch, so that what it asks for ahead of use is its own next piece; who has finished takes
    from the others' stretches. Whoever gets a piece must `finish` it.
    """
    shared, phase, thread, threads = team
    for step in range(threads):
        of = (thread + step) % threads
        first, end = pieces * of // threads, pieces * (of + 1) // threads
        address = shared.ctypes.data + (_counters + of) * _line * 8
        while True:
            counter = read_shared(address)
            if counter >> _bits != phase & _names:
                return pieces
            piece = first + (counter & ((1 << _bits) - 1))
            if piece >= end:
                break
            if exchanged(address, counter, counter + 1):
                return piece
    return pieces


@compiled
def last(team, pieces):
    """Note that a piece is done; True for the last of the phase's `pieces`: whoever did it must call `open_next`."""
    return take_number(team[0].ctypes.data + DONE * 8) == pieces - 1


@compiled
def open_next(team):
    """Let the next phase begin: all that was written before is seen in it."""
    shared, phase, _, threads = team
    address = shared.ctypes.data
    write_shared(address + DONE * 8, 0)
    for thread in range(threads):
        write_shared(address + (_counters + thread) * _line * 8, ((phase + 1) & _names) << _bits)
    write_shared(address + PHASE * 8, phase + 1)


@compiled
def finish(team, pieces):
    """A piece is done, and with the last one the phase."""
    if last(team, pieces):
        open_next(team)


@compiled
def pass_on(team):
    """Wait until the phase is over; the team in the next one."""
    shared, phase, thread, threads = team
    address = shared.ctypes.data + PHASE * 8
    looks = 0
    while read_shared(address) <= phase:
        looks += 1
        pause()
        if looks > _patience and looks % 64 == 0:
            give_way()
    return shared, phase + 1, thread, threads


@compiled
def rows_at_once(team, rows):
    """How many rows make a piece where rows are pieces, so that threads seldom ask and still end together."""
    return max(1, rows // (8 * team[3]))


def shared_numbers(threads: int) -> int:
    """How many int64 numbers a team shares."""
    return (_counters + threads) * _line
