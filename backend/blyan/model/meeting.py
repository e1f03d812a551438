"""How the threads of a step meet: numbers that they share, pieces of work taken one by one, waiting for the last.

A thread that waits looks for a while, then lets others have its core between looks. Nobody sleeps within a step.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import types

from blyan.model.jit import compiled
from blyan.model.simd import at_address, call, instruction

_line = 8  # int64 numbers in a cache line: each number that several threads write has one of its own
PHASE, GO, STOP = 2 * _line, 3 * _line, 4 * _line
_counters = 5  # line of the first: two of each thread, for phases of even and of odd number
_patience = 4096  # looks at a shared number before another thread may have the core
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
def give_way(_typing: Any) -> Any:
    """Let another thread have this core (POSIX sched_yield)."""

    def code(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        call(builder, "sched_yield", _i32)
        return context.get_dummy_value()

    return types.void(), code


# What follows takes a team: (shared numbers, number of the phase, number of this thread, how many there are).


@compiled
def meet(team):
    """Wait for all threads; True for the last, which must call `release`."""
    shared, phase, _, threads = team
    address = shared.ctypes.data
    if take_number(address) == (phase + 1) * threads - 1:
        for thread in range(threads):
            write_shared(address + (_counters + 2 * thread + phase % 2) * _line * 8, 0)
        return True
    looks = 0
    while read_shared(address + _line * 8) <= phase:
        looks += 1
        pause()
        if looks > _patience and looks % 64 == 0:
            give_way()
    return False


@compiled
def release(team):
    """Let the others go on after this phase."""
    write_shared(team[0].ctypes.data + _line * 8, team[1] + 1)


@compiled
def following(team):
    """The team in its next phase."""
    return team[0], team[1] + 1, team[2], team[3]


@compiled
def pass_on(team):
    """Meet, with nothing to do in between; the team in its next phase."""
    if meet(team):
        release(team)
    return following(team)


@compiled
def next_piece(team, pieces):
    """The next of the phase's `pieces` of work for this thread; `pieces` when none is left.

    Each thread has its own stretch, so that what it asks for ahead of use is its own next piece; who has finished takes
    from the others' stretches.
    """
    shared, phase, thread, threads = team
    for step in range(threads):
        of = (thread + step) % threads
        begin, end = pieces * of // threads, pieces * (of + 1) // threads
        piece = begin + take_number(shared.ctypes.data + (_counters + 2 * of + phase % 2) * _line * 8)
        if piece < end:
            return piece
    return pieces


def shared_numbers(threads: int) -> int:
    """How many int64 numbers a team shares."""
    return (_counters + 2 * threads) * _line
