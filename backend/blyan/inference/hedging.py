"""Two ways to the same outputs, by a node and by replicas of what it holds: whichever is good first. For a loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from torch import Tensor

from blyan.primitives.errors import Fault

Outputs: TypeAlias = dict[int, Tensor | Fault]  # by index of the call
Asking: TypeAlias = Coroutine[Any, Any, Outputs]


async def either(
    node: Coroutine[Any, Any, Outputs | None], replicas: Asking, rest: Callable[[], Asking] | None
) -> Outputs:
    """What `node` gives of all, if that is something; else what `replicas` give, and `rest` of what only it has.

    `rest` asks once more, at once when the node failed. What comes too late is called off.
    """
    first, second = asyncio.ensure_future(node), asyncio.ensure_future(replicas)
    again: list[asyncio.Task[Outputs]] = []
    try:
        await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
        if first.done():
            if (answer := first.result()) is not None:
                return answer
            again += [asyncio.ensure_future(rest())] if rest else []
            return {index: each for part in await asyncio.gather(second, *again) for index, each in part.items()}
        found = second.result()
        lacking = rest is not None or any(isinstance(each, Fault) for each in found.values())
        if lacking and (answer := await first) is not None:
            return answer
        return found | (await rest() if rest else {})
    finally:
        for asking in (first, second, *again):
            asking.cancel()
