"""Which models count as loaded, how long, and when what they take is given back."""

from __future__ import annotations

import asyncio
import math

from batches import model_of
from blyan.model.loading import LoadedModel
from blyan.node.kept import KeptModels


def kept() -> tuple[KeptModels, list[LoadedModel]]:
    unloaded: list[LoadedModel] = []
    return KeptModels(lambda: 1_000, unloaded.append), unloaded


async def test_a_time_begins_when_the_last_use_ends() -> None:
    """Before that it is counted from now, and nothing ends it."""
    held, unloaded = kept()
    model = model_of()
    with held.using(model, 0.02):
        with held.using(model, None):
            await asyncio.sleep(0.05)
        assert (held.until(model.name), unloaded) == (1_000.02, [])
    assert held.until(model.name) == 1_000.02
    with held.using(model, None):  # and it begins anew
        await asyncio.sleep(0.05)
        assert unloaded == []
    await asyncio.sleep(0.1)
    assert (held.until(model.name), unloaded) == (None, [model])


async def test_what_was_said_stands_until_somebody_says_something_else() -> None:
    """Five minutes if nobody has; and again once it was let go."""
    held, unloaded = kept()
    model = model_of()
    for said, until in ((None, 1_300), (math.inf, math.inf), (None, math.inf), (60, 1_060), (None, 1_060)):
        with held.using(model, said):
            pass
        assert held.until(model.name) == until
    with held.using(model, 0):
        assert held.until(model.name) == 1_000
    assert (held.until(model.name), unloaded) == (None, [model])
    with held.using(model, None):
        pass
    assert held.until(model.name) == 1_300
    held.forget(model.name)


async def test_zero_waits_for_answers_under_way() -> None:
    """None of them is cut; an error on the way is an end too."""
    held, unloaded = kept()
    model = model_of()
    try:
        with held.using(model, None):
            with held.using(model, 0):
                pass
            assert unloaded == []
            raise ValueError
    except ValueError:
        pass
    assert unloaded == [model]


async def test_a_model_that_was_replaced_is_let_go_by_its_last_use() -> None:
    """And the new one of that name is its own."""
    held, unloaded = kept()
    old, new = model_of(), model_of()
    assert old.name == new.name
    with held.using(old, math.inf):
        held.forget(old.name)
        assert unloaded == []
        with held.using(new, None):
            pass
        assert held.until(new.name) == 1_300
    assert unloaded == [old]
    held.forget(new.name)
    held.forget(new.name)
    assert unloaded == [old, new]
