"""What happens to an engine whose keys and values are gone: all that runs is computed again from its tokens.

The compute thread's alone.
"""

from __future__ import annotations

from blyan.inference.engine import Engine
from blyan.inference.pages import PagePool


def compute_again(engine: Engine, pages: int = 0) -> int:
    """Who runs keeps its place, and begins at its first token; nothing computed before is read. How many there were.

    What they shared each takes for itself, so that some may have to wait. `pages`: so many there are from now on.
    """
    order = sorted(engine.running.values(), key=lambda sequence: sequence.admitted)
    engine.running.clear()
    for sequence in order:
        assert sequence.held is not None, "it ran"
        engine.pool.release(sequence.held)
    engine.pool.forget_all()
    if pages:
        engine.pool = PagePool(pages, engine.pool.counters)
    for sequence in order:
        admitted = sequence.admitted
        sequence.restart()
        held = engine.pool.begin(sequence.tokens, share=sequence.shared)
        if engine.pool.extend(held, len(sequence.tokens)):
            sequence.begin(held, admitted)
            engine.running[sequence.id] = sequence
        else:
            engine.pool.release(held)
            engine.enqueue(sequence)
    return len(order)
